"""The command ``hlwq``: the program that comes with the package, and what of it is written in Python."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import NoReturn


def program() -> str:
    """The path of the command line program."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin", "hlwq")


def run_program(arguments: Sequence[str]) -> NoReturn:
    """Becomes the command line program."""
    path = program()
    if not os.access(path, os.X_OK):
        sys.exit(f"hlwq: {path} is missing: the package is not installed whole; run pip install again")
    sys.stdout.flush()
    sys.stderr.flush()
    # What the program leaves to Python is for the Python that has this package.
    os.environ.setdefault("HLWQ_PYTHON_EXE", sys.executable)
    os.execv(path, ["hlwq", *arguments])


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["demo"]:
        return demo(arguments[1:])
    if arguments[:1] == ["tasks"]:
        from .tasks import main as tasks

        return tasks(arguments[1:])
    run_program(arguments)


def demo(arguments: Sequence[str]) -> int:
    if importlib.util.find_spec("hlwq.demo") is None:
        print("hlwq: this version has no demo page; hlwq chat MODEL talks in the terminal", file=sys.stderr)
        return 2
    from importlib import import_module

    return int(import_module("hlwq.demo").main(arguments) or 0)


if __name__ == "__main__":
    sys.exit(main())
