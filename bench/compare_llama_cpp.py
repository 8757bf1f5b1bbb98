"""Compares hlwq with llama.cpp (PyPI: llama-cpp-python) on one GGUF file: perplexity on the same tokens, and speed.

    python bench/compare_llama_cpp.py MODEL.gguf --hlwq build/hlwq --text wiki.test.raw --windows 8
    python bench/compare_llama_cpp.py MODEL.gguf --hlwq build/hlwq --speed --checkpoint MODEL-HLWQ-Q5

Perplexity: windows of BOS + (ctx - 1) tokens, tokenised by hlwq, without overlap; both programs predict every token
but the BOS, so that the figures differ only by arithmetic. llama.cpp rounds activations to 8 bits where weights are
quantised and hlwq's unquantised path does not, so the file is also measured decoded to F32 by llama.cpp. Speed: llama.cpp runs the model at Q5_K_M (made here from
the GGUF, requantised where it is quantised already), hlwq runs the checkpoint; rounds alternate so that both see the
same machine, and medians are reported. JSON goes to stdout, progress to stderr.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import llama_cpp
import numpy as np


def say(text):
    print(text, file=sys.stderr, flush=True)


def hlwq(args, *command):
    run = subprocess.run([args.hlwq, *map(str, command), "--json"], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"hlwq {' '.join(map(str, command))}: {run.stderr.strip()}")
    return json.loads(run.stdout)


def open_llama(args, path, **options):
    return llama_cpp.Llama(
        path, n_threads=args.threads, n_threads_batch=args.threads, n_gpu_layers=0, verbose=False, **options
    )


def llama_nll(model, ids):
    """Sum of -log p over ids[1:], float64."""
    model.reset()
    model.eval(ids)
    logits = np.asarray(model.scores[: len(ids) - 1], dtype=np.float64)
    top = logits.max(axis=1)
    log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return float((log_sum - logits[np.arange(len(ids) - 1), ids[1:]]).sum())


def convert(source, target, file_type):
    """Has llama.cpp rewrite a GGUF file in another type; quantised sources are decoded first."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    params.allow_requantize = True
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), params) != 0:
        sys.exit(f"llama.cpp could not convert {source}")


def compare_perplexity(args):
    say("hlwq: tokens and perplexity")
    ids = hlwq(args, "tokenize", args.model, "-f", args.text, "--no-special-tokens")["ids"]
    body = args.ctx - 1
    windows = [ids[i : i + body] for i in range(0, len(ids) - body + 1, body)][: args.windows]
    ours = hlwq(args, "bench", args.model, "--ppl", "--text-file", args.text, "--ctx", args.ctx, "--windows",
                len(windows), "--threads", args.threads)
    tokens = body * len(windows)

    def measure(path, what):
        model = open_llama(args, path, n_ctx=args.ctx, n_batch=args.ctx, logits_all=True)
        same = model.tokenize(open(args.text, "rb").read(), add_bos=False, special=False) == ids
        total = 0.0
        for i, window in enumerate(windows):
            total += llama_nll(model, [model.token_bos(), *window])
            say(f"llama.cpp, {what}: window {i + 1} of {len(windows)}")
        return float(np.exp(total / tokens)), same

    ppl, same_ids = measure(args.model, "the file itself")
    with tempfile.TemporaryDirectory() as folder:
        decoded = os.path.join(folder, "f32.gguf")
        convert(args.model, decoded, llama_cpp.LLAMA_FTYPE_ALL_F32)
        f32_ppl, _ = measure(decoded, "decoded to F32")
    return {
        "windows": len(windows), "ctx": args.ctx, "tokens": tokens, "hlwq_tokens": ours["tokens"],
        "same_ids_as_llama_cpp": same_ids, "hlwq_ppl": ours["ppl"],
        "llama_cpp_ppl": ppl, "relative_difference": ours["ppl"] / ppl - 1,
        "llama_cpp_f32_ppl": f32_ppl, "relative_difference_f32": ours["ppl"] / f32_ppl - 1,
    }


def llama_speed(model, prompt, decode):
    """(prefill, decode) tokens per second: a prompt of `prompt` tokens, then `decode` single steps from an empty context."""
    ids = [3 + i % 200 for i in range(max(prompt, decode))]
    model.reset()
    start = time.perf_counter()
    model.eval(ids[:prompt])
    prefill = prompt / (time.perf_counter() - start)
    model.reset()
    model.eval(ids[:1])
    start = time.perf_counter()
    for token in ids[:decode]:
        model.eval([token])
    return prefill, decode / (time.perf_counter() - start)


def compare_speed(args):
    with tempfile.TemporaryDirectory() as folder:
        theirs = args.q5_k_m or os.path.join(folder, "q5_k_m.gguf")
        if not args.q5_k_m:
            say("llama.cpp: making Q5_K_M")
            convert(args.model, theirs, llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M)
        ctx = max(args.prompt, args.decode + 1)
        model = open_llama(args, theirs, n_ctx=ctx, n_batch=args.prompt)
        rounds = []
        for i in range(args.rounds):
            ours = hlwq(args, "bench", args.checkpoint, "--speed", "--prompt", args.prompt, "--decode", args.decode,
                        "--repeats", 3, "--threads", args.threads)
            repeats = [llama_speed(model, args.prompt, args.decode) for _ in range(3)]
            prefill, decode = (statistics.median(r[k] for r in repeats) for k in (0, 1))
            rounds.append({"hlwq": ours, "llama_cpp": {"prefill_tok_s": prefill, "decode_tok_s": decode}})
            say(f"round {i + 1}: decode {ours['decode_tok_s']:.1f} and {decode:.1f}, "
                f"prefill {ours['prefill_tok_s']:.1f} and {prefill:.1f} tok/s (hlwq and llama.cpp)")

        def median(program, key):
            return statistics.median(r[program][key] for r in rounds)

        keys = ("prefill_tok_s", "decode_tok_s")
        return {
            "prompt": args.prompt, "decode": args.decode, "threads": args.threads, "rounds": len(rounds),
            "hlwq": {k: median("hlwq", k) for k in (*keys, "decode_gb_s", "read_gb_s")}
            | {k: rounds[0]["hlwq"][k] for k in ("weight_bytes", "bits_per_weight", "backend")},
            "llama_cpp": {k: median("llama_cpp", k) for k in keys} | {"file_bytes": os.path.getsize(theirs),
                                                                       "version": llama_cpp.__version__},
            "decode_ratio": median("hlwq", "decode_tok_s") / median("llama_cpp", "decode_tok_s"),
            "prefill_ratio": median("hlwq", "prefill_tok_s") / median("llama_cpp", "prefill_tok_s"),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .gguf file that both programs read")
    parser.add_argument("--hlwq", default="build/hlwq", help="the binary (build/hlwq)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--text", help="compare perplexity on this text")
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--speed", action="store_true", help="compare speed")
    parser.add_argument("--checkpoint", help="the HLWQ checkpoint that hlwq runs in the speed test")
    parser.add_argument("--q5-k-m", help="llama.cpp's file for the speed test (default: made from the model)")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if not args.text and not args.speed:
        parser.error("nothing to do: give --text FILE, --speed or both")
    if args.speed and not args.checkpoint:
        parser.error("--speed needs --checkpoint DIR")
    result = {"model": os.path.basename(args.model)}
    if args.text:
        result["perplexity"] = compare_perplexity(args)
    if args.speed:
        result["speed"] = compare_speed(args)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
