"""hlwq.quantize, and repositories as models."""

import os
import shutil
import subprocess
import sys

import pytest

hlwq = pytest.importorskip("hlwq", reason="the build has no Python package (cmake -DHLWQ_PYTHON=ON)")
from hlwq.quantization import parse_size  # noqa: E402


def test_quantize_writes_what_the_command_writes(command, assets, tmp_path):
    source, seen = assets / "llama_tied", []
    result = hlwq.quantize(source, tmp_path / "ours", bits=4, progress=lambda *args: seen.append(args))
    command("hlwq", "quantize", source, "-o", tmp_path / "theirs", "--bits", 4)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    assert result["bits_per_weight"] < 16 and result["bytes_out"] < result["bytes_in"]
    assert {t["bits"] for t in result["tensors"]} == {0, 4}
    assert hlwq.Model.from_pretrained(tmp_path / "ours").logits([1, 2]).shape[0] == 2
    assert not seen or (seen[-1][2] == "quantizing" and seen[-1][0] <= seen[-1][1])


def test_a_model_quantizes_itself_and_errors_are_clear(nano, q5, nano_path, tmp_path):
    assert nano.quantize(tmp_path / "q8", policy="q8")["bits_per_weight"] > 8
    assert hlwq.Model.from_pretrained(tmp_path / "q8").generate("What is 2 + 3?", temperature=0) == "2 + 3 = 5."
    with pytest.raises(hlwq.UnsupportedError):
        q5.quantize(tmp_path / "again")
    for options, words in [
        ({"bits": 9}, "bits goes"), ({"bits": 4, "policy": "q4"}, "bits and policy"), ({"layout": "x"}, "native"),
        ({"bpw": 1.0}, "goes from bpw"), ({"size": "1 KB"}, "which is size"), ({"lags": 4}, "lags goes"),
        ({"calibrate": "builtin", "norm": "published"}, "corrected"), ({"device": "tpu"}, "cuda:N"),
        ({"policy": "none"}, "default"),
    ]:  # fmt: skip
        with pytest.raises(hlwq.InvalidArgumentError, match=words) as caught:
            hlwq.quantize(nano_path, tmp_path / "none", **options)
        assert "--" not in str(caught.value)
    with pytest.raises(hlwq.DeviceError):
        hlwq.quantize(nano_path, tmp_path / "none", device="cuda:1000")
    with pytest.raises(hlwq.NotFoundError):
        hlwq.quantize(tmp_path / "nothing", tmp_path / "none")
    with pytest.raises(hlwq.Error, match="exists"):
        hlwq.quantize(nano_path, tmp_path / "q8")
    assert os.listdir(tmp_path) == ["q8"]


def test_a_progress_that_raises_ends_it(nano_path, tmp_path):
    def stop(*_):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        hlwq.quantize(nano_path, tmp_path / "q", lags=3, bits=2, progress=stop)
    assert os.listdir(tmp_path) == []


INTERRUPTED = """
import os, signal, sys
import hlwq
signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in a shell's background, it is ignored
try:
    hlwq.quantize(sys.argv[1], sys.argv[2], bits=2, lags=3, progress=lambda *_: os.kill(os.getpid(), signal.SIGINT))
    print("not interrupted")
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_leaves_nothing(nano_path, tmp_path, environment):
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, str(nano_path), str(tmp_path / "q")], env=environment,
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.stdout == "interrupted\n", done.stderr
    assert os.listdir(tmp_path) == []


def test_sizes():
    assert [parse_size(s) for s in (7, "7", "19.9GB", "800 MB", "15GiB", "2kb")] == [
        7, 7, 19_900_000_000, 800_000_000, 15 * 2**30, 2000]  # fmt: skip
    for bad in ("GB", "x", "5TB", ""):
        with pytest.raises(hlwq.InvalidArgumentError, match="unit"):
            parse_size(bad)


def test_repositories_are_models(q5_path, tmp_path, monkeypatch):
    """The shared cache, without a connection."""
    snapshot = tmp_path / "models--owner--nano" / "snapshots" / ("a" * 40)
    shutil.copytree(q5_path, snapshot, copy_function=shutil.copyfile)
    refs = tmp_path / "models--owner--nano" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hlwq.Model.from_pretrained("owner/nano").path == str(snapshot)
    with pytest.raises(hlwq.NotFoundError, match="OFFLINE"):
        hlwq.Model.from_pretrained("owner/other")
    with pytest.raises(hlwq.InvalidArgumentError):
        hlwq.Model.from_pretrained("owner/nano@main/../..")
    with pytest.raises(hlwq.NotFoundError, match="no such file"):
        hlwq.Model.from_pretrained("no-such-model")
