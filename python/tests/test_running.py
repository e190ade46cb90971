"""Pasted code, broken builtins and the session's loop, without Rust."""

import builtins
import sys

import pytest

from forkpy_worker.base import place
from forkpy_worker.cell import run as cell
from forkpy_worker.code import straighten
from forkpy_worker.report import damaged


@pytest.mark.parametrize(
    ("pasted", "straight"),
    [
        ("\ufeffx = 1", "x = 1"),
        ("    x = 1\n    y = 2", "x = 1\ny = 2"),
        ("\n  for i in x:\n      i", "\nfor i in x:\n    i"),
        (">>> for i in x:\n...     i\n...\n>>> i", "for i in x:\n    i\n\ni"),
        ("In [3]: x = 1\n   ...: y = 2", "x = 1\ny = 2"),
        ("x = 1\n    y = (", "x = 1\n    y = ("),
        ("", ""),
    ],
)
def test_marks_of_pasted_code_are_taken_away_and_lines_keep_their_numbers(
    pasted: str, straight: str
) -> None:
    assert straighten.straighten(pasted) == straight


def test_what_ipython_only_shows_ends_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "swallowed", [ValueError("shown")])
    status, _, error, *_ = cell.run_cell(601, "1 + 1")
    assert error is not None
    assert (status, error[:2]) == ("error", ("ValueError", "shown"))
    assert place.swallowed == []


def test_a_broken_builtin_is_named_and_can_be_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    damaged.remember()
    monkeypatch.setattr(builtins, "ascii", None)
    monkeypatch.delitem(sys.modules, "textwrap", raising=False)
    hint = damaged.hint()
    assert hint is not None and "(ascii)" in hint and "restart_kernel" in hint
    assert damaged.mend() and callable(builtins.ascii)
    assert damaged.hint() is None and not damaged.mend()


def test_a_cell_that_awaits_runs_in_the_context_of_all_cells() -> None:
    cell.run_cell(602, "import asyncio, contextvars\nvar_602 = contextvars.ContextVar('v')")
    assert cell.run_cell(603, "await asyncio.sleep(0)\nvar_602.set(5);")[0] == "ok"
    assert cell.run_cell(604, "var_602.get()")[1] == ["5"]
