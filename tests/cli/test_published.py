"""The published formats F1 to F6, as the published code makes them."""

import json
import shutil
import sys

import numpy as np
import pytest
from conftest import ROOT, hlwq, hlwq_json

sys.path.insert(0, str(ROOT / "tests/golden"))
import published_formats as published  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402
from safetensors_files import Weights  # noqa: E402

FORMATS = ["F1", "F2", "F3", "F4", "F5", "F6"]


def test_the_script_is_the_published_code():
    """Vectors that the package's own functions made, bit by bit."""
    vectors = json.loads((ROOT / "tests/golden/published_oracle.json").read_text())
    w = np.array(vectors["weights"], np.float32)
    for bits, entry in vectors["widths"].items():
        bits = int(bits)
        ct = published.table(bits, "b")
        assert np.array_equal(ct.view(np.uint32), entry["ct"])
        assert np.array_equal((ct / np.float32(np.sqrt(128))).view(np.uint32), entry["ct_scaled"])
        codes, norms = published.encode(w, bits, ct)
        assert np.array_equal(codes, entry["codes"]) and np.array_equal(norms.view(np.uint16), entry["norms"])
        if bits <= 4:
            assert np.array_equal(published.half_blocks(codes), entry["half_blocks"])
        if bits == 5:
            assert np.array_equal(published.lsb_first(codes), entry["lsb_first"])


def bf16(x):
    """To nearest, ties to even, as floats."""
    u = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


@pytest.fixture(scope="module", params=[(f, t) for f in FORMATS for t in "ab"], ids=lambda p: "-".join(p))
def checkpoint(request, llama, tmp_path_factory):
    kind, variant = request.param
    out = tmp_path_factory.mktemp("published") / f"{kind}{variant}"
    exact = published.make(llama, out, kind, variant)
    if kind in ("F4", "F5", "F6"):  # this model is too small to tell the table by its codes
        (out / "hlwq_config.json").write_text(json.dumps({"codebook": "published-" + variant}))
    return kind, variant, out, exact


def test_decodes_as_the_formula_says(checkpoint, tmp_path):
    kind, _, directory, exact = checkpoint
    hlwq("export", directory, "-o", tmp_path / "bf16", "--to", "safetensors")
    weights = Weights(tmp_path / "bf16")
    for name, values in exact.items():
        got = weights.floats(name)[:, : values.shape[1]]
        # We decode in single precision: the levels, seven butterfly stages on sums up to `top`, each rounded, and two
        # products come to less than 10 * 2^-24 * top. Only what lies so close to the middle of two BF16 numbers may be
        # rounded to the other one.
        top = np.abs(values).max() * np.sqrt(128)
        margin = 10 * 2.0**-24 * top
        assert np.all((bf16(values - margin) <= got) & (got <= bf16(values + margin))), name
        assert np.mean(got != bf16(values)) < 1e-3, name
        if kind not in ("F5", "F6"):
            assert weights.raw(name).shape == values.shape


def test_runs_like_its_exact_values(checkpoint, llama, tmp_path):
    """The same model with the formula's values as F32: what differs is the 8-bit rounding of activations."""
    _, _, directory, exact = checkpoint
    plain = tmp_path / "plain"
    plain.mkdir()
    shutil.copyfile(llama / "config.json", plain / "config.json")
    source = Weights(llama)
    save_file({n: np.ascontiguousarray(exact[n].astype(np.float32) if n in exact else source.floats(n)) for n in source.at},
              plain / "model.safetensors")
    (tmp_path / "ids").write_text(",".join(str(i * 37 % 300 + 3) for i in range(64)))
    result = hlwq_json("bench", directory, "--kld", plain, "--ids-file", tmp_path / "ids", "--ctx", "32")
    assert result["kl_mean"] < 0.02 and result["top1"] > 0.8


def test_the_table_is_said(checkpoint):
    kind, variant, directory, _ = checkpoint
    notes = " ".join(hlwq_json("info", directory)["notes"])
    if kind in ("F1", "F2", "F3"):
        assert "published" not in notes  # the file has it
    else:
        assert f"published-{variant}" in notes and "named by its config" in notes


@pytest.mark.parametrize("variant", ["a", "b"])
def test_the_table_is_recognised(nano, tmp_path, variant):
    out = tmp_path / "m"
    published.make(nano, out, "F4", variant)
    (out / "hlwq_config.json").unlink()
    run = hlwq("run", out, "-p", "a", "-n", "1")
    assert f"(published-{variant}), recognised by the frequencies of the codes" in run.stderr


