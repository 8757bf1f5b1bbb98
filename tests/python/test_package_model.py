"""hlwq.Model: answers, streams, images, errors, threads, interruption."""

import base64
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

hlwq = pytest.importorskip("hlwq", reason="the build has no Python package (cmake -DHLWQ_PYTHON=ON)")
from hlwq.images import png, prepare_messages  # noqa: E402

QUESTION = "What is 2 + 3?"


def test_generate_is_hlwq_run(q5, q5_path, command):
    run = json.loads(command("hlwq", "run", q5_path, "-p", QUESTION, "--greedy", "--json").stdout)
    answer = q5.generate(QUESTION, temperature=0)
    assert answer == run["text"] and answer.ids == run["ids"] and answer.message == run["message"]
    raw = json.loads(command("hlwq", "run", q5_path, "--raw", "-p", "Once", "-n", 12, "--greedy", "--json").stdout)
    assert q5.generate("Once", 12, raw=True, temperature=0).ids == raw["ids"]
    seeded = json.loads(command("hlwq", "run", q5_path, "-p", QUESTION, "--seed", 7, "--temp", 2, "--json").stdout)
    assert q5.generate(QUESTION, seed=7, temperature=2).ids == seeded["ids"]


def test_an_answer_is_a_text_that_knows_more(q5):
    answer = q5.generate(QUESTION, temperature=0, logprobs=2)
    assert isinstance(answer, str) and answer.upper() and answer.text == str(answer)
    assert answer.finish_reason == "stop" and answer.thinking == "" and answer.tool_calls == []
    assert len(answer.logprobs) == len(answer.ids) and len(answer.logprobs[0]["top"]) == 2
    assert answer.prompt_tokens > 5 and answer.timing["decode_tokens"] == len(answer.ids)
    copy = pickle.loads(pickle.dumps(answer))
    assert copy == answer and copy.ids == answer.ids
    assert json.loads(json.dumps(answer)) == answer


def test_streams(q5):
    stream = q5.stream(QUESTION, temperature=0)
    pieces = list(stream)
    assert len(pieces) > 2 and "".join(pieces) == stream.answer == q5.generate(QUESTION, temperature=0)
    assert [e.kind for e in q5.stream(QUESTION, 3, temperature=0).events()].count("text") >= 2
    with q5.chat("Tell me a story.", stream=True, ignore_eos=True, seed=1) as chat:
        next(chat)
    assert chat.answer.finish_reason == "cancelled"
    dropped = q5.stream(QUESTION, ignore_eos=True)
    next(dropped)
    del dropped
    assert q5.generate(QUESTION, temperature=0) == stream.answer


def test_conversations_read_only_what_is_new(q5):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    first = q5.chat(messages, temperature=0)
    messages += [first.message, {"role": "user", "content": "And 4 + 4?"}]
    second = q5.chat(messages, temperature=0)
    assert second.timing["prefill_tokens"] < second.prompt_tokens - first.prompt_tokens
    assert q5.chat_ids(messages)[: first.prompt_tokens] == q5.chat_ids(messages[:2])
    assert "And 4 + 4?" in q5.chat_prompt(messages)


def test_sampling_options(q5):
    likeliest = q5.generate(QUESTION, temperature=0)
    assert q5.generate(QUESTION, temperature=3, top_k=1) == likeliest
    assert q5.generate(QUESTION, temperature=3, min_p=1) == likeliest
    assert q5.generate(QUESTION, temperature=0, stop="=") == likeliest.split("=")[0]
    assert q5.generate(QUESTION, temperature=0, stop=["zz", "="]) == likeliest.split("=")[0]
    assert q5.generate(QUESTION, 5, logit_bias={441: 1000}, temperature=0).ids == [441] * 5
    same = q5.generate(QUESTION, temperature=2)
    assert q5.generate(QUESTION, temperature=2, seed=same.seed).ids == same.ids


def test_images_come_in_many_forms(q5, nano_path):
    path = nano_path / "golden/image_02.png"
    data = path.read_bytes()
    expected = q5.generate("What do you see?", images=[path], temperature=0)
    assert "triangle" in expected
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    text = {"type": "text", "text": "What do you see?"}
    forms = [
        [{"type": "image", "image": data}, text],
        [{"type": "image", "path": str(path)}, text],
        [{"type": "image_url", "image_url": {"url": url}}, text],
        [{"type": "image_url", "image_url": {"url": path.as_uri()}}, "What do you see?"],
    ]
    for content in forms:
        assert q5.chat([{"role": "user", "content": content}], temperature=0) == expected
    pil = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    image = pil.open(io.BytesIO(data))
    assert q5.chat("What do you see?", images=[image], temperature=0) == expected
    assert q5.chat("What do you see?", images=[np.asarray(image.convert("RGB"))], temperature=0) == expected
    assert q5.chat("What do you see?", images=np.asarray(image.convert("RGB")), temperature=0) == expected


