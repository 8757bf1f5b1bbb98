"""The Python package as the build tree has it, and the shipped models."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("HLWQ_BUILD", ROOT / "build"))
ASSETS = Path(os.environ.get("HLWQ_ASSETS", BUILD / "assets"))
PACKAGE = BUILD / "python"
sys.path.insert(0, str(PACKAGE))


@pytest.fixture(scope="session")
def assets():
    return ASSETS


@pytest.fixture(scope="session")
def nano_path():
    return ASSETS / "gemma4-nano"


@pytest.fixture(scope="session")
def q5_path():
    return ASSETS / "gemma4-nano-q5"


@pytest.fixture(scope="session")
def nano(nano_path):
    """Unquantised, with an exact cache: what transformers' goldens are compared with."""
    import hlwq

    return hlwq.Model.from_pretrained(nano_path, kv_bits=32)


@pytest.fixture(scope="session")
def q5(q5_path):
    import hlwq

    return hlwq.Model.from_pretrained(q5_path)


@pytest.fixture(scope="session")
def environment():
    """Of child processes: the package on the path, no settings from outside."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HLWQ_")}
    return {**kept, "PYTHONPATH": str(PACKAGE)}


@pytest.fixture(scope="session")
def command(environment):
    """Runs a command of the package, "hlwq" or "polarquant"."""

    def run(name, *arguments, code=0, stdin="", cwd=None):
        module = {"hlwq": "hlwq", "polarquant": "hlwq.polarquant"}[name]
        done = subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            input=stdin, capture_output=True, text=True, env=environment, timeout=300, cwd=cwd,
        )  # fmt: skip
        assert done.returncode == code, f"exit code {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
        return done

    return run
