"""Chat templates against Python's jinja2, set up exactly as transformers' apply_chat_template sets it up.

compare RENDER_TEMPLATE FOLDER [--verbose]
    Renders every FOLDER/*.jinja over the conversations below with both and prints a table. FOLDER is
    vendor/llama.cpp/models/templates of the llama-cpp-python source distribution; see `fetch`.
fetch FOLDER
    Downloads that source distribution with pip and copies its templates to FOLDER.
write
    Writes the goldens that text_test reads: templates_golden.json (templates/*.jinja over the conversations)
    and template_expressions.json (the small cases of template_cases.py), with jinja2's answers.
micro RENDER_TEMPLATE
    Runs the small cases on both and prints the differences.

Needs jinja2 >= 3.1.6. The clock is fixed, so that strftime_now is comparable.
"""

import argparse
import datetime
import functools
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

HERE = pathlib.Path(__file__).resolve().parent
EPOCH = 1767225845  # 2026-01-01 00:04:05 UTC


class Generation(jinja2.ext.Extension):
    """{% generation %}: marks what the assistant said; renders its body."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller):
        return caller()


class Raised(Exception):
    pass


@functools.lru_cache(maxsize=4)
def compiled(source):
    return environment().from_string(source)


@functools.lru_cache(maxsize=1)
def environment():
    def raise_exception(message):
        raise Raised(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(fmt):
        return datetime.datetime.fromtimestamp(EPOCH, datetime.timezone.utc).replace(tzinfo=None).strftime(fmt)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env


def render_python(source, variables):
    """{"output": text} or {"error": message, "code": "raised" | "failed"}."""
    try:
        output = compiled(source).render(**variables)
        output.encode()
        return {"output": output}
    except Raised as e:
        return {"error": str(e), "code": "raised"}
    except RecursionError:
        return {"error": "recursion", "code": "failed"}
    except Exception as e:  # any failure of the template is the expected answer
        return {"error": f"{type(e).__name__}: {e}", "code": "failed"}


class Native:
    """Our renderer: one process, a JSON object a line."""

    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")

    def render(self, source, variables):
        request = {"template": source, "variables": dict(variables, strftime_now_epoch=EPOCH)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the renderer died on:\n" + source)
        return json.loads(line)


# ---- conversations ----

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather \"now\" for a city.\nCelsius <or> Fahrenheit.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "City, e.g. Zürich"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                "days": {"type": "integer", "minimum": 1},
                "opts": {
                    "type": "object",
                    "properties": {"detail": {"type": "boolean", "description": "More"}, "tags": {"type": "array", "items": {"type": "string"}}},
                    "required": ["detail"],
                },
                "either": {"anyOf": [{"type": "string"}, {"type": "number"}], "nullable": True},
            },
            "required": ["city"],
        },
        "return": {"type": "object", "description": "what came out"},
    },
}
SEARCH = {
    "type": "function",
    "function": {"name": "search", "description": "Look up.", "parameters": {"type": "object", "properties": {"q": {"type": "string", "description": "query"}}, "required": ["q"]}},
}
NO_ARGS = {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}}


def call(name, arguments, ident="call12345"):
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return dict({"role": "assistant", "content": text}, **more)


def system(text):
    return {"role": "system", "content": text}


TEXT = {"type": "text", "text": "What is in this image? "}
IMAGE = {"type": "image"}
IMAGE_URL = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}

ARGS = {"city": "Zürich", "days": 3, "deep": {"a": [1, 2.5, True, None], "b": "x\ny \"q\" 'r'"}}
CONVERSATIONS = {
    "user": [user("Hello, world! <|im_start|> & \"quotes\" 'n' {{ x }}")],
    "system": [system("You are helpful. 日本語 🎉"), user("Hi  ")],
    "developer": [{"role": "developer", "content": "Be brief."}, user("Hi")],
    "multi": [system("  Sys\n"), user("One"), assistant("1"), user(" Two\n\n"), assistant("2 "), user("Three")],
    "ends_assistant": [user("Q"), assistant("A")],
    "empty": [user("")],
    "no_messages": [],
    "two_users": [user("a"), user("b")],
    "two_assistants": [user("a"), assistant("b"), assistant("c"), user("d")],
    "starts_assistant": [assistant("Hello"), user("b")],
    "unknown_role": [user("a"), {"role": "critic", "content": "b"}, user("c")],
    "late_system": [user("a"), assistant("b"), system("Changed."), user("c")],
    "think": [user("a"), assistant("<think>\nhm, 1+1\n</think>\n\n2"), user("b"), assistant("<think>x</think>y")],
    "reasoning": [user("a"), assistant("two", reasoning_content="let me add"), user("b"), assistant("four", reasoning_content="again\n"), user("c")],
    "reasoning_key": [user("a"), assistant("two", reasoning="let me add"), user("b")],
    "thinking_key": [user("a"), assistant("two", thinking="let me add"), user("b")],
    "parts": [user([TEXT, {"type": "text", "text": "Tell me."}]), assistant([{"type": "text", "text": "A cat."}]), user([{"type": "text", "text": "ok"}])],
    "image": [user([IMAGE, TEXT]), assistant("A cat."), user([TEXT, IMAGE_URL])],
    "system_parts": [system([{"type": "text", "text": "Sys part."}]), user([TEXT])],
    "call": [user("Weather?"), {"role": "assistant", "content": "", "tool_calls": [call("get_weather", ARGS)]}, {"role": "tool", "content": "{\"temp\": 21}", "name": "get_weather", "tool_call_id": "call12345"}],
    "call_none": [user("Weather?"), {"role": "assistant", "content": None, "tool_calls": [call("get_weather", ARGS)]}, {"role": "tool", "content": "21", "name": "get_weather", "tool_call_id": "call12345"}, assistant("It is 21."), user("Thanks")],
    "call_no_content": [user("Weather?"), {"role": "assistant", "tool_calls": [call("get_weather", {"city": "Rome"})]}, {"role": "tool", "content": "21", "tool_call_id": "call12345"}],
    "call_string": [user("Weather?"), {"role": "assistant", "content": "", "tool_calls": [call("get_weather", json.dumps(ARGS))]}, {"role": "tool", "content": "21", "name": "get_weather", "tool_call_id": "call12345"}],
    "calls": [
        system("Use tools."),
        user("Compare."),
        assistant("Let me see.", reasoning_content="both", tool_calls=[call("get_weather", {"city": "A"}, "abcdefgh1"), call("search", {"q": "B \\ \u2028"}, "abcdefgh2"), call("now", {}, "abcdefgh3")]),
        {"role": "tool", "content": "1", "name": "get_weather", "tool_call_id": "abcdefgh1"},
        {"role": "tool", "content": {"k": [1, "two"]}, "name": "search", "tool_call_id": "abcdefgh2"},
        {"role": "tool", "content": [{"type": "text", "text": "noon"}], "name": "now", "tool_call_id": "abcdefgh3"},
        assistant("Done."),
        user("More?"),
    ],
    "tool_loop": [
        user("Plan."),
        assistant("", reasoning_content="first the weather", tool_calls=[call("get_weather", {"zone": {"b": [], "a": {}}, "city": "A, {b}: \"c\"", "days": -1.5e-7}, "id1")]),
        {"role": "tool", "content": "{\"temp\": 21}", "tool_call_id": "id1"},
        assistant("Now the search.\n", reasoning_content="then this\n", tool_calls=[call("search", {"q": ""}, "id2"), call("now", {}, "id3")]),
        {"role": "tool", "content": {"hits": [{"t": "x"}, None, False]}, "tool_call_id": "id2"},
        {"role": "tool", "content": "noon", "tool_call_id": "id3", "name": "wrong"},
    ],
    "after_tool_loop": [
        user("Plan."),
        assistant("", reasoning_content="weather", tool_calls=[call("get_weather", {"city": "A"}, "id1")]),
        {"role": "tool", "content": "21", "tool_call_id": "id1"},
        assistant("It is 21.", reasoning_content="so"),
        user("And B?"),
        assistant("", reasoning_content="again", tool_calls=[call("get_weather", {"city": "B"}, "id1")]),
        {"role": "tool", "content": "22", "tool_call_id": "id1"},
        assistant("It is 22.", reasoning_content="done"),
    ],
    "tool_first": [user("a"), {"role": "tool", "content": "21", "name": "get_weather"}],
    "thought_in_content": [user("a"), assistant("<|channel>thought\nhm\n<channel|>Yes <|channel>x<channel|>."), user("b")],
}

BASE = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
VARIATIONS = {
    "plain": {"add_generation_prompt": False},
    "prompt": {"add_generation_prompt": True},
    "tools": {"add_generation_prompt": True, "tools": [WEATHER, SEARCH, NO_ARGS]},
    "tools_none": {"add_generation_prompt": True, "tools": None, "documents": None},
    "think_on": {"add_generation_prompt": True, "enable_thinking": True, "thinking": True, "reasoning_effort": "high"},
    "think_off": {"add_generation_prompt": True, "enable_thinking": False, "thinking": False, "tools": [SEARCH]},
    "documents": {"add_generation_prompt": True, "documents": [{"title": "T1", "text": "Text one", "doc_id": "1"}, {"title": "T2", "text": "two"}]},
    "extra": {"add_generation_prompt": True, "preserve_thinking": True, "empty_thought": True, "date_string": "01 Jan 2026", "builtin_tools": ["wikipedia"], "keep_past_thinking": True, "clear_thinking": False},
}


def cases():
    for conversation, messages in CONVERSATIONS.items():
        for variation, variables in VARIATIONS.items():
            yield conversation + "/" + variation, dict(BASE, messages=messages, **variables)


# Tags, filters and globals outside what transformers' environment knows.
def beyond_transformers(source):
    """Why a template cannot work under transformers either, or ''."""
    try:
        tree = environment().parse(source)
    except jinja2.TemplateSyntaxError as e:
        return f"jinja2 refuses it: {e}"
    env = environment()
    for node in tree.find_all(jinja2.nodes.Filter):
        if node.name not in env.filters:
            return f"filter '{node.name}' is not jinja2's or transformers'"
    for node in tree.find_all(jinja2.nodes.Test):
        if node.name not in env.tests:
            return f"test '{node.name}' is not jinja2's or transformers'"
    return ""


def same(expected, actual):
    if "output" in expected:
        return expected == actual
    if expected["code"] == "raised":
        return actual.get("code") == "raised" and actual["error"] == "chat template: " + expected["error"]
    return actual.get("code") == "failed"


def compare(program, folder, verbose):
    native = Native(program)
    totals = {"templates": 0, "identical": 0, "excluded": 0, "renderings": 0, "errors": 0, "different": 0}
    for path in sorted(pathlib.Path(folder).glob("*.jinja")):
        totals["templates"] += 1
        source = path.read_text(encoding="utf-8")
        excluded = beyond_transformers(source)
        identical = failed = different = 0
        first = ""
        for name, variables in cases():
            expected = render_python(source, variables)
            actual = native.render(source, variables)
            if same(expected, actual):
                identical += 1
                failed += "error" in expected
            else:
                different += 1
                first = first or f"{name}:\n   python {json.dumps(expected)[:1500]}\n   ours   {json.dumps(actual)[:1500]}"
        verdict = "identical" if not different else "DIFFERENT"
        if excluded:
            totals["excluded"] += 1
            verdict = "excluded: " + excluded + (", still identical" if not different else "")
        else:
            totals["identical"] += not different
            totals["renderings"] += identical
            totals["errors"] += failed
            totals["different"] += different
        print(f"{path.name:58} {identical:4} same ({failed:3} failing in both) {different:3} different  {verdict}", flush=True)
        if different and (verbose or not excluded):
            print("   " + first)
    print(json.dumps(totals))
    return 1 if totals["different"] or totals["templates"] == 0 else 0


def fetch(folder):
    target = pathlib.Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        # pip's own download would build the package's metadata, which needs its build system: skip that.
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "-d", temporary, "llama-cpp-python"],
            check=False,
        )
        archives = list(pathlib.Path(temporary).glob("*.tar.gz"))
        if not archives:
            raise SystemExit("the source distribution of llama-cpp-python could not be downloaded")
        count = 0
        with tarfile.open(archives[0]) as archive:
            for member in archive:
                if member.isfile() and "/models/templates/" in member.name and member.name.endswith(".jinja"):
                    (target / pathlib.Path(member.name).name).write_bytes(archive.extractfile(member).read())
                    count += 1
    print(f"{count} templates from {archives[0].name} in {target}")


def micro_cases():
    sys.path.insert(0, str(HERE))
    import template_cases

    return template_cases.CASES


def micro(program):
    native = Native(program)
    different = total = 0
    for source, variables in micro_cases():
        total += 1
        expected = render_python(source, variables)
        actual = native.render(source, variables)
        if not same(expected, actual):
            different += 1
            print(f"{source!r} {json.dumps(variables)[:200]}\n   python {json.dumps(expected)[:600]}\n   ours   {json.dumps(actual)[:600]}")
    print(f"{total} cases, {different} different")
    return 1 if different or total == 0 else 0


def write():
    goldens = []
    for path in sorted((HERE / "templates").glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        seen = set()
        for name, variables in cases():
            answer = render_python(source, variables)
            # Most variations make no difference to a template: one golden an answer is enough.
            key = json.dumps(answer)
            if key in seen:
                continue
            seen.add(key)
            goldens.append({"template": path.name, "case": name, "variables": variables, "expected": answer})
    (HERE / "templates_golden.json").write_text(json.dumps(goldens, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    cases_ = micro_cases()
    variables = cases_[0][1]
    assert all(v is variables for _, v in cases_)
    small = [{"template": s, "expected": render_python(s, v)} for s, v in cases_]
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in small)
    head = '{"variables": ' + json.dumps(variables, ensure_ascii=False) + ',\n"cases": [\n'
    (HERE / "template_expressions.json").write_text(head + lines + "\n]}\n", encoding="utf-8")
    print(f"{len(goldens)} renderings, {len(small)} small cases")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("compare")
    p.add_argument("program")
    p.add_argument("folder")
    p.add_argument("--verbose", action="store_true")
    p = commands.add_parser("fetch")
    p.add_argument("folder")
    commands.add_parser("write")
    p = commands.add_parser("micro")
    p.add_argument("program")
    args = parser.parse_args()
    if args.command == "compare":
        return compare(args.program, args.folder, args.verbose)
    if args.command == "fetch":
        return fetch(args.folder)
    if args.command == "micro":
        return micro(args.program)
    return write()


if __name__ == "__main__":
    sys.exit(main())