def test_arrays_become_the_same_pixels():
    pil = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    random = np.random.default_rng(1)
    for shape in [(5, 7), (5, 7, 1), (1, 1, 3), (9, 4, 3), (3, 8, 4)]:
        pixels = random.integers(0, 256, shape, np.uint8)
        image = pil.open(io.BytesIO(png(pixels)))
        assert (np.asarray(image).reshape(shape) == pixels).all()
        assert png(np.asfortranarray(pixels)) == png(pixels)
    for bad in [np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 3)), np.zeros((0, 2, 3), np.uint8)]:
        with pytest.raises(hlwq.InvalidArgumentError):
            png(bad)


def test_messages_that_are_none():
    for bad in [[], {"role": "user"}, [{"content": "x"}], [{"role": "user", "content": 3}],
                [{"role": "user", "content": [{"type": "image"}]}],
                [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]]:  # fmt: skip
        with pytest.raises(hlwq.InvalidArgumentError):
            prepare_messages(bad, None)
    with pytest.raises(hlwq.UnsupportedError, match="downloaded"):
        prepare_messages("x", ["https://example.org/cat.jpg"])
    with pytest.raises(hlwq.UnsupportedError, match="audio"):
        prepare_messages([{"role": "user", "content": [{"type": "audio"}]}], None)


def test_errors_are_of_the_library_and_of_python(q5, assets, tmp_path):
    def fails(kind, natural, call, *arguments, **options):
        with pytest.raises(kind) as caught:
            call(*arguments, **options)
        assert isinstance(caught.value, hlwq.Error) and isinstance(caught.value, natural) and str(caught.value)

    load = hlwq.Model.from_pretrained
    fails(hlwq.NotFoundError, FileNotFoundError, load, tmp_path / "none")
    fails(hlwq.InvalidFileError, ValueError, load, broken(tmp_path))
    fails(hlwq.InvalidArgumentError, ValueError, load, q5.path, kv_bits=5)
    fails(hlwq.InvalidArgumentError, ValueError, load, q5.path, ctx=10**9)
    fails(hlwq.InvalidArgumentError, ValueError, load, q5.path, image_tokens=71)
    fails(hlwq.InvalidArgumentError, ValueError, load, q5.path, isa="sse9")
    fails(hlwq.InvalidArgumentError, ValueError, load, q5.path, device="gpu")
    fails(hlwq.InvalidArgumentError, ValueError, q5.generate, QUESTION, temperature=-1)
    fails(hlwq.InvalidArgumentError, ValueError, q5.generate, QUESTION, top_k="many")
    fails(hlwq.InvalidArgumentError, ValueError, q5.generate, QUESTION, seed=-1)
    fails(hlwq.InvalidArgumentError, ValueError, q5.generate, [1, -2])
    fails(hlwq.InvalidArgumentError, ValueError, q5.generate, [1, 99999], 1)
    fails(hlwq.InvalidArgumentError, ValueError, q5.logits, [8192])
    fails(hlwq.InvalidArgumentError, ValueError, q5.logits, [[1, 2]])
    fails(hlwq.ContextFullError, ValueError, q5.generate, "word " * 9000)
    fails(hlwq.ContextFullError, ValueError, q5.logits, [3] * 9000)
    fails(hlwq.NotFoundError, FileNotFoundError, q5.generate, QUESTION, images=[tmp_path / "none.png"])
    fails(hlwq.InvalidFileError, ValueError, q5.generate, QUESTION, images=[b"no image"])
    llama = load(assets / "llama_tied")
    fails(hlwq.UnsupportedError, NotImplementedError, llama.chat, "hello")
    fails(hlwq.UnsupportedError, NotImplementedError, llama.generate, "hello")
    with pytest.raises(TypeError, match="temprature"):
        q5.generate(QUESTION, temprature=1)
    assert q5.generate(QUESTION, temperature=0)  # none of it left anything behind


def broken(directory):
    (directory / "config.json").write_text("{")
    (directory / "model.safetensors").write_bytes(b"\0" * 16)
    return directory


def test_settings(q5_path, monkeypatch):
    small = hlwq.Model.from_pretrained(q5_path, kv_bits=4, ctx=512, threads=1, device="cpu", vision=False)
    info = small.info()
    assert info["context"] == 512 and info["threads"] == 1 and info["image_tokens"] is None and "V4" in info["kv"]
    with pytest.raises(hlwq.UnsupportedError, match="vision=False"):
        small.generate(QUESTION, images=[np.zeros((48, 48, 3), np.uint8)])
    assert small.memory(512, 16)["kv"] > 0 and small.memory(8192, 3)["kv"] < small.memory(8192, 16)["kv"]
    monkeypatch.setenv("HLWQ_THREADS", "1")
    monkeypatch.setenv("HLWQ_ISA", "scalar")
    assert hlwq.Model.from_pretrained(q5_path).info()["backend"] == "cpu/scalar"
    monkeypatch.setenv("HLWQ_THREADS", "x")
    with pytest.raises(hlwq.InvalidArgumentError, match="HLWQ_THREADS"):
        hlwq.Model.from_pretrained(q5_path)


