"""tokenize and template, against the Python packages that define them."""

import json

from conftest import hlwq, hlwq_json
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

LINES = ["", "Hello, world!", "  two  spaces\tand a tab", "Zażółć gęślą jaźń", "日本語のテキスト", "🙂👩‍👩‍👧", "a\u0000b\r\nc",
         "x" * 300, "def f(x):\n    return x ** 2\n", "<turn|>"]


def test_ids_and_pieces(nano):
    reference = Tokenizer.from_file(str(nano / "tokenizer.json"))
    result = hlwq_json("tokenize", nano, "-p", LINES[1])
    assert set(result) == {"ids", "pieces"}
    expected = reference.encode(LINES[1])
    assert result["ids"] == expected.ids and result["pieces"] == expected.tokens
    decoded = hlwq_json("tokenize", nano, "--decode", ",".join(map(str, expected.ids)))
    assert decoded["text"] == LINES[1]


def test_lines_mode(nano):
    reference = Tokenizer.from_file(str(nano / "tokenizer.json"))
    run = hlwq("tokenize", nano, "--lines", "--special", stdin="".join(json.dumps(l) + "\n" for l in LINES))
    got = [[int(x) for x in line.split()] for line in run.stdout.split("\n")[:-1]]
    assert got == [reference.encode(l).ids for l in LINES]
    assert "line 2" in hlwq("tokenize", nano, "--lines", stdin='"a"\nnot json\n', code=1).stderr


def test_stdin_and_tokenizer_file(nano):
    from_stdin = hlwq_json("tokenize", nano, stdin="Hello")
    assert from_stdin == hlwq_json("tokenize", nano / "tokenizer.json", "-p", "Hello")
    hlwq("tokenize", nano, "--decode", "999999", code=2)


def test_template_is_jinja2s(nano, tmp_path):
    source = (nano / "chat_template.jinja").read_text()
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi {{ x }}"},
                {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Żółw?"}]
    file = tmp_path / "messages.json"
    file.write_text(json.dumps(messages))
    expected = environment.from_string(source).render(messages=messages, bos_token="<bos>", add_generation_prompt=True)
    assert hlwq("template", nano, "--messages", file).stdout == expected
    assert hlwq("template", nano / "chat_template.jinja", "--messages", file, "--var", "bos_token=<bos>").stdout == expected
    closed = environment.from_string(source).render(messages=messages, bos_token="<bos>", add_generation_prompt=False)
    assert hlwq("template", nano, "--messages", file, "--no-generation-prompt").stdout == closed
    thinking = environment.from_string(source).render(
        messages=messages, bos_token="<bos>", add_generation_prompt=True, enable_thinking=True)
    assert hlwq("template", nano, "--messages", file, "--var", "enable_thinking=true").stdout == thinking
    file.write_text('{"role": "user"}')
    hlwq("template", nano, "--messages", file, code=1)


def test_template_errors_are_one_line(tmp_path):
    bad = tmp_path / "bad.jinja"
    bad.write_text("line one\n{% if %}")
    run = hlwq("template", bad, "-p", "x", code=1)
    assert run.stderr.count("\n") == 1 and "2" in run.stderr
    bad.write_text("{{ raise_exception('no such role') }}")
    assert "no such role" in hlwq("template", bad, "-p", "x", code=1).stderr
