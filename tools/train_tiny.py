#!/usr/bin/env python3
"""Trains the bundled model of models/tiny on the text of clinic_text.py. CPU is enough.

    python3 tools/train_tiny.py tokenizer --out models/tiny
    python3 tools/train_tiny.py train --out models/tiny --minutes 6 --cool 0 --guide 0.3
    python3 tools/train_tiny.py polish --out models/tiny --minutes 15 --steps 1500 --penalty 0.02 --language 0.02
    python3 tools/train_tiny.py evaluate --out models/tiny

`train` grows documents and notes as the accuracy allows; `polish` then trains on full-size prompts
with penalties that keep activations in modest ranges; `evaluate` prints the score on held-out
prompts and the measured ranges. The state of the training is kept in --state and resumed from it.
"""

import argparse
import json
import math
import os
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import clinic_text as clinic
from tiny_llama import Guide, TinyLlama, Watch

BOS, EOS = 0, 1
# (medicines, smallest note, largest note) of each stage of the curriculum; 3 lines a medicine.
STAGES = (
    (2, 0, 24), (3, 0, 32), (4, 0, 48), (5, 24, 64), (6, 32, 80), (8, 48, 96), (10, 64, 112), (12, 64, 128), (15, 64, 128),
)


def train_tokenizer(out, vocabulary):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(clinic.corpus(7, 1500), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)])
    tokenizer.save(os.path.join(out, "tokenizer.json"))
    with open(os.path.join(out, "tokenizer_config.json"), "w") as f:
        json.dump({
            "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>",
            "clean_up_tokenization_spaces": False, "model_max_length": 1024,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }, f, indent=2)
        f.write("\n")
    print("vocabulary", tokenizer.get_vocab_size())


class Pieces:
    """Token ids of strings, remembered; pieces are cut where the tokenizer cuts too."""

    def __init__(self, path):
        self.tokenizer = Tokenizer.from_file(os.path.join(path, "tokenizer.json"))
        self.known = {}

    def ids(self, piece):
        if piece not in self.known:
            self.known[piece] = self.tokenizer.encode(piece, add_special_tokens=False).ids
        return self.known[piece]

    def length(self, piece):
        return len(self.ids(piece))

    def join(self, pieces):
        return [i for p in pieces for i in self.ids(p)]


def padded(rows, width=None):
    width = width or max(map(len, rows))
    out = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, :len(row)] = row
    return torch.from_numpy(out), torch.tensor([len(r) for r in rows])


# Tokens of one line: medicine, "for", group, ":", dose, "mg", two words of schedule, ".", newline.
LINE, GROUP_AT, DOSE_AT, SCHEDULE_AT = 10, 2, 4, 6


def batch(rng, pieces, documents, questions, stage, split="train"):
    """doc, doc_len, note (with its answer), note_len, rows, targets, guide, texts."""
    medicines, low, high = stage
    docs, notes, starts, answers, texts = [], [], [], [], []
    line_starts, spots, values = [], [], []
    for _ in range(documents):
        # Fewer medicines now and then, so that lengths vary at every stage.
        count = medicines if rng.random() < 0.7 else rng.randint(max(2, medicines * 2 // 3), medicines)
        document = clinic.Document(rng, count)
        docs.append([BOS] + pieces.join(document.pieces))
        first = 1 + pieces.length(document.pieces[0])
        line_starts.append([first + LINE * i for i in range(len(document.lines))])
        for _ in range(questions):
            note, answer, (medicine, group, patient) = clinic.note_pieces(
                rng, document, split, pieces.length, low, high)
            ids, reply = pieces.join(note), pieces.join(answer) + [EOS]
            line = first + LINE * document.lines[medicine, group]
            values.append([line + DOSE_AT, line + SCHEDULE_AT])
            spots.append([ids.index(pieces.ids(" " + medicine)[0]), ids.index(pieces.ids(" " + patient)[0])])
            notes.append(ids + reply[:-1])
            starts.append(len(ids) - 1)
            answers.append(reply)
            texts.append((document.pieces, note, answer))
    doc, doc_len = padded(docs)
    note, note_len = padded(notes)
    targets = torch.tensor(answers)
    rows = torch.tensor(starts)[:, None] + torch.arange(targets.shape[1])[None]
    line, lines = padded(line_starts)
    alive = (torch.arange(line.shape[1])[None] < lines[:, None]).float()
    doc_rows = torch.cat((line + DOSE_AT, line + SCHEDULE_AT), 1)
    doc_targets = torch.stack((torch.cat((line, line), 1), torch.cat((line, line), 1) + GROUP_AT), 1)
    guide = Guide(doc_rows, doc_targets, torch.cat((alive, alive), 1), torch.tensor(spots),
                  rows[:, [0, 2]], torch.tensor(values))
    return doc, doc_len, note, note_len, rows, targets, guide, texts


def exact(logits, targets):
    """Share of answers whose every token is the argmax: teacher forcing and greedy agree on it."""
    hit = (logits.argmax(-1) == targets) | (targets < 0)
    return hit.all(-1).float().mean().item()


def build_config(args, vocabulary):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False,
        "attention_dropout": 0.0, "mlp_bias": False, "hidden_act": "silu",
        "hidden_size": args.hidden, "num_hidden_layers": args.layers, "num_attention_heads": args.heads,
        "num_key_value_heads": args.kv_heads, "head_dim": args.head_dim, "intermediate_size": args.ffn,
        "vocab_size": vocabulary, "max_position_embeddings": 1024, "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": False, "bos_token_id": BOS, "eos_token_id": EOS,
        "initializer_range": 0.02, "use_cache": True, "dtype": "float32",
    }


def optimizer_for(model, rate, decay):
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=rate, betas=(0.9, 0.98))


