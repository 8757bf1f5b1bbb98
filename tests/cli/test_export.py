"""export: every tensor's name, type and shape; INT4 within its rounding; nothing half-made is ever left."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import BINARY, asset, hlwq, hlwq_json
from safetensors.numpy import save_file

ITEM = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "I32": np.int32, "I64": np.int64, "U8": np.uint8}


def shards(model):
    index = model / "model.safetensors.index.json"
    if not index.exists():
        return ["model.safetensors"]
    return sorted(set(json.loads(index.read_text())["weight_map"].values()))


def read(model):
    """All tensors: {name: (dtype, array)}; BF16 comes as float32. Offsets must suit the type: torch views the file."""
    tensors = {}
    for shard in shards(model):
        blob = (model / shard).read_bytes()
        size = int.from_bytes(blob[:8], "little")
        assert size % 8 == 0
        for name, entry in json.loads(blob[8:8 + size]).items():
            if name == "__metadata__":
                continue
            item = ITEM[entry["dtype"]]
            begin, end = entry["data_offsets"]
            assert begin % np.dtype(item).itemsize == 0, name
            array = np.frombuffer(blob[8 + size + begin:8 + size + end], item).reshape(entry["shape"])
            if entry["dtype"] == "BF16":
                array = (array.astype(np.uint32) << 16).view(np.float32)
            assert name not in tensors
            tensors[name] = (entry["dtype"], array)
    return tensors


def unpack(packed, scale):
    codes = (packed.view(np.uint32)[:, :, None] >> (4 * np.arange(8, dtype=np.uint32)) & 15).astype(np.int64) - 8
    codes = codes.reshape(len(packed), -1)
    return codes, codes.astype(np.float32) * np.repeat(scale, codes.shape[1] // scale.shape[1], axis=1)


def check_int4(module, tensors, weight, group):
    """The three tensors of one linear against the weight they stand for."""
    rows, cols = weight.shape
    dtype, packed = tensors[module + ".weight_packed"]
    assert dtype == "I32" and packed.shape == (rows, cols // 8)
    dtype, scale = tensors[module + ".weight_scale"]
    assert dtype == "BF16" and scale.shape == (rows, cols // group) and (scale > 0).all()
    dtype, shape = tensors[module + ".weight_shape"]
    assert dtype == "I64" and shape.tolist() == [rows, cols]
    codes, value = unpack(packed, scale)
    step = np.repeat(scale, group, axis=1)
    # Inside the range a weight lies within half a step of its code. `weight` was rounded to BF16 itself (at most 2^-8
    # of it), and the division rounds in its last bit, 2^-20 of a step at most.
    inside = (codes > -8) & (codes < 7)
    error = np.abs(value - weight)
    assert (error[inside] <= ((0.5 + 2**-20) * step + 2**-8 * np.abs(weight))[inside]).all()
    # What is cut off lies beyond the last code, and as a whole a group errs no more than with nothing cut off.
    assert (np.abs(weight) >= (np.where(codes < 0, 7.5, 6.5) - 2**-5) * step)[~inside].all()
    groups = weight.reshape(rows, -1, group).astype(np.float64)
    plain = np.abs(groups).max(axis=2, keepdims=True) / 7 / 2
    ours = (error.reshape(groups.shape).astype(np.float64) ** 2).sum(axis=2)
    assert (ours <= 1.03 * group * plain[..., 0] ** 2).all()  # 1.03: BF16 of the scale and of the weight


@pytest.fixture(scope="module")
def nano_bf16(nano_q5, tmp_path_factory):
    """What the codes of nano-q5 decode to."""
    out = tmp_path_factory.mktemp("export") / "bf16"
    hlwq("export", nano_q5, "-o", out, "--to", "safetensors")
    return out


def test_bf16_has_the_tensors_of_the_original(nano, nano_bf16):
    original, decoded = read(nano), read(nano_bf16)
    assert decoded.keys() == original.keys()
    for name, (dtype, array) in decoded.items():
        assert dtype == "BF16" and array.shape == original[name][1].shape
        if "vision" in name or "norm" in name or "scalar" in name:
            assert np.array_equal(array, original[name][1])
    config = json.loads((nano_bf16 / "config.json").read_text())
    assert config == json.loads((nano / "config.json").read_text())
    assert os.listdir(nano_bf16.parent) == ["bf16"]


def test_bf16_of_bf16_is_the_same(nano, tmp_path):
    hlwq("export", nano, "-o", tmp_path / "out", "--to", "safetensors")
    a, b = read(nano), read(tmp_path / "out")
    assert a.keys() == b.keys() and all(np.array_equal(a[n][1], b[n][1]) for n in a)


def test_bf16_answers_as_the_codes_do(nano_q5, nano_bf16):
    """The codes run with INT8 activations, the export in floats: the likeliest tokens agree, log-probabilities nearly."""
    answers = [hlwq_json("run", m, "-p", "What do you see?", "-n", 1, "--greedy", "--logprobs", 1)
               for m in (nano_q5, nano_bf16)]
    assert answers[0]["ids"] == answers[1]["ids"]
    assert answers[0]["logprobs"][0]["logprob"] == pytest.approx(answers[1]["logprobs"][0]["logprob"], abs=0.3)


@pytest.mark.parametrize("group", [32, 64, 128])
def test_int4_of_codes(nano, nano_q5, nano_bf16, group, tmp_path):
    out = tmp_path / "ct"
    report = hlwq_json("export", nano_q5, "-o", out, "--to", "compressed-tensors", "--group-size", group)
    decoded, tensors = read(nano_bf16), read(out)
    expected = set()
    for name, (_, weight) in decoded.items():
        module = name.removesuffix(".weight")
        linear = "language_model.layers" in name and name.endswith("_proj.weight")
        if linear and weight.shape[1] % group == 0:
            check_int4(module, tensors, weight, group)
            expected |= {module + ".weight_packed", module + ".weight_scale", module + ".weight_shape"}
        else:
            assert tensors[name][0] == "BF16" and np.array_equal(tensors[name][1], weight)
            expected.add(name)
    assert tensors.keys() == expected

    coded = [t for t in report["tensors"] if t["format"] == "int4"]
    assert coded and all(0.004 < t["mse"] < 0.02 for t in coded)
    assert report["bytes_out"] == sum(t["bytes"] for t in report["tensors"])
    config = json.loads((out / "config.json").read_text())
    q = config.pop("quantization_config")
    assert config == json.loads((nano / "config.json").read_text())
    assert q["quant_method"] == "compressed-tensors" and q["format"] == "pack-quantized"
    assert q["quantization_status"] == "compressed" and q["kv_cache_scheme"] is None
    assert list(q["config_groups"]) == ["group_0"]
    scheme = q["config_groups"]["group_0"]
    assert scheme["targets"] == ["Linear"] and scheme["input_activations"] is None
    assert scheme["weights"] == {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group",
                                 "group_size": group, "dynamic": False}
    assert {"lm_head", "re:.*vision_tower.*", "re:.*embed_vision.*"} <= set(q["ignore"])
    for file in ("tokenizer.json", "tokenizer_config.json", "processor_config.json", "generation_config.json",
                 "chat_template.jinja"):
        assert (out / file).read_bytes() == (nano_q5 / file).read_bytes()


def test_shards(nano_q5, tmp_path):
    hlwq("export", nano_q5, "-o", tmp_path / "one", "--to", "compressed-tensors")
    hlwq("export", nano_q5, "-o", tmp_path / "many", "--to", "compressed-tensors", "--shard-size", "8MB", "-t", 1)
    names = shards(tmp_path / "many")
    assert len(names) > 2 and names[0] == f"model-00001-of-{len(names):05}.safetensors"
    one, many = read(tmp_path / "one"), read(tmp_path / "many")
    assert one.keys() == many.keys()
    assert all(np.array_equal(one[n][1], many[n][1]) for n in one)
    index = json.loads((tmp_path / "many/model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == many.keys()


def test_experts_are_one_linear_each(tmp_path):
    model = asset("gemma4_moe")
    hlwq("export", model, "-o", tmp_path / "ct", "--to", "compressed-tensors", "--group-size", 32)
    source, tensors = read(model), read(tmp_path / "ct")
    assert not any(n.endswith(("experts.gate_up_proj", "experts.down_proj")) for n in tensors)
    gate_up = source["model.layers.1.experts.gate_up_proj"][1]
    down = source["model.layers.1.experts.down_proj"][1]
    inner = down.shape[2]
    for e in range(len(down)):
        prefix = f"model.layers.1.experts.{e}."
        check_int4(prefix + "gate_proj", tensors, gate_up[e, :inner], 32)
        check_int4(prefix + "up_proj", tensors, gate_up[e, inner:], 32)
        check_int4(prefix + "down_proj", tensors, down[e], 32)
    assert "model.layers.1.router.proj.weight" in tensors
    assert "re:.*router.*" in json.loads((tmp_path / "ct/config.json").read_text())["quantization_config"]["ignore"]


def test_experts_that_do_not_fit_stay_together(tmp_path):
    """The experts' inner width is 96: 128 divides half of the stack only, so all of it stays."""
    run = hlwq("export", asset("gemma4_moe"), "-o", tmp_path / "ct", "--to", "compressed-tensors")
    assert "note: " in run.stderr and "experts" in run.stderr
    tensors = read(tmp_path / "ct")
    assert "model.layers.0.experts.gate_up_proj" in tensors and "model.layers.0.experts.down_proj" in tensors
    ignore = json.loads((tmp_path / "ct/config.json").read_text())["quantization_config"]["ignore"]
    assert any("experts" in entry for entry in ignore)


