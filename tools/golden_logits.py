#!/usr/bin/env python3
"""Writes small random Llama checkpoints with the logits that transformers computes for them.

Each case differs in shape, layout or storage; all are evaluated in float32 from the stored weights,
loaded back from the written directory. `expected.safetensors` of a case holds `input_ids` [T] i64,
`logits` [T, V] f32, `greedy_ids` [64] i64 (greedy steps after the input, never stopping) and
`greedy_margin` [64] f32 (first minus second logit at each step).

    python3 tools/golden_logits.py --out crates/undertone-model/tests/golden
"""

import argparse
import json
import os
import shutil

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

STEPS = 64
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

# hidden, layers, heads, kv, head_dim, ffn, vocab, tied, theta, eps, dtype, then layout, scaling, shard, init, length.
CASES = {
    "mha_untied_f32": dict(hidden=32, layers=2, heads=4, kv=4, size=8, ffn=172, vocab=96),
    "gqa_tied_bf16": dict(hidden=64, layers=3, heads=8, kv=2, size=8, ffn=172, vocab=300, tied=True, theta=500000.0,
                          eps=1e-6, dtype="bfloat16"),
    "mqa_old_layout_f16": dict(hidden=48, layers=1, heads=6, kv=1, size=8, ffn=96, vocab=64, dtype="float16",
                               layout="old", no_head_dim=True),
    "head_size_48_bf16": dict(hidden=60, layers=2, heads=3, kv=1, size=48, ffn=172, vocab=128, dtype="bfloat16",
                              init=0.25),
    "head_size_6_f32": dict(hidden=36, layers=4, heads=6, kv=3, size=6, ffn=50, vocab=67, eps=1e-4, layout="old"),
    "wide_head_f16": dict(hidden=40, layers=2, heads=5, kv=5, size=16, ffn=100, vocab=150, tied=True, theta=500000.0,
                          dtype="float16"),
    "linear_old_layout_f16": dict(hidden=64, layers=2, heads=4, kv=2, size=16, ffn=172, vocab=200, eps=1e-3,
                                  dtype="float16", layout="old", scaling={"type": "linear", "factor": 2.0}),
    "linear_new_layout_f32": dict(hidden=32, layers=2, heads=2, kv=1, size=16, ffn=64, vocab=100,
                                  scaling={"rope_type": "linear", "factor": 4.0}),
    "llama3_new_layout_bf16_sharded": dict(hidden=64, layers=3, heads=4, kv=2, size=16, ffn=172, vocab=256,
                                           theta=500000.0, dtype="bfloat16", scaling=LLAMA3, shard="90KB"),
    "llama3_old_layout_f32": dict(hidden=48, layers=2, heads=3, kv=3, size=16, ffn=80, vocab=120, tied=True,
                                  theta=500000.0, layout="old", scaling=LLAMA3, no_head_dim=True),
    "deep_sharded_f32": dict(hidden=30, layers=4, heads=5, kv=1, size=10, ffn=70, vocab=90, layout="old",
                             shard="60KB", eos=[1, 2], length=37),
    "hidden_96_f16": dict(hidden=96, layers=1, heads=12, kv=4, size=8, ffn=172, vocab=300, eps=1e-6, dtype="float16",
                          length=48),
}


def build(case, seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=case["vocab"], hidden_size=case["hidden"], intermediate_size=case["ffn"],
        num_hidden_layers=case["layers"], num_attention_heads=case["heads"], num_key_value_heads=case["kv"],
        head_dim=case["size"], max_position_embeddings=256, rms_norm_eps=case.get("eps", 1e-5),
        tie_word_embeddings=case.get("tied", False), initializer_range=case.get("init", 0.3),
        bos_token_id=0, eos_token_id=case.get("eos", 1),
        rope_parameters={"rope_theta": case.get("theta", 10000.0), **(
            {"rope_type": "default"} | new_scaling(case.get("scaling")))},
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model.to(getattr(torch, case.get("dtype", "float32")))


def new_scaling(scaling):
    return {("rope_type" if k == "type" else k): v for k, v in (scaling or {}).items()}


def rewrite_config(path, case):
    """Puts the positional settings of config.json into the layout that the case is about."""
    with open(path) as f:
        config = json.load(f)
    config.pop("transformers_version", None)
    if case.get("layout") == "old":
        del config["rope_parameters"]
        config["rope_theta"] = case.get("theta", 10000.0)
        config["rope_scaling"] = case.get("scaling")
        config["torch_dtype"] = config.pop("dtype")
    if case.get("no_head_dim"):
        del config["head_dim"]
    with open(path, "w") as f:
        json.dump(config, f, indent=2, sort_keys=True)
        f.write("\n")


@torch.no_grad()
def expected(folder, case, seed):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    torch.manual_seed(seed)
    ids = torch.randint(3, case["vocab"], (case.get("length", 40),))
    ids[0] = 0
    logits = model(ids[None]).logits[0]
    sequence, greedy, margins = ids.clone(), [], []
    for _ in range(STEPS):
        top = model(sequence[None], use_cache=False).logits[0, -1].topk(2)
        greedy.append(top.indices[0])
        margins.append(top.values[0] - top.values[1])
        sequence = torch.cat((sequence, top.indices[:1]))
    return {
        "input_ids": ids, "logits": logits.contiguous(), "greedy_ids": torch.stack(greedy),
        "greedy_margin": torch.stack(margins),
    }


def write_case(root, name, case, smallest):
    folder = os.path.join(root, name)
    # Another seed is taken until no greedy step is a near tie, which rounding could decide either way.
    for seed in range(1, 200):
        shutil.rmtree(folder, ignore_errors=True)
        build(case, seed).save_pretrained(folder, max_shard_size=case.get("shard", "50GB"))
        rewrite_config(os.path.join(folder, "config.json"), case)
        tensors = expected(folder, case, seed)
        if tensors["greedy_margin"].min() > smallest:
            break
    else:
        raise SystemExit(f"{name}: no seed below 200 keeps every margin above {smallest}")
    save_file(tensors, os.path.join(folder, "expected.safetensors"))
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
    print(f"{name:32s} seed {seed:3d}  logits std {tensors['logits'].std():6.3f}  smallest margin "
          f"{tensors['greedy_margin'].min():.4f}  distinct greedy {tensors['greedy_ids'].unique().numel():2d}  "
          f"{size / 1024:.0f} KiB", flush=True)
    return size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="crates/undertone-model/tests/golden")
    parser.add_argument("--margin", type=float, default=0.02, help="smallest greedy margin to accept")
    parser.add_argument("--only", help="write this case alone")
    args = parser.parse_args()
    logging.disable_progress_bar()
    total = 0
    for name, case in CASES.items():
        if args.only in (None, name):
            total += write_case(args.out, name, case, args.margin)
    print(f"total {total / 1048576:.2f} MiB")


if __name__ == "__main__":
    main()