def test_threads_take_turns(q5):
    prompts = [f"What is {n} + {n}?" for n in range(1, 5)]
    expected = [q5.generate(p, temperature=0) for p in prompts]
    results = {}

    def ask(n):
        for _ in range(3):
            results.setdefault(n, []).append(q5.generate(prompts[n], temperature=0))
            results[n].append("".join(q5.stream(prompts[n], temperature=0)))
            q5.logits([2, 5, n])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(results[n] == [expected[n]] * 6 for n in range(4))


def test_the_gil_is_free_while_it_computes(q5):
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    begin = time.monotonic()
    q5.generate(QUESTION, 64, ignore_eos=True)
    end = time.monotonic()
    stop.set()
    thread.join()
    assert sum(begin < t < end for t in ticks) >= 5


INTERRUPTED = """
import os, signal, sys, threading
import hlwq
signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in a shell's background, it is ignored
model = hlwq.Model.from_pretrained(sys.argv[1])
expected = model.generate("What is 2 + 3?", temperature=0)
for call in (lambda: model.generate("Tell me.", ignore_eos=True, stop="\\0"), lambda: list(model.stream("Go on.", ignore_eos=True)),
             lambda: model.logits([5] * 8000, start=7999)):
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        call()
        print("not interrupted")
    except KeyboardInterrupt:
        print("interrupted")
print(model.generate("What is 2 + 3?", temperature=0) == expected)
"""


def test_ctrl_c_stops_what_runs(q5_path, environment):
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, str(q5_path)], env=environment, capture_output=True,
                          text=True, timeout=120)  # fmt: skip
    assert done.stdout.split("\n") == ["interrupted"] * 3 + ["True", ""], done.stderr


FORKED = """
import os, sys
import hlwq
model = hlwq.Model.from_pretrained(sys.argv[1])
child = os.fork()
if child == 0:
    try:
        model.generate("x")
    except hlwq.UnsupportedError as e:
        print(e, flush=True)
    del model
    sys.exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), bool(model.generate("What is 2 + 3?")))
"""


def test_a_fork_is_told(q5_path, environment):
    done = subprocess.run([sys.executable, "-c", FORKED, str(q5_path)], env=environment, capture_output=True,
                          text=True, timeout=120)  # fmt: skip
    assert "in the child" in done.stdout and done.stdout.endswith("3 True\n"), done.stderr


def test_the_interpreter_ends_cleanly(q5_path, environment):
    waiting = "import threading; threading.Thread(target=m.generate, args=('x',), daemon=True).start()"
    for end in ("", "next(s)", waiting):
        code = f"import hlwq; m = hlwq.Model.from_pretrained({str(q5_path)!r}); s = m.stream('x', ignore_eos=True); {end}"
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
        # A thread that waits for its answer at that moment is told that there will be none.
        assert done.returncode == 0 and (end == waiting or done.stderr == ""), (end, done.stderr)
        assert "terminate" not in done.stderr


def test_closing(q5_path):
    with hlwq.Model.from_pretrained(q5_path) as model:
        stream = model.stream("x", ignore_eos=True)
        next(stream)
    with pytest.raises(hlwq.CancelledError, match="closed"):
        model.generate("x")
    assert stream.answer.finish_reason == "cancelled" and model.tokenizer.encode("x")
    model.close()


def test_reset_and_repr(q5):
    answer = q5.generate(QUESTION, temperature=0)
    assert q5.info()["context_tokens"] > 0
    q5.reset()
    assert q5.info()["context_tokens"] == 0
    assert q5.generate(QUESTION, temperature=0) == answer and "gemma4-nano-q5" in repr(q5)


def test_everything_has_a_docstring_and_the_stub_is_complete():
    from hlwq import _core

    for name in hlwq.__all__:
        assert name.startswith("__") or name in ("Ids", "ImageLike", "Messages") or getattr(hlwq, name).__doc__, name
    stub = (os.path.dirname(hlwq.__file__) + "/_core.pyi")
    text = open(stub).read()
    for owner in (_core.Model, _core.Job):
        for name in (n for n in vars(owner) if not n.startswith("_")):
            assert f"def {name}(" in text, name
    assert signal.getsignal(signal.SIGINT) is not None
