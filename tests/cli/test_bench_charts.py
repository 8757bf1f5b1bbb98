"""bench: its pictures, as SVG and PNG, and the files it writes."""

import json
import shutil
import xml.etree.ElementTree as ElementTree

from conftest import hlwq, hlwq_json

PNG = b"\x89PNG\r\n\x1a\n"


def texts(svg):
    return [e.text for e in ElementTree.parse(svg).getroot().iter("{http://www.w3.org/2000/svg}text")]


def test_bench_charts(nano_q5, tmp_path):
    """Each picture as SVG and, where rsvg-convert is installed, as PNG; its figures are those of the JSON and of info."""
    charts = tmp_path / "charts"
    b = hlwq_json("bench", nano_q5, "--speed", "--prompt", 16, "--decode", 4, "--repeats", 1, "--depths", "0,40,200",
                  "--chart", charts)
    assert [s["depth"] for s in b["speed_by_context"]] == [0, 40, 200]
    assert all(s["decode_tok_s"] > 0 for s in b["speed_by_context"])
    assert b["speed_by_context"][0]["prefill_tok_s"] == 0 and b["speed_by_context"][2]["prefill_tok_s"] > 0
    kinds = ["png", "svg"] if shutil.which("rsvg-convert") else ["svg"]
    names = ["context-kv-bits", "memory", "speed-context"]
    assert sorted(p.name for p in charts.iterdir()) == [f"{n}.{k}" for n in names for k in kinds]
    info = hlwq_json("info", nano_q5, "--ctx", "4096,8192")
    memory = texts(charts / "memory.svg")
    for plan in info["memory"]:
        assert f"{plan['total'] / 1e6:.1f}" in memory
    assert {"4K", "8K", "BF16", "Q4", "weights", "image encoder", "key/value cache"} <= set(memory)
    assert f"BF16: {info['memory'][-1]['total'] / 1e6:.1f} MB" in texts(charts / "context-kv-bits.svg")
    assert {"0", "40", "200", "reading a prompt"} <= set(texts(charts / "speed-context.svg"))
    for svg in charts.glob("*.svg"):
        assert "prefers-color-scheme: dark" in svg.read_text()
    for png in charts.glob("*.png"):
        data = png.read_bytes()
        assert data.startswith(PNG) and int.from_bytes(data[16:20], "big") == 1800


def test_bench_chart_needs_no_png_program(nano_q5, llama, tmp_path):
    nowhere = {"PATH": str(tmp_path)}
    run = hlwq("bench", nano_q5, "--ppl", "--windows", 1, "--ctx", 32, "--chart", tmp_path / "c", env=nowhere)
    assert run.stderr.count("note: no PNG") == 1 and "librsvg2-bin" in run.stderr and "built" not in run.stdout
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["context-kv-bits.svg", "memory.svg"]
    ids = tmp_path / "ids.txt"
    ids.write_text(" ".join(str(3 + i % 90) for i in range(64)))
    run = hlwq("bench", llama, "--compare", "q4", "--ids-file", ids, "--ctx", 32, "--chart", tmp_path / "one.png", env=nowhere, code=1)
    assert "librsvg2-bin" in run.stderr and not (tmp_path / "one.png").exists()


def test_bench_writes_markdown_and_json(nano_q5, tmp_path):
    """--ppl alone measures on the text that comes along and says so; files hold what is printed."""
    md, js = tmp_path / "a.md", tmp_path / "a.json"
    run = hlwq("bench", nano_q5, "--ppl", "--windows", 2, "--ctx", 64, "--json", "-o", md, "-o", js)
    assert "text that comes with hlwq" in run.stderr
    assert json.loads(js.read_text()) == json.loads(run.stdout)
    assert f"| perplexity | {json.loads(run.stdout)['ppl']:.4f} |" in md.read_text()


def test_bench_compare_with_speed(llama, tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text(" ".join(str(3 + i * 7 % 90) for i in range(64)))
    common = ["bench", llama, "--compare", "fp16,q4,int4", "--ids-file", ids, "--ctx", 32]
    b = hlwq_json(*common, "--speed", "--prompt", 8, "--decode", 4, "--repeats", 1, "--depths", "0,8",
                  "--chart", tmp_path / "charts", "-o", tmp_path / "a.md")
    assert [v["name"] for v in b["variants"]] == ["q4", "int4"] and b["decode_tok_s"] > 0
    assert {"q4", "int4", "HLWQ"} <= set(texts(tmp_path / "charts/size-quality.svg"))
    assert "| q4 |" in (tmp_path / "a.md").read_text() and "| decode |" in (tmp_path / "a.md").read_text()
    hlwq("bench", llama, "--compare", "fp16", "--ids-file", ids, "--ctx", 32, code=2)
    hlwq("bench", llama, "--speed", "--depths", "8,4", "--chart", tmp_path / "c", code=2)
