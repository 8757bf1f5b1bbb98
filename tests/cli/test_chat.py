"""chat: piped, and on a real pseudo-terminal."""

import json
import os
import pty
import re
import select
import subprocess
import time

import pytest
from conftest import BINARY, hlwq


def test_piped_conversation_is_saved_and_loaded(nano, tmp_path):
    saved = tmp_path / "chat.json"
    run = hlwq("chat", nano, "-s", "Be brief.", "--greedy", "-n", 16,
               stdin=f"What is 2 + 3?\nWhat is 4 + 4?\n/save {saved}\n/reset\n/save {saved}.reset\n/exit\nnever asked\n")
    messages = json.loads(saved.read_text())
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert messages[3]["content"] == "What is 4 + 4?" and messages[2]["content"] in run.stdout
    assert json.loads((tmp_path / "chat.json.reset").read_text()) == messages[:1]
    # The same conversation, gone on with, gives the same next answer as in one go.
    again = tmp_path / "again.json"
    hlwq("chat", nano, "--greedy", "-n", 16, "--load", saved, stdin=f"And 1 + 1?\n/save {again}\n")
    whole = tmp_path / "whole.json"
    hlwq("chat", nano, "-s", "Be brief.", "--greedy", "-n", 16,
         stdin=f"What is 2 + 3?\nWhat is 4 + 4?\nAnd 1 + 1?\n/save {whole}\n")
    assert json.loads(again.read_text()) == json.loads(whole.read_text())


def test_commands(nano):
    run = hlwq("chat", nano, "--greedy", "-n", 4, stdin="/help\n/stats\n/nonsense\n/save\nHi\n/stats\n")
    assert "/reset" in run.stdout and "unknown command /nonsense" in run.stdout and "KV cache" in run.stdout


def test_failures_end_a_piped_chat(nano, tmp_path):
    assert "hlwq: " in hlwq("chat", nano, stdin=f"/load {tmp_path}/none.json\n", code=1).stderr
    run = hlwq("chat", nano, "--ctx", 16, stdin="word " * 50 + "\n", code=1)
    assert "context" in run.stderr


def test_a_model_without_template_is_refused(llama):
    assert "template" in hlwq("chat", llama, code=1).stderr


class Terminal:
    """hlwq on a pseudo-terminal, driven by what it prints."""

    def __init__(self, *arguments):
        self.seen = ""
        main, side = pty.openpty()
        self.main = main
        self.process = subprocess.Popen([str(BINARY), *map(str, arguments)], stdin=side, stdout=side, stderr=side,
                                        start_new_session=True, preexec_fn=self._take_terminal)
        os.close(side)

    @staticmethod
    def _take_terminal():
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C typed into it becomes SIGINT

    def send(self, text):
        self.seen = ""
        os.write(self.main, text.encode())

    def expect(self, pattern, timeout=60):
        deadline = time.monotonic() + timeout
        while not (match := re.search(pattern, self.seen, re.S)):
            ready, _, _ = select.select([self.main], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.seen!r}"
            try:
                self.seen += os.read(self.main, 4096).decode("utf-8", "replace")
            except OSError:  # closed
                assert re.search(pattern, self.seen, re.S), f"no {pattern!r} in {self.seen!r}"
        return match

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.main)


@pytest.fixture
def terminal(nano):
    opened = []

    def open_chat(*arguments):
        opened.append(Terminal("chat", nano, *arguments))
        opened[-1].expect("/help.*> $")
        return opened[-1]

    yield open_chat
    for t in opened:
        t.close()


CTRL_C = "\x03"


def test_ctrl_c_stops_the_answer_only(terminal, tmp_path):
    chat = terminal("--ignore-eos", "--ctx", 4000, "--seed", 1)
    chat.send("Tell me a story\n")
    chat.expect("story\r\n.{20,}")
    chat.send(CTRL_C)
    chat.expect(r"\[stopped\]\r\n> $")
    chat.send(f"/save {tmp_path}/chat.json\n")
    chat.expect("written.*> $")
    messages = json.loads((tmp_path / "chat.json").read_text())
    assert [m["role"] for m in messages] == ["user", "assistant"] and messages[1]["content"]
    chat.send(CTRL_C)
    chat.expect("again leaves.*> $")
    assert chat.process.poll() is None
    chat.send(CTRL_C)
    assert chat.process.wait(timeout=30) == 0


def test_pasted_lines_are_one_message(terminal, tmp_path):
    chat = terminal("--greedy", "-n", 4)
    chat.send("first line\nsecond line\nthird line\n")
    chat.expect("> $")
    chat.send(f"/save {tmp_path}/chat.json\n")
    chat.expect("written.*> $")
    messages = json.loads((tmp_path / "chat.json").read_text())
    assert messages[0]["content"] == "first line\nsecond line\nthird line" and len(messages) == 2
    chat.send("/exit\n")
    assert chat.process.wait(timeout=30) == 0


def test_control_characters_are_shown_not_sent(nano):
    """A model must not be able to drive the terminal: 'template' shows text the same way."""
    t = Terminal("template", nano, "-p", "a\x1b[31mb\x9bc")
    t.expect(r"a\\x1b\[31mb")
    t.close()
