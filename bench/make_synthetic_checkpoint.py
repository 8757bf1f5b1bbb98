#!/usr/bin/env python3
"""Writes a large random Llama-shaped BF16 checkpoint in shards, to measure how quantization streams.

  bench/make_synthetic_checkpoint.py DIR [--gb 8.2] [--shard-gb 2]
  /usr/bin/time -v build/hlwq quantize DIR -o OUT     (peak memory: "Maximum resident set size")

Every byte is real (nothing sparse): Gaussian weights, drawn once per 64 MB and rotated so that no two tensors agree.
The model has no tokenizer and means nothing. The largest tensor is the embedding, 1.05 GB. Needs numpy.
"""

import argparse
import json
import math
import pathlib

import numpy as np

HIDDEN, INTERMEDIATE, VOCAB, HEADS, KV_HEADS = 4096, 14336, 128256, 32, 8


def tensors(layers):
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for i in range(layers):
        p = f"model.layers.{i}."
        kv = HIDDEN // HEADS * KV_HEADS
        yield p + "input_layernorm.weight", (HIDDEN,)
        yield p + "self_attn.q_proj.weight", (HIDDEN, HIDDEN)
        yield p + "self_attn.k_proj.weight", (kv, HIDDEN)
        yield p + "self_attn.v_proj.weight", (kv, HIDDEN)
        yield p + "self_attn.o_proj.weight", (HIDDEN, HIDDEN)
        yield p + "post_attention_layernorm.weight", (HIDDEN,)
        yield p + "mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN)
        yield p + "mlp.up_proj.weight", (INTERMEDIATE, HIDDEN)
        yield p + "mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCAB, HIDDEN)


def size(shape):
    return 2 * math.prod(shape)


def write_shard(path, members, pool, rng):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in members:
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size(shape)]}
        offset += size(shape)
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for _, shape in members:
            left = math.prod(shape)
            while left:
                begin = int(rng.integers(len(pool)))
                piece = pool[begin:begin + left]
                f.write(piece.tobytes())
                left -= len(piece)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--gb", type=float, default=8.2, help="at least so many 1e9 bytes")
    parser.add_argument("--shard-gb", type=float, default=2)
    args = parser.parse_args()

    layers = 1
    while sum(size(s) for _, s in tensors(layers)) < args.gb * 1e9:
        layers += 1
    shards = [[]]
    for name, shape in tensors(layers):
        if shards[-1] and sum(size(s) for _, s in shards[-1]) + size(shape) > args.shard_gb * 1e9:
            shards.append([])
        shards[-1].append((name, shape))

    rng = np.random.default_rng(1)
    values = (0.02 * rng.standard_normal(1 << 25, dtype=np.float32)).view(np.uint32)
    pool = (values >> 16).astype(np.uint16)
    args.directory.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    for i, members in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        write_shard(args.directory / file, members, pool, rng)
        weight_map.update({name: file for name, _ in members})
        print(f"{file}: {sum(size(s) for _, s in members) / 1e9:.2f} GB", flush=True)
    total = sum(size(s) for _, s in tensors(layers))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (args.directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "head_dim": HIDDEN // HEADS,
        "intermediate_size": INTERMEDIATE, "num_hidden_layers": layers, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "vocab_size": VOCAB, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0, "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }
    (args.directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(f"{total / 1e9:.2f} GB in {len(shards)} shards, {layers} layers")


if __name__ == "__main__":
    main()
