"""quantize: results, policies, and that nothing half-made is ever left."""

import json
import os
import resource
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import BINARY, GOLDENS, asset, hlwq, hlwq_json
from safetensors.numpy import save_file

# Relative MSE of each width on Gaussian weights, and a bound that also covers the small random matrices here:
# their blocks are as short as 32, where the corrected norm gains and the code's spread both are some percent.
GAUSSIAN_MSE = {2: 0.117482, 3: 0.034548, 4: 0.009501, 5: 0.002505, 6: 0.000642}


@pytest.mark.parametrize("name", GOLDENS)
def test_report_of_the_default_policy(name, tmp_path):
    out = tmp_path / "q"
    report = hlwq_json("quantize", asset(name), "-o", out)
    assert {"tensors", "bytes_in", "bytes_out", "seconds"} <= set(report)
    coded = [t for t in report["tensors"] if t["bits"]]
    assert coded and all({"name", "bits", "mse", "cosine"} <= set(t) for t in report["tensors"])
    for t in coded:
        assert t["bits"] == (6 if "embed_tokens.weight" in t["name"] or "lm_head" in t["name"] else 5)
        assert 0 < t["mse"] < 1.15 * GAUSSIAN_MSE[t["bits"]]
        assert t["cosine"] == pytest.approx(np.sqrt(1 - t["mse"]), abs=1e-3)
    assert all(t["mse"] == 0 for t in report["tensors"] if not t["bits"])
    assert report["bytes_out"] < report["bytes_in"]
    config = json.loads((out / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "hlwq"
    assert os.listdir(tmp_path) == ["q"]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_every_width_runs(llama, bits, tmp_path):
    report = hlwq_json("quantize", llama, "-o", tmp_path / "q", "--bits", bits)
    assert {t["bits"] for t in report["tensors"]} == {0, bits}
    answer = hlwq_json("run", tmp_path / "q", "--ids", "2,5,9", "-n", 4, "--greedy", "--ignore-eos")
    assert len(answer["ids"]) == 4


def test_policy_file(llama, tmp_path):
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"default": {"bits": 4}, "rules": [
        {"match": "*.down_proj.weight", "bits": 8}, {"match": "*embed*", "bits": None}]}))
    report = hlwq_json("quantize", llama, "-o", tmp_path / "q", "--policy", policy)
    for t in report["tensors"]:
        if "down_proj" in t["name"]:
            assert t["bits"] == 8
        elif "embed" in t["name"]:
            assert t["bits"] == 0
        elif "q_proj.weight" in t["name"]:
            assert t["bits"] == 4
    policy.write_text('{"rules": 5}')
    hlwq("quantize", llama, "-o", tmp_path / "r", "--policy", policy, code=1)
    assert not (tmp_path / "r").exists()


def test_published_layout_is_written_and_read(llama, tmp_path):
    hlwq("quantize", llama, "-o", tmp_path / "p", "--layout", "published")
    answer = hlwq_json("run", tmp_path / "p", "--ids", "2,5,9", "-n", 4, "--greedy", "--ignore-eos")
    assert len(answer["ids"]) == 4


def test_table_on_stdout(llama, tmp_path):
    run = hlwq("quantize", llama, "-o", tmp_path / "q")
    assert "embedding" in run.stdout and "relative MSE" in run.stdout and "total" in run.stdout
    assert "\x1b" not in run.stdout + run.stderr  # no terminal, no escape sequences


def test_existing_output_is_kept_unless_forced(llama, tmp_path):
    out = tmp_path / "q"
    out.mkdir()
    (out / "precious").write_text("data")
    hlwq("quantize", llama, "-o", out, code=1)
    assert os.listdir(out) == ["precious"]
    hlwq("quantize", llama, "-o", out, "--force")
    assert "config.json" in os.listdir(out)
    hlwq("quantize", out, "-o", tmp_path / "again", code=1)  # quantised already
    assert os.listdir(tmp_path) == ["q"]


def test_not_a_number_is_named(llama, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_bytes((llama / "config.json").read_bytes())
    weights = np.ones((64, 96), np.float32)
    weights[3, 7] = np.nan
    save_file({"model.layers.0.self_attn.q_proj.weight": weights}, source / "model.safetensors")
    run = hlwq("quantize", source, "-o", tmp_path / "q", code=1)
    assert "q_proj" in run.stderr and os.listdir(tmp_path) == ["source"]


def test_a_device_that_is_not_there_is_said_at_once(llama, tmp_path):
    run = hlwq("quantize", llama, "-o", tmp_path / "q", "--device", "cuda:1000", code=1)
    assert "CUDA" in run.stderr
    run = hlwq("quantize", llama, "-o", tmp_path / "q", "--device", "tpu", code=2)
    assert "cuda:N" in run.stderr
    assert not os.listdir(tmp_path)


@pytest.fixture(scope="module")
def big_model(tmp_path_factory):
    """Random weights that take one thread a second or more: 100 M of them."""
    source = tmp_path_factory.mktemp("big") / "source"
    source.mkdir()
    (source / "config.json").write_bytes((asset("llama_tied") / "config.json").read_bytes())
    noise = np.random.default_rng(1).standard_normal((4096, 4096)).astype(np.float16)
    save_file({f"model.layers.{i}.mlp.down_proj.weight": noise for i in range(6)}, source / "model.safetensors")
    return source


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_leaves_nothing(big_model, tmp_path, sent):
    process = subprocess.Popen([BINARY, "quantize", big_model, "-o", tmp_path / "q", "--threads", "1"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size for d in tmp_path.iterdir() for p in d.iterdir()):  # until tensor data is written
        assert process.poll() is None and time.monotonic() < deadline, "it was over before the signal was sent"
        time.sleep(0.002)
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "interrupted" in err and out == ""
    assert os.listdir(tmp_path) == []


def test_file_size_limit_is_a_clear_error(big_model, tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20))

    run = subprocess.run([BINARY, "quantize", big_model, "-o", tmp_path / "q"], capture_output=True, text=True,
                         preexec_fn=limit)
    assert run.returncode == 1 and run.stderr.startswith("hlwq: ") and "too large" in run.stderr
    assert os.listdir(tmp_path) == []


def test_full_disk_is_a_clear_error(big_model, tmp_path):
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", tmp_path], capture_output=True, text=True)
    if mount.returncode != 0:
        pytest.skip("a small file system cannot be mounted here: " + mount.stderr.strip())
    try:
        run = hlwq("quantize", big_model, "-o", tmp_path / "q", code=1)
        assert "space" in run.stderr or "full" in run.stderr
        assert os.listdir(tmp_path) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)
