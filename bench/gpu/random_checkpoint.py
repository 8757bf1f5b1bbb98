"""A checkpoint of a given config with random BF16 weights, made on the GPU, and what transformers makes of it.

    python bench/gpu/random_checkpoint.py make CONFIG.json DIR [--seed 1]
    python bench/gpu/random_checkpoint.py reference DIR IDS.txt OUT.npy [--rows 64] [--tokens 640]
    python bench/gpu/random_checkpoint.py compare REFERENCE.npy LOGITS.f32

make: linears are Gaussian with variance 1 / columns; a few input channels of each are eight times larger, as outlier channels of
real models are; norms lie around one, those behind attention and MLP around 0.3, so that the residual stream grows slowly.
reference: writes random token ids and the logits of the last rows of that prompt, from the BF16 weights.
compare: cosine of logits, KL divergence of next-token distributions, agreement of the likeliest token. Needs torch and transformers.
"""

import argparse
import json
import math
import pathlib

import numpy as np
import torch


def empty_model(config_dir):
    import transformers

    config = transformers.AutoConfig.from_pretrained(config_dir)
    kinds = [transformers.AutoModelForImageTextToText, transformers.AutoModelForCausalLM]
    with torch.device("meta"):
        for kind in kinds:
            try:
                return kind.from_config(config, dtype=torch.bfloat16)
            except ValueError:
                continue
    raise SystemExit("transformers knows no model for this config")


def tensor_of(name, shape, generator, like):
    kind = dict(generator=generator, device="cuda", dtype=torch.float32)
    if "layer_scalar" in name:
        return torch.ones(shape, device="cuda")
    if len(shape) == 1:
        if "norm" in name or "std_scale" in name:
            # Queries and keys: scores of deviation one. At 1.0 attention would choose one key each, and any rounding change which.
            center = 0.25 if "q_norm" in name or "k_norm" in name else 0.3 if "post_" in name else 1.0
            return center * (1 + 0.1 * torch.randn(shape, **kind))
        return 0.02 * torch.randn(shape, **kind)
    rows, cols = math.prod(shape[:-1]), shape[-1]
    w = torch.randn((rows, cols), **kind) / math.sqrt(cols)
    if "embed" not in name and "position" not in name:
        w[:, torch.randint(0, cols, (max(1, cols // 1024),), generator=generator, device="cuda")] *= 8
    return w.reshape(shape)


def make(args):
    out = pathlib.Path(args.dir)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(pathlib.Path(args.config).read_text())
    model = empty_model(out)
    tied = getattr(model, "_tied_weights_keys", None) or {}
    names = [(n, p) for n, p in model.state_dict().items() if n not in tied and n != "lm_head.weight"]
    generator = torch.Generator(device="cuda").manual_seed(args.seed)
    index, shard, size, number = {}, [], 0, 1

    def flush():
        nonlocal shard, size, number
        if not shard:
            return
        file = f"model-{number:05d}.safetensors"
        header, offset = {"__metadata__": {"format": "pt"}}, 0
        for name, p in shard:
            n = p.numel() * 2
            header[name] = {"dtype": "BF16", "shape": list(p.shape), "data_offsets": [offset, offset + n]}
            offset += n
            index[name] = file
        text = json.dumps(header).encode()
        text += b" " * (-(8 + len(text)) % 64)
        with open(out / file, "wb") as f:
            f.write(len(text).to_bytes(8, "little") + text)
            for name, p in shard:
                w = tensor_of(name, list(p.shape), generator, p).to(torch.bfloat16)
                f.write(w.view(torch.int16).cpu().numpy().data)
        shard, size, number = [], 0, number + 1

    for name, p in names:
        if size + p.numel() * 2 > 4e9:
            flush()
        shard.append((name, p))
        size += p.numel() * 2
    flush()
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    print(json.dumps({"tensors": len(index), "parameters": sum(p.numel() for _, p in names), "bytes": sum(2 * p.numel() for _, p in names)}))


def reference(args):
    import transformers

    config = transformers.AutoConfig.from_pretrained(args.dir)
    vocab = config.get_text_config().vocab_size
    ids = torch.randint(10, min(vocab, 200000), (1, args.tokens), generator=torch.Generator().manual_seed(5))
    pathlib.Path(args.ids).write_text(" ".join(map(str, ids[0].tolist())))
    model = transformers.AutoModelForImageTextToText.from_pretrained(args.dir, dtype=torch.bfloat16, device_map="cuda")
    with torch.inference_mode():
        logits = model(input_ids=ids.cuda(), logits_to_keep=args.rows).logits[0].float().cpu().numpy()
    np.save(args.out, logits)
    print(json.dumps({"reference_rows": logits.shape[0], "std": float(logits.std()), "gpu_bytes": torch.cuda.max_memory_allocated()}))


def compare(args):
    a = torch.from_numpy(np.load(args.reference)).cuda().double()
    b = torch.from_numpy(np.fromfile(args.logits, dtype=np.float32)).reshape(a.shape).cuda().double()
    pa, pb = torch.log_softmax(a, -1), torch.log_softmax(b, -1)
    kl = (pa.exp() * (pa - pb)).sum(-1)
    print(json.dumps({"rows": a.shape[0], "cosine": float(torch.cosine_similarity(a, b, dim=-1).mean()),
                      "relative_error": float((a - b).norm() / a.norm()), "kl_mean": float(kl.mean()), "kl_max": float(kl.max()),
                      "same_top": float((a.argmax(-1) == b.argmax(-1)).double().mean())}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(required=True)
    p = sub.add_parser("make")
    p.add_argument("config"), p.add_argument("dir"), p.add_argument("--seed", type=int, default=1)
    p.set_defaults(run=make)
    p = sub.add_parser("reference")
    p.add_argument("dir"), p.add_argument("ids"), p.add_argument("out")
    p.add_argument("--rows", type=int, default=64), p.add_argument("--tokens", type=int, default=640)
    p.set_defaults(run=reference)
    p = sub.add_parser("compare")
    p.add_argument("reference"), p.add_argument("logits")
    p.set_defaults(run=compare)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
