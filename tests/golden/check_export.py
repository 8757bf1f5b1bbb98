#!/usr/bin/env python3
"""Loads an export of `hlwq export --to compressed-tensors` with transformers and holds it against our own engine.

  check_export.py EXPORT [--hlwq build/hlwq] [--prefixes 24]

  * The config must be one that compressed-tensors reads, and every tensor's name, type and shape those of the empty
    model that the package itself prepares for that config, none missing and none left over.
  * The package's unpacking must give the codes that the documented layout gives (low nibble first, code + 8), and its
    dequantised weights code times scale, to the last bit.
  * transformers' logits, in float32, must be those of hlwq on the same weights written out as plain float32: the
    log-probabilities of the 100 likeliest tokens after each of some prefixes of a text.

The first two are exact. The last compares two float32 programs that add in different orders; --tolerance (nats, 0.001)
bounds the largest difference, and the difference that INT4 makes is printed beside it when --original names the
unrounded model. Needs torch, transformers, compressed-tensors, safetensors and numpy. Figures in docs/benchmarks.md
are of torch 2.15.0, transformers 5.24.0, compressed-tensors 0.20.0. Exits with 1 on any disagreement.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import torch
from compressed_tensors import __version__ as compressed_tensors_version
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from compressed_tensors.compressors import ModelCompressor
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from transformers import __version__ as transformers_version
from transformers.utils import logging

TEXT = """The city of Lisbon lies at the mouth of the river Tagus. In the year 1755 an earthquake, followed by a flood
and by fires that burned for days, destroyed most of it; what was rebuilt is the oldest example of a plan with streets
at right angles in Europe. def area(radius): return 3.14159 * radius ** 2. What is the colour of the sky, and why?"""

problems = []


def check(good, message):
    if not good:
        problems.append(message)
        print("WRONG:", message)


def tensors_of(directory):
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as f:
            tensors.update({name: f.get_tensor(name) for name in f.keys()})
    return tensors


def model_class(directory):
    config = json.loads((directory / "config.json").read_text())
    return AutoModelForImageTextToText if "vision_config" in config else AutoModelForCausalLM


def check_names(directory, tensors):
    """Against the state of an empty model that the package has brought into the compressed form."""
    config = AutoConfig.from_pretrained(directory)
    scheme = QuantizationConfig.model_validate(config.quantization_config)
    with torch.device("meta"):
        model = model_class(directory).from_config(config, dtype=torch.bfloat16)
    apply_quantization_config(model, scheme, run_compressed=False)
    ModelCompressor(quantization_config=scheme).compress_model(model=model)
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    want = {n: t for n, t in model.state_dict().items() if n not in tied}
    missing, extra = sorted(want.keys() - tensors.keys()), sorted(tensors.keys() - want.keys())
    check(not missing, f"missing tensors: {missing[:5]}")
    check(not extra, f"tensors that the model has not: {extra[:5]}")
    for name in want.keys() & tensors.keys():
        w, t = want[name], tensors[name]
        # The package leaves the shape's own type open on an empty model: its packer writes int64.
        dtype = torch.int64 if name.endswith("weight_shape") else w.dtype
        check(t.dtype == dtype, f"{name} is {t.dtype}, not {dtype}")
        check(t.shape == w.shape, f"{name} is {tuple(t.shape)}, not {tuple(w.shape)}")
    print(f"names, types, shapes: {len(want)} tensors")


def dequantise(tensors, group):
    """Plain weights by the documented layout, float32; products of codes and BF16 scales are exact in it."""
    plain = {}
    for name, t in tensors.items():
        if name.endswith((".weight_scale", ".weight_shape")):
            continue
        if not name.endswith(".weight_packed"):
            plain[name] = t.float() if t.is_floating_point() else t
            continue
        module = name.removesuffix(".weight_packed")
        words = t.numpy().view(np.uint32)
        codes = (words[:, :, None] >> (4 * np.arange(8, dtype=np.uint32)) & 15).astype(np.int64) - 8
        codes = codes.reshape(len(words), -1)
        shape = torch.Size(tensors[module + ".weight_shape"].tolist())
        check(torch.equal(unpack_from_int32(t, 4, shape).to(torch.int64), torch.from_numpy(codes)),
              f"{module}: the package unpacks other codes")
        scale = tensors[module + ".weight_scale"].float().repeat_interleave(group, 1)
        plain[module + ".weight"] = torch.from_numpy(codes.astype(np.float32)) * scale
    return plain


def write_plain(source, plain, directory):
    directory.mkdir()
    for file in source.iterdir():
        if file.suffix not in (".safetensors", ".md") and file.name not in ("config.json", "model.safetensors.index.json"):
            shutil.copy(file, directory)
    config = json.loads((source / "config.json").read_text())
    del config["quantization_config"]
    (directory / "config.json").write_text(json.dumps(config))
    save_file({n: t.contiguous() for n, t in plain.items()}, directory / "model.safetensors", {"format": "pt"})


def likeliest(hlwq, model, ids):
    """{id: log-probability} of the 100 likeliest next tokens."""
    run = subprocess.run([hlwq, "run", model, "--ids", ",".join(map(str, ids)), "-n", "1", "--greedy", "--ignore-eos",
                          "--logprobs", "100", "--json", "--kv", "f32", "--device", "cpu"], capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    return dict(json.loads(run.stdout)["logprobs"][0]["top"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=pathlib.Path)
    parser.add_argument("--hlwq", default="build/hlwq")
    parser.add_argument("--original", help="the model before rounding, for scale")
    parser.add_argument("--prefixes", type=int, default=24)
    parser.add_argument("--tolerance", type=float, default=0.001)
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers_version}, compressed-tensors {compressed_tensors_version}")

    tensors = tensors_of(args.export)
    check_names(args.export, tensors)
    config = json.loads((args.export / "config.json").read_text())
    plain = dequantise(tensors, config["quantization_config"]["config_groups"]["group_0"]["weights"]["group_size"])

    model, report = model_class(args.export).from_pretrained(args.export, dtype=torch.float32, output_loading_info=True)
    check(not any(report.values()), f"transformers loads it with {report}")
    if (args.export / "tokenizer.json").exists():
        ids = AutoTokenizer.from_pretrained(args.export)(TEXT).input_ids
    else:
        ids = [3 + 7 * i % 97 for i in range(100)]
    with torch.no_grad():
        logprobs = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].float(), -1)
    # By now the package has unpacked and scaled the weights that it runs on.
    loaded, compared = model.state_dict(), 0
    for name, weight in plain.items():
        if name.removesuffix(".weight") + ".weight_packed" in tensors:
            compared += 1
            check(torch.equal(loaded[name].float(), weight), f"{name}: transformers runs on other weights")
    print(f"weights as transformers runs them: {compared} equal to the last bit")

    worst, total, count, kl = 0.0, 0.0, 0, []
    with tempfile.TemporaryDirectory() as work:
        reference = pathlib.Path(work) / "plain"
        write_plain(args.export, plain, reference)
        for n in np.unique(np.linspace(1, len(ids), args.prefixes).astype(int)):
            for token, value in likeliest(args.hlwq, reference, ids[:n]).items():
                difference = abs(value - logprobs[n - 1, token].item())
                worst, total, count = max(worst, difference), total + difference, count + 1
            if args.original:
                base = likeliest(args.hlwq, args.original, ids[:n])
                kl += [sum(np.exp(v) * (v - logprobs[n - 1, t].item()) for t, v in base.items())]
    print(f"log-probabilities: {count} compared, largest difference {worst:.6f}, mean {total / count:.6f}")
    check(worst <= args.tolerance, f"log-probabilities differ by {worst}")
    if kl:
        print(f"for scale: KL of the export from the original, over the 100 likeliest tokens, mean {np.mean(kl):.4f}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