def bf16(array):
    u = np.asarray(array, np.float32).view(np.uint32)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


def test_odd_widths(tmp_path):
    """Widths that no group divides, one row, odd counts of scales, integers, an empty and a three-dimensional tensor."""
    rng = np.random.default_rng(1)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    tensors = {
        "model.embed_tokens.weight": normal(7, 50),
        "model.layers.0.self_attn.q_proj.weight": normal(5, 50),
        "model.layers.0.self_attn.o_proj.weight": normal(1, 32),
        "model.layers.0.mlp.up_proj.weight": normal(3, 96),
        "model.layers.0.mlp.down_proj.weight": normal(9, 160).astype(np.float16),
        "model.layers.0.mlp.up_proj.bias": normal(3),
        "model.layers.0.kernel": normal(2, 3, 32),
        "model.layers.0.positions": np.arange(3, dtype=np.int64),
        "model.layers.0.mask": np.arange(5, dtype=np.uint8),
        "model.layers.0.scalar": np.array(2.5, np.float32),
        "lm_head.weight": normal(7, 64),
    }
    source = tmp_path / "model"
    source.mkdir()
    save_file(tensors, source / "model.safetensors")
    (source / "config.json").write_text('{"model_type": "llama"}')
    run = hlwq("export", source, "-o", tmp_path / "ct", "--to", "compressed-tensors", "--group-size", 32)
    assert "50 columns" in run.stderr
    out = read(tmp_path / "ct")
    for module in ("self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
        name = "model.layers.0." + module
        check_int4(name, out, tensors.pop(name + ".weight").astype(np.float32), 32)
        for part in ("packed", "scale", "shape"):
            del out[f"{name}.weight_{part}"]
    assert out.keys() == tensors.keys()
    for name, array in tensors.items():
        want = array if array.dtype.kind in "iu" else bf16(array)
        assert np.array_equal(out[name][1].reshape(array.shape), want.reshape(array.shape)), name
    q = json.loads((tmp_path / "ct/config.json").read_text())["quantization_config"]
    # vLLM fuses q, k and v: all are named, although this layer has no k and v of its own.
    assert {f"model.layers.0.self_attn.{x}_proj" for x in "qkv"} | {"lm_head"} <= set(q["ignore"])
    assert not any("mlp" in entry or "o_proj" in entry for entry in q["ignore"])


def test_wrong_use(llama, nano_q5, tmp_path):
    out = tmp_path / "out"
    hlwq("export", llama, "--to", "safetensors", code=2)
    hlwq("export", llama, "-o", out, code=2)
    hlwq("export", llama, "-o", out, "--to", "gguf", code=2)
    hlwq("export", llama, "-o", out, "--to", "compressed-tensors", "--group-size", 48, code=2)
    hlwq("export", llama, "-o", out, "--to", "safetensors", "--shard-size", "much", code=2)
    assert "no such model" in hlwq("export", tmp_path / "none", "-o", out, "--to", "safetensors", code=1).stderr
    out.mkdir()
    (out / "mine").write_text("x")
    hlwq("export", llama, "-o", out, "--to", "safetensors", code=1)
    assert os.listdir(out) == ["mine"]
    hlwq("export", nano_q5, "-o", out, "--to", "compressed-tensors", "--force")
    again = hlwq("export", out, "-o", tmp_path / "twice", "--to", "safetensors", code=1)
    assert "already quantized" in again.stderr and sorted(os.listdir(tmp_path)) == ["out"]


def test_interrupted_leaves_nothing(tmp_path):
    source, work = tmp_path / "model", tmp_path / "work"
    source.mkdir()
    work.mkdir()
    weight = np.random.default_rng(0).standard_normal((4096, 4096), dtype=np.float32)
    save_file({f"model.layers.{i}.mlp.up_proj.weight": weight for i in range(8)}, source / "model.safetensors")
    (source / "config.json").write_text("{}")
    process = subprocess.Popen([BINARY, "export", source, "-o", work / "q", "--to", "compressed-tensors", "-t", "1"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size for d in work.iterdir() for p in d.iterdir()):
        assert process.poll() is None and time.monotonic() < deadline, "it was over before the signal was sent"
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "interrupted" in err and out == ""
    assert os.listdir(work) == []
