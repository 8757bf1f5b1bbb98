"""The command ``polarquant``: the published tool's subcommands and flags, done by hlwq.

What is done otherwise than there, or not at all, is said on stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from typing import NoReturn

from .commands import demo, run_program

_GONE = {
    "serve": "there is no server yet; chat with 'polarquant chat MODEL', or from Python with hlwq.Model",
    "gguf": "HLWQ codes are not written as GGUF; llama.cpp's llama-quantize makes such files from the source model, "
    "and hlwq runs and quantizes them",
    "llamacpp": "llama.cpp is not patched; hlwq itself has the 3-bit cache: hlwq run MODEL --kv-bits 3",
    "vllm-kv": "vLLM is not patched; hlwq itself has the compressed cache: hlwq chat MODEL --kv-bits 3",
    "mlx": "MLX is not supported",
    "finetune": "there is no training; quantize what another tool has trained",
    "monitor": "it looked after the publisher's own account",
    "collection": "it looked after the publisher's own account",
}


def note(text: str) -> None:
    print(f"polarquant: note: {text}", file=sys.stderr)


def refuse(text: str) -> NoReturn:
    print(f"polarquant: {text}", file=sys.stderr)
    raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="polarquant",
        description="The published commands, done by hlwq; 'hlwq --help' lists its own, which do more.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        p = commands.add_parser(name, help=text, description=text)
        p.add_argument("model", help="model directory, HLWQ checkpoint or .gguf file")
        return p

    p = command("chat", "talk to a model in the terminal")
    p.add_argument("--nbits-kv", type=int, choices=[2, 3, 4], help="bits of the key/value cache (default: 16)")
    p.add_argument("--no-share", action="store_true", help="nothing is ever shared; accepted")
    p.add_argument("--vision", action="store_true", help="fail at once if the model takes no images")
    p.add_argument("--port", type=int, help="of the page; see demo")
    p.add_argument("--max-tokens", type=int, default=512, help="tokens per answer at most (512)")
    p.add_argument("--temperature", type=float, help="default: the model's own")
    p.add_argument("--top-p", type=float, help="default: the model's own")

    p = command("demo", "a page in the browser: chat, images, memory")
    p.add_argument("--port", type=int, help="default: 7860")
    p.add_argument("--share", action="store_true", help="make a public link")
    p.add_argument("--kv-nbits", type=int, choices=[2, 3, 4], help="bits of the key/value cache")

    p = command("quantize", "turn a model into an HLWQ checkpoint")
    p.add_argument("-o", "--output", help="directory of the checkpoint (default: MODEL's name-HLWQ-Q5, here)")
    p.add_argument("--save-dir", help="the same")
    p.add_argument("--nbits", type=int, choices=range(2, 9), metavar="N", help="one width, 2 to 8")
    p.add_argument("--no-int4", action="store_true", help="codes are kept anyway; accepted")
    p.add_argument("--vision", action="store_true", help="the image encoder is kept anyway; accepted")
    p.add_argument("--upload", action="store_true", help="refused: upload with Hugging Face's own tool")

    p = command("bench", "perplexity, tasks, comparisons")
    p.add_argument("--ppl", action="store_true", help="perplexity of WikiText-2's test split (the default)")
    p.add_argument("--text-file", help="another text for --ppl and --compare")
    p.add_argument("--eval-tasks", help="tasks of lm-evaluation-harness, comma-separated")
    p.add_argument("--compare", help="fp16, int4, nf4, q4 ... or a GGUF type, comma-separated")
    p.add_argument("--compare-ppl", help="refused: only what was measured is shown")
    p.add_argument("-o", "--output", help="write the table as .md or .json")
    p.add_argument("--chart", action="store_true", help="draw charts into MODEL's name-charts")
    p.add_argument("--max-length", type=int, default=2048, help="tokens of a window (2048)")
    p.add_argument("--stride", type=int, default=512, help="tokens from window to window (512)")
    p.add_argument("--fewshot", type=int, default=5, help="examples for --eval-tasks (5)")
    p.add_argument("--batch-size", type=int, help="accepted; requests run one after another")

    p = command("info", "facts, sizes and memory")
    p.add_argument("--nbits", type=int, choices=range(2, 9), metavar="N", help="plan for weights of N bits")

    p = command("export-ct", "write compressed-tensors INT4 for vLLM")
    p.add_argument("-o", "--output", help="directory")
    p.add_argument("--upload", help="refused: upload with Hugging Face's own tool")
    p.add_argument("--num-bits", type=int, choices=[4, 8], default=4)
    p.add_argument("--group-size", type=int, default=128)

    p = command("arena", "tasks of lm-evaluation-harness")
    p.add_argument("--tasks", nargs="+", default=["mmlu", "gsm8k", "arc_challenge"])
    p.add_argument("--fewshot", type=int, default=5)
    p.add_argument("--batch-size", type=int, help="accepted; requests run one after another")

    for name in _GONE:
        commands.add_parser(name, add_help=False)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0] in _GONE:
        refuse(f"{arguments[0]}: {_GONE[arguments[0]]}")
    args = _parser().parse_args(arguments)
    return int(globals()["_" + args.command.replace("-", "_")](args) or 0)


def _name(model: str) -> str:
    name = os.path.basename(os.path.abspath(model))
    return name.removesuffix(".gguf")


def _chat(args: argparse.Namespace) -> NoReturn:
    if args.port is not None:
        note("chat is in the terminal, so --port goes unused; polarquant demo is the page")
    command = ["chat", args.model, "--max-tokens", str(args.max_tokens)]
    if args.nbits_kv is not None:
        command += ["--kv-bits", str(args.nbits_kv)]
    if args.temperature is not None:
        command += ["--temp", str(args.temperature)]
    if args.top_p is not None:
        command += ["--top-p", str(args.top_p)]
    run_program(command + (["--vision"] if args.vision else []))


def _demo(args: argparse.Namespace) -> int:
    command = [args.model]
    if args.port is not None:
        command += ["--port", str(args.port)]
    if args.kv_nbits is not None:
        command += ["--kv-bits", str(args.kv_nbits)]
    return demo(command + (["--share"] if args.share else []))


def _no_upload(args: argparse.Namespace, directory: str) -> None:
    if args.upload:
        refuse(f"nothing is uploaded from here; run without --upload, then: hf upload OWNER/NAME {directory}")


def _quantize(args: argparse.Namespace) -> NoReturn:
    directory = args.save_dir or args.output or f"{_name(args.model)}-HLWQ-Q{args.nbits or 5}"
    _no_upload(args, directory)
    if not (args.save_dir or args.output):
        note(f"writing to {directory}")
    run_program(["quantize", args.model, "-o", directory, *(["--bits", str(args.nbits)] if args.nbits else [])])


def _info(args: argparse.Namespace) -> NoReturn:
    run_program(["info", args.model, *(["--policy", f"q{args.nbits}-l2"] if args.nbits else [])])


def _export_ct(args: argparse.Namespace) -> NoReturn:
    if args.num_bits != 4:
        refuse("export-ct writes 4 bits only: the published 8-bit export used the range of 4 bits")
    directory = args.output or f"{_name(args.model)}-W4A16"
    _no_upload(args, directory)
    run_program(["export", args.model, "--to", "compressed-tensors", "-o", directory,
                 "--group-size", str(args.group_size)])  # fmt: skip


def _text_on_stdin(path: str | None) -> list[str]:
    if path is not None:
        return ["--text-file", path]
    archive = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "wikitext2-test.tar.xz")
    if not os.path.exists(archive):
        refuse("WikiText-2 did not come with this package; give --text-file FILE")
    file = tempfile.TemporaryFile()
    with tarfile.open(archive) as tar:
        member = tar.extractfile("wiki.test.raw")
        assert member is not None
        file.write(member.read())
    file.seek(0)
    os.dup2(file.fileno(), 0)
    return ["--text-file", "-"]


def _bench(args: argparse.Namespace) -> NoReturn:
    if args.compare_ppl:
        refuse("--compare-ppl: figures of elsewhere are not shown beside measured ones; --compare measures")
    command = ["bench", args.model]
    if args.eval_tasks:
        command += ["--tasks", args.eval_tasks, "--fewshot", str(args.fewshot)]
    if args.ppl or args.compare or not args.eval_tasks:
        command += ["--ctx", str(args.max_length), "--stride", str(min(args.stride, args.max_length - 1))]
        command += _text_on_stdin(args.text_file)
    if args.ppl or not (args.compare or args.eval_tasks):
        command += ["--ppl"]
    if args.compare:
        known = {"gguf": "q4_k_m", "torchao": "int4", "bnb": "nf4", "polarquant": "default"}
        names = [known.get(name.strip().lower(), name.strip()) for name in args.compare.split(",")]
        if "awq" in names:
            refuse("--compare awq: there is no AWQ here; int4, nf4, q4, q5 and GGUF types are known")
        command += ["--compare", ",".join(dict.fromkeys(names))]
    if args.output:
        command += ["-o", args.output]
    if args.chart:
        command += ["--chart", f"{_name(args.model)}-charts"]
    run_program(command)


def _arena(args: argparse.Namespace) -> NoReturn:
    run_program(["bench", args.model, "--tasks", ",".join(args.tasks), "--fewshot", str(args.fewshot)])


if __name__ == "__main__":
    sys.exit(main())
