"""The command line program under test, and small models for it."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from hub_server import HubServer

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("HLWQ_BUILD", ROOT / "build"))
BINARY = BUILD / "hlwq"
ASSETS = Path(os.environ.get("HLWQ_ASSETS", BUILD / "assets"))
GOLDENS = ["llama_tied", "llama_untied_bias", "llama3_rope", "gemma3", "gemma4", "gemma4_moe", "gemma4_e2b"]


def hlwq(*arguments, code=0, stdin="", env=None, timeout=300):
    """Runs the program and checks its exit code; returns the completed process."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HLWQ_")}
    environment = {k: v for k, v in (environment | (env or {})).items() if v is not None}
    run = subprocess.run(
        [str(BINARY), *map(str, arguments)],
        input=stdin, capture_output=True, text=True, encoding="utf-8", env=environment, timeout=timeout,
    )
    assert run.returncode == code, f"exit code {run.returncode}, not {code}\n{run.stdout}\n{run.stderr}"
    return run


def hlwq_json(*arguments, **options):
    """The JSON that a command prints; nothing else may be on stdout."""
    return json.loads(hlwq(*arguments, "--json", **options).stdout)


def asset(name):
    path = ASSETS / name
    assert path.is_dir(), f"{path} is missing: configure the build first"
    return path


@pytest.fixture(scope="session")
def nano():
    """A trained 28M model with tokenizer and chat template."""
    return asset("gemma4-nano")


@pytest.fixture(scope="session")
def nano_q5(nano, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "nano-q5"
    hlwq("quantize", nano, "-o", out)
    return out


@pytest.fixture(scope="session")
def llama():
    """A tiny random model without a tokenizer."""
    return asset("llama_tied")


@pytest.fixture
def server():
    """A Hub on this machine."""
    s = HubServer()
    yield s
    s.close()


class User:
    """Somebody with a home directory of their own, a cache in it, and the server as their Hub."""

    def __init__(self, home, server):
        self.home, self.server = home, server
        self.cache = home / ".cache/huggingface/hub"

    def env(self, **more):
        """To be laid over the process's own; None: not set."""
        names = ["XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH",
                 "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN",
                 "HF_HUB_DISABLE_SYMLINKS", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
        local = {"HF_ENDPOINT": self.server.url, "HOME": str(self.home), "NO_PROXY": "*", "no_proxy": "*"}
        return dict.fromkeys(names) | local | more

    def run(self, *arguments, code=0, **env):
        return hlwq(*arguments, code=code, env=self.env(**env), timeout=120)

    def pull(self, *arguments, **env):
        return json.loads(self.run("pull", *arguments, "--json", **env).stdout)


@pytest.fixture
def user(tmp_path, server):
    home = tmp_path / "home"
    home.mkdir()
    return User(home, server)


@pytest.fixture(scope="session")
def tiny():
    """A model of few tensors, as a repository's files."""
    return {p.name: p.read_bytes() for p in asset("llama_tied").iterdir() if p.suffix in (".json", ".safetensors")}
