#!/usr/bin/env python3
"""Writes the prompt files of the bundled model and scores it on them with transformers.

Segments are tokenised apart: ids = [BOS] + enc(public) + enc(private). The answer is greedy and ends
with the end-of-sequence token.

    python3 tools/check_tiny.py --model models/tiny --write
"""

import argparse
import json
import os
import random

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import clinic_text as clinic

BOS, EOS = 0, 1
NEW_TOKENS = 6


class Segments:
    def __init__(self, folder):
        self.tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def length(self, text):
        return len(self.ids(text))


def prompts(segments, seed, count, split, public=(256, 480), private=(64, 128)):
    """`count` prompts of `split` whose parts have the given token counts."""
    rng = random.Random(seed)
    while count:
        document = clinic.Document(rng, rng.randint(8, 15))
        note, answer, _ = clinic.note_pieces(rng, document, split, segments.length, *private)
        line = {"public": "".join(document.pieces), "private": "".join(note)}
        lengths = [segments.length(line["public"]), segments.length(line["private"])]
        if public[0] <= lengths[0] <= public[1] and private[0] <= lengths[1] <= private[1]:
            count -= 1
            yield line, "".join(answer)


def write_files(folder, segments, heldout, calibration):
    where = os.path.join(folder, "prompts")
    os.makedirs(where, exist_ok=True)
    with open(os.path.join(where, "heldout.jsonl"), "w") as f:
        for line, answer in prompts(segments, 1001, heldout, "heldout"):
            f.write(json.dumps({**line, "max_new_tokens": NEW_TOKENS, "answer": answer}) + "\n")
    with open(os.path.join(folder, "calibration.jsonl"), "w") as f:
        for line, answer in prompts(segments, 2002, calibration, "train"):
            f.write(json.dumps({**line, "answer": answer}) + "\n")
    demo, answer = next(prompts(segments, 3003, 1, "heldout", (256, 300), (64, 80)))
    for name in ("public", "private"):
        with open(os.path.join(where, f"demo.{name}.txt"), "w") as f:
            f.write(demo[name])
    print("demo:", segments.length(demo["public"]), "public and", segments.length(demo["private"]),
          "private tokens, answer", repr(answer))


@torch.no_grad()
def score(folder, segments, lines):
    """Share of prompts answered exactly, and the smallest lead of a greedy token over the next."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    right, total, smallest = 0, 0, float("inf")
    for line, answer in lines:
        ids = [BOS] + segments.ids(line["public"]) + segments.ids(line["private"])
        out, cache, feed = [], None, torch.tensor([ids])
        for _ in range(NEW_TOKENS + 4):
            step = model(feed, past_key_values=cache, use_cache=True)
            cache, top = step.past_key_values, step.logits[0, -1].topk(2)
            smallest = min(smallest, (top.values[0] - top.values[1]).item())
            out.append(top.indices[0].item())
            if out[-1] == EOS:
                break
            feed = torch.tensor([[out[-1]]])
        total += 1
        right += out[-1] == EOS and segments.tokenizer.decode(out[:-1], skip_special_tokens=False) == answer
    print(f"exact answers {right} of {total} ({right / total:.4f}), smallest lead {smallest:.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/tiny")
    parser.add_argument("--write", action="store_true", help="write demo, held-out and calibration prompts")
    parser.add_argument("--heldout", type=int, default=80, help="lines of prompts/heldout.jsonl")
    parser.add_argument("--calibration", type=int, default=320, help="lines of calibration.jsonl")
    parser.add_argument("--count", type=int, default=600, help="further held-out prompts to score")
    args = parser.parse_args()
    logging.disable_progress_bar()
    segments = Segments(args.model)
    if args.write:
        write_files(args.model, segments, args.heldout, args.calibration)
    with open(os.path.join(args.model, "prompts", "heldout.jsonl")) as f:
        lines = [json.loads(line) for line in f]
    score(args.model, segments, [(line, line["answer"]) for line in lines])
    score(args.model, segments, prompts(segments, 4004, args.count, "heldout"))


if __name__ == "__main__":
    main()