def test_a_folder_of_codes_from_the_hub(server, user, llama, tmp_path):
    published.make(llama, tmp_path / "m", "F5", "a")
    files = {p.relative_to(tmp_path / "m").as_posix(): p.read_bytes() for p in (tmp_path / "m").rglob("*") if p.is_file()}
    server.add("org/one", files)
    server.add("org/two", files | {"PQ3/codes.safetensors": files["PQ5/codes.safetensors"]})
    assert "org/two/PQ5 or another" in user.run("run", "org/two", "--ids", "1", code=2).stderr
    for model in ("org/one", "org/one/PQ5", "org/two/PQ3"):
        assert user.run("run", model, "--ids", "1,2", "-n", "2").stdout


def test_folders_of_codes_and_what_is_refused(llama, tmp_path):
    out = tmp_path / "m"
    published.make(llama, out, "F5", "a")
    for path in (out, out / "PQ5"):
        assert hlwq("run", path, "--ids", "1,2", "-n", "2").stdout
    shutil.copytree(out / "PQ5", out / "PQ3")
    assert "several widths" in hlwq("run", out, "--ids", "1", code=1).stderr
    assert hlwq("run", out / "PQ3", "--ids", "1,2", "-n", "2").stdout

    pickle = tmp_path / "pickle"
    pickle.mkdir()
    (pickle / "config.json").write_text("{}")
    (pickle / "model_int4.pt").write_bytes(b"\x80\x02.")
    (pickle / "polar_config.json").write_text('{"weight_format": "torchao_int4", "base_model": "org/base"}')
    error = hlwq("info", pickle, code=1).stderr
    assert "pickle" in error and "hlwq quantize org/base" in error

    eoq = tmp_path / "eoq"
    eoq.mkdir()
    shutil.copyfile(llama / "config.json", eoq / "config.json")
    save_file({"model.embed_tokens.codes": np.zeros((2, 128), np.int8), "model.embed_tokens.scales": np.zeros((2, 1), np.float16)},
              eoq / "model.safetensors")
    assert "EOQ" in hlwq("run", eoq, "--ids", "1", code=1).stderr
    (eoq / "model.safetensors").unlink()
    (eoq / "model.eoq").write_bytes(b"x")
    assert "EOQ" in hlwq("info", eoq, code=1).stderr


@pytest.mark.parametrize("scales", ["bf16", "f32"])
def test_int4_of_compressed_tensors_is_read(llama, tmp_path, scales):
    """Our own W4A16 export, and the same with scales that no FP16 holds, against its numbers as F32."""
    int4, plain = tmp_path / "int4", tmp_path / "plain"
    hlwq("export", llama, "-o", int4, "--to", "compressed-tensors", "--group-size", "32")
    stored = Weights(int4)
    tensors, exact = {}, {}
    for name in stored.at:
        if name.endswith("_packed"):
            prefix = name.removesuffix("_packed")
            scale = stored.floats(prefix + "_scale") * np.float32(1 if scales == "bf16" else 1.001)
            words = stored.raw(name)
            codes = (words[..., None] >> np.arange(0, 32, 4) & 15).reshape(words.shape[0], -1) - 8
            exact[prefix] = codes.astype(np.float32) * np.repeat(scale, 32, axis=1)
            tensors |= {name: words.copy(), prefix + "_scale": scale, prefix + "_shape": stored.raw(prefix + "_shape").copy()}
        elif not name.endswith(("_scale", "_shape")):
            tensors[name] = exact[name] = stored.floats(name)
    assert len(tensors) > len(exact)
    if scales == "f32":
        save_file(tensors, int4 / "model.safetensors")
    plain.mkdir()
    shutil.copyfile(llama / "config.json", plain / "config.json")
    save_file({n: np.ascontiguousarray(w) for n, w in exact.items()}, plain / "model.safetensors")
    (tmp_path / "ids").write_text(",".join(str(i * 37 % 300 + 3) for i in range(64)))
    result = hlwq_json("bench", int4, "--kld", plain, "--ids-file", tmp_path / "ids", "--ctx", "32")
    assert abs(result["kl_mean"]) < 1e-6 and result["top1"] == 1
    config = json.loads((int4 / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] = 8
    (int4 / "config.json").write_text(json.dumps(config))
    assert "8 bits" in hlwq("run", int4, "--ids", "1", code=1).stderr
