"""The commands `hlwq` and `polarquant`, and the published class."""

import json
import shutil

import pytest

hlwq = pytest.importorskip("hlwq", reason="the build has no Python package (cmake -DHLWQ_PYTHON=ON)")


def test_hlwq_is_the_program(command, q5_path):
    assert command("hlwq", "--version").stdout.strip().endswith(hlwq.__version__)
    assert json.loads(command("hlwq", "info", q5_path, "--json").stdout)["family"] == "gemma4"
    assert command("hlwq", "run", q5_path, code=2).stderr  # exit codes pass through


def test_polarquant_chat(command, q5_path):
    flags = ["--nbits-kv", 3, "--no-share", "--vision", "--port", 7860, "--max-tokens", 20, "--temperature", 0]
    chat = command("polarquant", "chat", q5_path, *flags, "--top-p", 0.9, stdin="What is 2 + 3?\n")
    assert "5" in chat.stdout and "--port" in chat.stderr
    again = command("hlwq", "chat", q5_path, "--kv-bits", 3, "-n", 20, "--greedy", stdin="What is 2 + 3?\n")
    assert again.stdout == chat.stdout


def test_polarquant_quantize_and_info(command, nano_path, tmp_path):
    shutil.copytree(nano_path, tmp_path / "nano", copy_function=shutil.copyfile)
    done = command("polarquant", "quantize", "nano", "--nbits", 4, "--no-int4", "--vision", cwd=tmp_path)
    assert "nano-HLWQ-Q4" in done.stderr and (tmp_path / "nano-HLWQ-Q4/model.safetensors").is_file()
    refused = command("polarquant", "quantize", "nano", "-o", "x/y", "--upload", code=2, cwd=tmp_path)
    assert "hf upload" in refused.stderr and not (tmp_path / "x").exists()
    assert "q4-l2" in command("polarquant", "info", "nano", "--nbits", 4, cwd=tmp_path).stdout


def test_polarquant_bench(command, q5_path, nano_path, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text((nano_path / "golden/heldout.txt").read_text()[:1500])
    bench = command("polarquant", "bench", q5_path, "--ppl", "--chart", "--text-file", text, "--max-length", 256,
                    cwd=tmp_path)  # fmt: skip
    assert "perplexity" in bench.stdout and list((tmp_path / "gemma4-nano-q5-charts").glob("*.svg"))
    command("polarquant", "bench", nano_path, "--compare", "fp16,torchao", "--text-file", text, "--max-length", 256,
            "-o", "out.json", cwd=tmp_path)  # fmt: skip
    assert "int4" in (tmp_path / "out.json").read_text()
    assert "AWQ" in command("polarquant", "bench", nano_path, "--compare", "awq", "--text-file", text, code=2).stderr
    assert "measured" in command("polarquant", "bench", nano_path, "--compare-ppl", "awq=7", code=2).stderr


def test_polarquant_says_what_there_is_not(command):
    for name in ("serve", "gguf", "llamacpp", "vllm-kv", "mlx", "finetune", "monitor", "collection"):
        assert name in command("polarquant", name, "--whatever", code=2).stderr
    assert "COMMAND" in command("polarquant", code=2).stderr


def test_the_published_class(q5_path, caplog):
    from polarengine_vllm import PolarQuantModel

    model = PolarQuantModel.from_pretrained(q5_path, kv_cache_nbits=3, trust_remote_code=True, device_map="cpu")
    assert "no code" in caplog.text
    text = model.generate("What is 2 + 3?", max_new_tokens=100, do_sample=False)
    assert type(text) is str and "5" in text
    assert model.tokenizer.encode("hello") and "V3" in model.model.info()["kv"]
    with pytest.raises(hlwq.UnsupportedError, match="by hand"):
        PolarQuantModel.from_pretrained(q5_path, device_map={"model.layers.0": 0})