def train(args, polish):
    torch.manual_seed(args.seed)
    pieces = Pieces(args.out)
    state = torch.load(args.state) if os.path.exists(args.state) else None
    config = state["config"] if state else build_config(args, pieces.tokenizer.get_vocab_size())
    model = TinyLlama(config)
    print("parameters", sum(p.numel() for p in model.parameters()), flush=True)
    optimizer = optimizer_for(model, args.rate, args.decay)
    stage, step = 0, 0
    if state:
        model.load_state_dict(state["model"])
        stage, step = state["stage"], state["step"]
        if not polish:
            optimizer.load_state_dict(state["optimizer"])
    if args.stage is not None:
        stage = args.stage
    rng = random.Random(args.seed * 1000003 + step)
    begin, mark, local, smooth = time.time(), time.time(), 0, None
    while (spent := (time.time() - begin) / 60) < args.minutes and local < args.steps:
        local += 1
        step += 1
        warm = min(1.0, local / args.warm)
        left = 1 - max(spent / args.minutes, local / args.steps)
        cool = min(1.0, max(0.02, left / args.cool)) if args.cool else 1.0
        for group in optimizer.param_groups:
            group["lr"] = args.rate * warm * cool
        # Earlier stages are revisited so that short prompts are not forgotten.
        at = stage if rng.random() < 0.85 else rng.randint(max(0, stage - 2) if polish else 0, stage)
        doc, doc_len, note, note_len, rows, targets, guide, _ = batch(rng, pieces, args.documents, args.questions, STAGES[at])
        watch = Watch() if args.penalty > 0 else None
        extra = None
        if polish:
            # Other rows of the note: their ranges count as much, and they carry a small next-token loss.
            extra = (torch.rand(note.shape[0], args.rows) * (note_len[:, None] - 1)).long()
        logits = model(doc, doc_len, note, note_len, rows if extra is None else torch.cat((rows, extra), 1),
                       watch=watch, guide=guide if args.guide > 0 and not polish else None)
        language = torch.zeros(())
        if polish:
            language = F.cross_entropy(logits[:, rows.shape[1]:].flatten(0, 1), note.gather(1, extra + 1).flatten())
            logits = logits[:, :rows.shape[1]]
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        total = loss + args.language * language
        if watch:
            total = total + args.penalty * watch.penalty
        if not polish:
            total = total + args.guide * guide.loss
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if at == stage:
            score = exact(logits, targets)
            smooth = score if smooth is None else 0.95 * smooth + 0.05 * score
        if step % 50 == 0:
            parts = f" penalty {watch.penalty.item():.4f}" if watch else ""
            parts += f" language {language.item():.3f}" if polish else f" guide {float(torch.as_tensor(guide.loss).detach()):.3f}"
            print(f"step {step} stage {stage} loss {loss.item():.4f} exact {smooth or 0:.3f}{parts} "
                  f"{(time.time() - mark) / 50:.3f} s/step {spent:.1f} min", flush=True)
            mark = time.time()
        if not polish and smooth is not None and smooth > args.advance and stage + 1 < len(STAGES):
            stage, smooth = stage + 1, None
        if step % 200 == 0 or local == args.steps or (time.time() - begin) / 60 >= args.minutes:
            torch.save({"config": config, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                        "stage": stage, "step": step}, args.state)
    export(model, args.out)


