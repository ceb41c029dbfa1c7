#!/usr/bin/env python3
"""Trains a small ordinary Llama on a text file, in any shape, with nothing done about its ranges.

Such checkpoints stand for "any checkpoint" in measurements: transformers' LlamaForCausalLM, AdamW,
next-token loss, no penalties. Entries past those of the tokenizer pad the vocabulary to its size. The
last tenth of the text is held out; its loss and the ranges over it are printed, and `prompts.jsonl`
cuts prompts from it. tools/README.md lists the shapes in use.

    python3 tools/train_small.py --text plays.txt --out work/a --hidden 96 --layers 3 --heads 6 --kv-heads 3 \\
        --head-dim 16 --ffn 172 --vocab 512 --minutes 3
"""

import argparse
import json
import math
import os
import time

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

BOS, EOS = 0, 1


def make_tokenizer(text, out, vocabulary, context):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)])
    tokenizer.save(os.path.join(out, "tokenizer.json"))
    write_json(os.path.join(out, "tokenizer_config.json"), {
        "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>",
        "clean_up_tokenization_spaces": False, "model_max_length": context,
        "tokenizer_class": "PreTrainedTokenizerFast",
    })
    return tokenizer


def write_json(path, value):
    with open(path, "w") as f:
        json.dump(value, f, indent=2)
        f.write("\n")


def windows(ids, count, length, generator):
    starts = torch.randint(0, len(ids) - length, (count,), generator=generator)
    rows = torch.stack([ids[s:s + length] for s in starts])
    return torch.cat((torch.full((count, 1), BOS), rows), 1)


@torch.no_grad()
def widen_scores(model, gain):
    for layer in model.model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            projection.weight.mul_(math.sqrt(gain))


def train(model, ids, args):
    generator = torch.Generator().manual_seed(args.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, betas=(0.9, 0.95), weight_decay=0.1)
    begin = time.time()
    for step in range(args.steps):
        spent = (time.time() - begin) / 60
        if spent >= args.minutes:
            break
        progress = max(step / args.steps, spent / args.minutes)
        rate = args.rate * min(1, (step + 1) / 50) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = windows(ids, args.batch, args.length, generator)
        loss = model(input_ids=rows, labels=rows).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.3f} {spent:.1f} min", flush=True)
    print(f"trained {step} steps, last loss {loss.item():.3f}")


@torch.no_grad()
def report(folder, ids, args):
    """Loads the written checkpoint with transformers and prints held-out loss and ranges."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    seen = {}

    def watch(name, value):
        low, high = value.min().item(), value.max().item()
        old = seen.get(name, (low, high))
        seen[name] = (min(low, old[0]), max(high, old[1]))

    def on_norm(name):
        def hook(_, inputs):
            # Row 0 is BOS, which is public and may be an outlier.
            watch(f"mean square {name}", inputs[0][:, 1:].pow(2).mean(-1))
            watch(f"residual {name}", inputs[0][:, 1:])
        return hook

    for index, layer in enumerate(model.model.layers):
        layer.input_layernorm.register_forward_pre_hook(on_norm(f"{index}.in"))
        layer.post_attention_layernorm.register_forward_pre_hook(on_norm(f"{index}.mid"))
        layer.mlp.gate_proj.register_forward_hook(
            lambda _, __, out, index=index: watch(f"gate {index}", out[:, 1:]))
    model.model.norm.register_forward_pre_hook(on_norm("final"))
    rows = windows(ids, 8, args.length, torch.Generator().manual_seed(args.seed + 1))
    print(f"held-out loss {model(input_ids=rows, labels=rows).loss.item():.3f} of {math.log(args.vocab):.3f} untrained")
    for name in sorted(seen):
        print(f"{name:22s} {seen[name][0]:10.4f} {seen[name][1]:10.4f}")


def write_prompts(folder, text, tokenizer, count, public, private):
    """Prompts from held-out text of exactly `public` tokens with BOS, and `private` tokens."""
    def encode(part):
        return tokenizer.encode(part, add_special_tokens=False).ids

    ids = encode(text)
    stride = (len(ids) - public - private) // count
    with open(os.path.join(folder, "prompts.jsonl"), "w") as f:
        for start in range(0, stride * count, stride):
            # Some cuts join with their neighbours to other tokens when read again; the next one is tried then.
            for first in range(start, start + stride):
                cut = first + public - 1
                parts = [tokenizer.decode(piece) for piece in (ids[first:cut], ids[cut:cut + private])]
                if [len(encode(part)) for part in parts] == [public - 1, private]:
                    f.write(json.dumps({"public": parts[0], "private": parts[1], "max_new_tokens": 8}) + "\n")
                    break


def old_layout(path):
    """Rewrites config.json to the positional settings used before transformers 5."""
    with open(path) as f:
        config = json.load(f)
    rope = config.pop("rope_parameters")
    config["rope_theta"], config["rope_scaling"] = rope["rope_theta"], None
    config["torch_dtype"] = config.pop("dtype")
    write_json(path, config)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--kv-heads", type=int, default=3)
    parser.add_argument("--head-dim", type=int, default=16)
    parser.add_argument("--ffn", type=int, default=172)
    parser.add_argument("--vocab", type=int, default=512)
    parser.add_argument("--tied", action="store_true", help="share embedding and head")
    parser.add_argument("--theta", type=float, default=10000.0)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--old-layout", action="store_true", help="write rope_theta instead of rope_parameters")
    parser.add_argument("--shard", default="50GB", help="largest weight file, such as 15MB")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--minutes", type=float, default=5, help="stop after this time at the latest")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--score-gain", type=float, default=1, help="starts with attention scores this many times as large")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--public", type=int, default=256, help="public tokens of a prompt, BOS included")
    parser.add_argument("--private", type=int, default=96, help="private tokens of a prompt")
    args = parser.parse_args()
    logging.disable_progress_bar()
    os.makedirs(args.out, exist_ok=True)
    torch.manual_seed(args.seed)
    with open(args.text, encoding="utf-8") as f:
        text = f.read()
    cut = text.rindex("\n", 0, len(text) * 9 // 10) + 1
    tokenizer = make_tokenizer(text[:cut], args.out, args.vocab, args.context)
    learn, held = (torch.tensor(tokenizer.encode(t, add_special_tokens=False).ids) for t in (text[:cut], text[cut:]))
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=args.vocab, hidden_size=args.hidden, intermediate_size=args.ffn, num_hidden_layers=args.layers,
        num_attention_heads=args.heads, num_key_value_heads=args.kv_heads, head_dim=args.head_dim,
        max_position_embeddings=args.context, rms_norm_eps=1e-5, tie_word_embeddings=args.tied,
        bos_token_id=BOS, eos_token_id=EOS, rope_parameters={"rope_type": "default", "rope_theta": args.theta}))
    print(f"vocabulary {tokenizer.get_vocab_size()} of {args.vocab}, parameters {sum(p.numel() for p in model.parameters())}", flush=True)
    widen_scores(model, args.score_gain)
    train(model, learn, args)
    model.to(getattr(torch, args.dtype)).save_pretrained(args.out, max_shard_size=args.shard)
    if args.old_layout:
        old_layout(os.path.join(args.out, "config.json"))
    write_prompts(args.out, text[cut:], tokenizer, args.prompts, args.public, args.private)
    report(args.out, held, args)


if __name__ == "__main__":
    main()
