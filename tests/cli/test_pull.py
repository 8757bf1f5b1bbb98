"""hlwq pull and repositories as MODEL, against a Hub on this machine."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from conftest import BINARY
from hub_server import Fault, HubServer, git_sha1

RANDOM = random.Random(5)
LARGE = RANDOM.randbytes(24 << 20)  # enough for several ranges at a time


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def content(path):
    with open(path, "rb") as f:
        return f.read()


def weights_only(data=LARGE, **more):
    return {"config.json": b"{}", "model.safetensors": data} | more


def test_the_cache_is_laid_out_as_huggingface_hub_does(server, user, tiny):
    repository = server.add("org/tiny", tiny | {"README.md": b"card", "onnx/model.onnx": b"x", "pytorch_model.bin": b"p"})
    commit = repository.refs["main"]
    result = user.pull("org/tiny")
    folder = user.cache / "models--org--tiny"
    assert result["commit"] == commit and result["path"] == str(folder / "snapshots" / commit)
    assert content(folder / "refs/main") == commit.encode()
    assert sorted(os.listdir(result["path"])) == ["config.json", "golden.json", "model.safetensors"]
    for name, data in tiny.items():
        blob = sha256(data) if len(data) >= 100_000 else git_sha1(data)
        link = folder / "snapshots" / commit / name
        assert os.readlink(link) == f"../../blobs/{blob}" and content(link) == data
        assert (user.cache / ".locks/models--org--tiny" / f"{blob}.lock").exists()
    assert (user.cache / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    assert sorted(os.listdir(folder / "blobs")) == sorted(os.path.basename(os.readlink(folder / "snapshots" / commit / n)) for n in tiny)
    # Once more: one question, no file.
    before = len(server.requests)
    assert user.pull("org/tiny")["bytes_received"] == 0 and len(server.requests) == before + 1


def test_all_include_and_no_weights(server, user, tiny):
    server.add("org/tiny", tiny | {"README.md": b"card", "docs/deep/note.txt": b"n"})
    names = lambda *a: sorted(f["name"] for f in user.pull("org/tiny", *a)["files"])
    assert names("--no-weights") == ["config.json", "golden.json"]
    assert names("--include", "*note*", "--include", "README*") == ["README.md", "docs/deep/note.txt"]
    assert names("--all") == sorted([*tiny, "README.md", "docs/deep/note.txt"])
    user.run("pull", "org/tiny", "--include", "nothing*", code=1)
    user.run("pull", "org/tiny", "--all", "--no-weights", code=2)


def test_sharded_models_take_the_shards_of_their_index(server, user):
    index = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
    files = {"config.json": b"{}", "model.safetensors.index.json": index.encode(), "consolidated.safetensors": b"c"}
    files |= {f"model-0000{i}-of-00002.safetensors": bytes([i]) * 9 for i in (1, 2)}
    server.add("org/shards", files)
    assert sorted(f["name"] for f in user.pull("org/shards")["files"]) == sorted(set(files) - {"consolidated.safetensors"})


def test_one_gguf_of_several(server, user):
    server.add("org/g", {"a-Q4_K_M.gguf": b"4", "a-Q8_0.gguf": b"8", "README.md": b"r"})
    assert "org/g/a-Q4_K_M.gguf" in user.run("pull", "org/g", code=2).stderr
    result = user.pull("org/g/a-Q8_0.gguf")
    assert result["path"].endswith("/a-Q8_0.gguf") and content(result["path"]) == b"8"
    assert [f["name"] for f in result["files"]] == ["a-Q8_0.gguf"]


def test_branches_tags_commits_and_requests(server, user):
    repository = server.add("org/r", weights_only(b"old"))
    old = repository.refs["main"]
    new = repository.push(weights_only(b"new"))
    repository.push(weights_only(b"branch"), "feature/x")
    repository.push(weights_only(b"request"), "refs/pr/7")
    for revision, data in {"": b"new", "@main": b"new", f"@{old}": b"old", "@feature%2Fx": b"branch", "@refs/pr/7": b"request"}.items():
        assert content(user.pull("org/r" + revision)["path"] + "/model.safetensors") == data
    refs = user.cache / "models--org--r/refs"
    assert content(refs / "main").decode() == new and (refs / "feature/x").is_file() and (refs / "refs/pr/7").is_file()
    assert not (refs / old).exists()
    repository.push(weights_only(b"newer"))
    assert content(user.pull("org/r")["path"] + "/model.safetensors") == b"newer"
    assert "no such revision" in user.run("pull", "org/r@v9", code=1).stderr


def test_large_files_come_in_parallel_ranges(server, user):
    server.add("org/large", weights_only())
    result = user.pull("org/large")
    assert content(result["path"] + "/model.safetensors") == LARGE
    ranges = [r["headers"].get("range") for r in server.of("cdn")]
    assert len(ranges) > 3 and all(ranges) and result["bytes_received"] == len(LARGE) + 2
    server.ranges = False  # a server that knows none
    other = LARGE[::-1]
    server.add("org/other", weights_only(other))
    assert content(user.pull("org/other")["path"] + "/model.safetensors") == other


def test_a_token_goes_to_the_hub_alone(server, user):
    server.add("org/private", weights_only(LARGE[:300_000]), token="hf_good")
    assert "HF_TOKEN" in user.run("pull", "org/private", code=1).stderr
    (user.home / "token").write_text("hf_good\n")
    user.pull("org/private", HF_TOKEN_PATH=str(user.home / "token"))
    sent = [r["headers"].get("authorization") for r in server.of("hub")]
    assert sent[0] is None and set(sent[1:]) == {"Bearer hf_good"}
    assert server.of("cdn") and all("authorization" not in r["headers"] for r in server.of("cdn"))
    run = user.run("pull", "org/private", "--all", code=1, HF_TOKEN="hf_good", HF_HUB_DISABLE_IMPLICIT_TOKEN="1")
    assert "hf_good" not in run.stderr
    assert "does not accept the token" in user.run("pull", "org/private", code=1, HF_TOKEN="hf_bad").stderr


def test_gated_and_missing_repositories_and_no_network(server, user):
    server.add("org/gated", weights_only(b"w"), token="hf_good", gated=True)
    assert "is gated: accept its terms" in user.run("pull", "org/gated", code=1).stderr
    server.tokens.add("hf_else")
    assert "is gated" in user.run("pull", "org/gated", code=1, HF_TOKEN="hf_else").stderr
    assert user.pull("org/gated", HF_TOKEN="hf_good")["files"]
    assert "check the name" in user.run("pull", "org/nothing", code=1).stderr
    assert "check the spelling" in user.run("pull", "org/nothing", code=1, HF_TOKEN="hf_good").stderr
    unreachable = user.run("pull", "org/gated", code=1, HF_ENDPOINT="http://127.0.0.1:1")
    assert "cannot reach http://127.0.0.1:1" in unreachable.stderr and unreachable.stderr.count("\n") == 1


def test_offline_makes_no_connection(server, user, tiny):
    server.add("org/tiny", tiny)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        assert "HF_HUB_OFFLINE forbids" in user.run("info", "org/tiny", code=1, **{name: "1"}).stderr
    assert server.connections == 0
    user.pull("org/tiny")
    before = server.connections
    assert user.run("run", "org/tiny", "--ids", "1,2", "-n", "2", HF_HUB_OFFLINE="1").stdout
    assert user.pull("org/tiny", HF_HUB_OFFLINE="1")["bytes_received"] == 0
    user.run("run", "org/tiny", "--ids", "1,2", "-n", "2")  # what the cache has whole is not asked for again
    assert server.connections == before


def test_a_repository_is_a_model_for_every_command(server, user, tiny, tmp_path):
    server.add("org/tiny", tiny)
    assert user.run("info", "org/tiny").stderr.startswith("downloading org/tiny from http://127.0.0.1:")
    assert not list(user.cache.glob("**/model.safetensors"))  # a config is enough
    run = user.run("run", "org/tiny@main", "--ids", "1,2", "-n", "2")
    assert "downloading" in run.stderr and run.stdout
    user.run("quantize", "org/tiny", "-o", tmp_path / "q")
    assert 'base_model: "org/tiny"' in (tmp_path / "q/README.md").read_text()
    user.run("bench", tmp_path / "q", "--kld", "org/tiny", "--ids-file", ids_file(tmp_path), "--ctx", "16")
    os.mkdir(tmp_path / "org")  # a path that is there comes first
    error = user.run("run", "org", "--ids", "1", code=1).stderr
    assert "config.json" in error or "no such" in error


def ids_file(tmp_path):
    (tmp_path / "ids.txt").write_text(",".join(str(i % 60 + 1) for i in range(40)))
    return tmp_path / "ids.txt"


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "C:/evil", "a\\..\\evil", "//host/share", "a//b"])
def test_hostile_file_names_are_refused(server, user, name):
    server.add("org/evil", weights_only(b"w", **{name: b"evil"}))
    assert "leave its directory" in user.run("pull", "org/evil", "--all", code=1).stderr
    assert not list(user.home.glob("**/evil*"))


def test_pickles_are_refused_before_any_download(server, user):
    server.add("org/pickle", {"config.json": b"{}", "model_int4.pt": LARGE[:200_000], "polar_config.json": b"{}"})
    error = user.run("pull", "org/pickle", code=1).stderr
    assert "pickle" in error and "hlwq quantize" in error and not server.of("cdn")


@pytest.mark.parametrize("kind", ["500", "503", "429", "cut", "corrupt", "416", "other version"])
def test_passing_faults_are_retried(server, user, kind):
    server.add("org/f", weights_only(LARGE[: 9 << 20]))
    server.faults = [Fault(kind)]
    assert content(user.pull("org/f")["path"] + "/model.safetensors") == LARGE[: 9 << 20]
    assert server.faults[0].count == 0


@pytest.mark.parametrize(("kind", "said"), [("corrupt", "hash"), ("404", "no "), ("403", "may not be read"), ("416", "other bytes")])
def test_lasting_faults_are_told(server, user, kind, said):
    server.add("org/f", weights_only(LARGE[:300_000]))
    server.faults = [Fault(kind, count=99)]
    run = user.run("pull", "org/f", code=1)
    assert said in run.stderr and run.stderr.count("\n") == 1
    assert not list(user.cache.glob("**/snapshots/*/model.safetensors"))
    server.faults = []
    assert content(user.pull("org/f")["path"] + "/model.safetensors") == LARGE[:300_000]


def test_a_failing_hub_is_retried_then_told(server, user):
    server.add("org/f", weights_only(b"w"))
    server.faults = [Fault("500", port="hub", count=2)]
    assert user.pull("org/f")["files"]
    server.faults = [Fault("500", port="hub", count=99)]
    assert "answers 500" in user.run("pull", "org/f", code=1).stderr


def start_pull(user, *arguments):
    return subprocess.Popen(
        [str(BINARY), "pull", *arguments], env=process_environment(user), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def process_environment(user, **more):
    return {k: v for k, v in (os.environ | user.env(**more)).items() if v is not None}


def test_a_pull_killed_at_20_points_goes_on(server, user):
    server.add("org/large", weights_only())
    server.raise_limit(0)
    for _ in range(20):
        server.raise_limit(server.sent + RANDOM.randrange(1, 1 << 20))
        process = start_pull(user, "org/large")
        assert server.wait_until_stopped()
        time.sleep(RANDOM.choice([0, 0.005, 0.1]))  # with more or less on its way
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    server.raise_limit(None)
    before = server.sent
    result = user.pull("org/large")
    assert content(result["path"] + "/model.safetensors") == LARGE
    assert os.path.basename(os.path.realpath(result["path"] + "/model.safetensors")) == sha256(LARGE)
    assert result["bytes_received"] < server.sent - before + (1 << 20) and result["bytes_received"] < 0.9 * len(LARGE)
    assert not list(user.cache.glob("**/*.incomplete"))


def test_ctrl_c_stops_and_the_next_pull_goes_on(server, user):
    server.add("org/large", weights_only())
    server.raise_limit(6 << 20)
    process = start_pull(user, "org/large")
    assert server.wait_until_stopped()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=10)
    assert process.returncode == 1 and error.decode().endswith("interrupted\n")
    server.raise_limit(None)
    result = user.pull("org/large")
    assert result["bytes_received"] < len(LARGE) - (3 << 20) and content(result["path"] + "/model.safetensors") == LARGE


def test_two_pulls_at_once(server, user):
    server.add("org/large", weights_only())
    processes = [start_pull(user, "org/large") for _ in range(2)]
    for process in processes:
        assert process.communicate(timeout=60) and process.returncode == 0
    assert server.sent < len(LARGE) * 1.2


def test_a_full_disk_is_told_before_the_download(server, user):
    server.add("org/f", weights_only(LARGE[:300_000]))
    server.repositories["org/f"].claimed = {"model.safetensors": 1 << 43}
    error = user.run("pull", "org/f", code=1).stderr
    assert "free" in error and not server.of("cdn")


def test_a_stalled_transfer_is_begun_again(server, user):
    server.add("org/f", weights_only(LARGE[:300_000]))
    server.faults = [Fault("stall")]
    assert content(user.pull("org/f", HF_HUB_DOWNLOAD_TIMEOUT="1")["path"] + "/model.safetensors") == LARGE[:300_000]
    assert len(server.of("cdn")) == 2


def test_https_wants_a_trusted_certificate_and_never_falls_back(user, tmp_path):
    """Checked against a certificate of our own making (openssl comes with ca-certificates)."""
    files = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    secure = HubServer(files)
    try:
        secure.add("org/small", weights_only(b"w"))
        secure.add("org/large", weights_only(LARGE[:300_000]))
        error = user.run("pull", "org/small", code=1, HF_ENDPOINT=secure.url).stderr
        assert "certificate" in error and not secure.requests
        trusting = {"HF_ENDPOINT": secure.url, "SSL_CERT_FILE": files[0]}
        assert content(user.pull("org/small", **trusting)["path"] + "/model.safetensors") == b"w"
        assert "secure" in user.run("pull", "org/large", code=1, **trusting).stderr and not secure.of("cdn")
    finally:
        secure.close()


def test_without_symlinks_contents_lie_in_the_snapshot(server, user):
    server.add("org/f", weights_only(b"w"))
    path = user.pull("org/f", HF_HUB_DISABLE_SYMLINKS="1")["path"]
    assert content(path + "/model.safetensors") == b"w" and not os.path.islink(path + "/model.safetensors")
    assert user.pull("org/f", HF_HUB_DISABLE_SYMLINKS="1")["bytes_received"] == 0


HUB_CLIENT = """
import sys
from huggingface_hub import hf_hub_download, snapshot_download
kind, name = sys.argv[1:]
if kind == "read":
    print(snapshot_download(name, local_files_only=True))
    print(hf_hub_download(name, "model.safetensors", local_files_only=True))
else:
    print(snapshot_download(name))
"""


def test_huggingface_hub_reads_our_cache_and_we_read_its(server, user, tiny):
    server.add("org/ours", tiny)
    server.add("org/theirs", tiny)

    def python(*arguments, **env):
        run = subprocess.run([sys.executable, "-c", HUB_CLIENT, *arguments], env=process_environment(user, **env),
                             capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return run.stdout.split()

    path = user.pull("org/ours")["path"]
    assert python("read", "org/ours", HF_HUB_OFFLINE="1") == [path, path + "/model.safetensors"]
    theirs = python("download", "org/theirs")[0]
    before = server.connections
    user.run("run", "org/theirs", "--ids", "1,2", "-n", "2")
    assert server.connections == before
    assert user.pull("org/theirs") | {"files": []} == {
        "path": theirs, "commit": os.path.basename(theirs), "bytes_received": 0, "files": []}