def export(model, out):
    weights = os.path.join(out, "model.safetensors")
    save_file(model.exported(), weights, metadata={"format": "pt"})
    os.chmod(weights, 0o644)
    for name, value in (("config.json", model.config), ("generation_config.json", {
        "bos_token_id": BOS, "eos_token_id": EOS, "do_sample": False, "max_new_tokens": 8,
    })):
        with open(os.path.join(out, name), "w") as f:
            json.dump(value, f, indent=2)
            f.write("\n")


def load(out):
    with open(os.path.join(out, "config.json")) as f:
        model = TinyLlama(json.load(f))
    tensors = load_file(os.path.join(out, "model.safetensors"))
    plain = {k.removeprefix("model.").replace(".self_attn.", ".").replace(".mlp.", "."): v.float() for k, v in tensors.items()}
    model.load_state_dict(plain)
    return model


@torch.no_grad()
def evaluate(args):
    """Held-out score over full-size prompts and the ranges of their private rows."""
    pieces, model = Pieces(args.out), load(args.out)
    rng, watch, scores, margins = random.Random(args.seed + 99), Watch(record=True), [], []
    for i in range(args.count // 10):
        stage = (rng.choice((9, 10, 12, 15)), 64, 128 - 6)
        doc, doc_len, note, note_len, rows, targets, _, texts = batch(rng, pieces, 1, 10, stage, "heldout")
        for public, private, _ in texts[:1]:
            assert pieces.join(public) == pieces.tokenizer.encode("".join(public), add_special_tokens=False).ids
            assert pieces.join(private) == pieces.tokenizer.encode("".join(private), add_special_tokens=False).ids
        logits = model(doc, doc_len, note, note_len, rows, full=True, watch=watch)
        logits = logits.gather(1, rows[..., None].expand(-1, -1, logits.shape[-1]))
        scores.append(exact(logits, targets))
        top = logits.topk(2, -1).values
        margins.append((top[..., 0] - top[..., 1]).flatten())
    print(f"held-out exact answers {np.mean(scores):.4f} of {len(scores) * 10}")
    margins = torch.cat(margins)
    print(f"margin of the first token over the second: median {margins.median():.2f}, smallest {margins.min():.2f}")
    for key in sorted(watch.record):
        low, high = watch.record[key]
        ratio = f"  ratio {high / low:.1f}" if key.startswith("mean square") else f"  span {high - low:.1f}"
        print(f"{key:20s} {low:9.3f} {high:9.3f}{ratio}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("tokenizer", "train", "polish", "evaluate"))
    parser.add_argument("--out", default="models/tiny", help="model directory")
    parser.add_argument("--state", default="models/work/tiny.pt", help="training state, resumed when present")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30, help="wall-clock training time")
    parser.add_argument("--steps", type=int, default=1000000, help="stop after this many steps at the latest")
    parser.add_argument("--rows", type=int, default=20, help="rows of each note that polish watches besides the answer's")
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--head-dim", type=int, default=16)
    parser.add_argument("--ffn", type=int, default=176)
    parser.add_argument("--documents", type=int, default=16, help="documents in a batch")
    parser.add_argument("--questions", type=int, default=8, help="notes per document")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--warm", type=int, default=100, help="steps of warm-up")
    parser.add_argument("--cool", type=float, default=0.3, help="share of the time over which the rate falls")
    parser.add_argument("--advance", type=float, default=0.85, help="accuracy that opens the next stage")
    parser.add_argument("--stage", type=int, help="start at this stage instead of the saved one")
    parser.add_argument("--penalty", type=float, default=0.0, help="weight of the range penalties")
    parser.add_argument("--guide", type=float, default=0.0, help="weight of the attention targets")
    parser.add_argument("--language", type=float, default=0.0, help="weight of next-token loss on the note")
    parser.add_argument("--count", type=int, default=600, help="held-out prompts")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    os.makedirs(os.path.dirname(args.state) or ".", exist_ok=True)
    if args.verb == "tokenizer":
        train_tokenizer(args.out, args.vocab)
    elif args.verb == "evaluate":
        evaluate(args)
    else:
        train(args, polish=args.verb == "polish")


if __name__ == "__main__":
    main()
