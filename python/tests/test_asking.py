"""Lines that a running cell asks for, with a function in the client's place."""

from __future__ import annotations

import threading
from typing import TypeAlias

import pytest

from forkpy_worker.base import asking

Answers: TypeAlias = list[tuple[str, str]]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """What the client answers, in order; nobody can be asked when nothing is left."""
    waiting: Answers = []

    def ask(*prompt: str) -> tuple[str, str] | bool:
        return waiting.pop(0) if prompt else bool(waiting)

    for name in ("_ask", "_main", "_pid"):
        monkeypatch.setattr(asking, name, getattr(asking, name))
    asking.install(ask)
    return waiting


def test_a_line_longer_than_any_buffer(answers: Answers) -> None:
    stdin = asking.stream()
    answers += [("line", "ä" * 100_000), ("line", ""), ("declined", "")]
    assert stdin.readline() == "ä" * 100_000 + "\n"
    assert list(stdin) == ["\n"]


def test_a_declined_question_is_the_end_and_an_error_in_input(
    answers: Answers,
) -> None:
    stdin = asking.stream()
    answers += [("declined", ""), ("declined", ""), ("cancelled", ""), ("failed", "no way")]
    assert stdin.read() == ""
    for words in ("declined", "dismissed", "no way"):
        with pytest.raises(EOFError, match=words):
            stdin.ask("? ")


def test_other_threads_have_nobody_to_ask(answers: Answers) -> None:
    answers.append(("line", "x"))
    raised = []

    def run() -> None:
        try:
            asking.stream().ask("")
        except EOFError as error:
            raised.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert raised == [asking.ELSEWHERE]
    assert answers


def test_exit_leaves_standard_input_open(answers: Answers) -> None:
    stdin = asking.stream()
    stdin.close()
    answers.append(("line", "still"))
    assert stdin.readline() == "still\n"
