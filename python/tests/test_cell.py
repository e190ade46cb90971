"""Cells, variables and carried-over state, without Rust."""

import pathlib
import sys

import pytest

from forkpy_worker.cell import run as cell
from forkpy_worker.code import compiling
from forkpy_worker.variables import state, variables


def main_names() -> dict:
    return sys.modules["__main__"].__dict__


def test_a_last_expression_is_the_result() -> None:
    assert cell.run_cell(1, "x_one = 20\nx_one + 1") == ("ok", ["21"], None, None, [], None, [])
    assert cell.run_cell(2, "x_one") == ("ok", ["20"], None, None, [], None, [])


def test_an_exception_names_its_line() -> None:
    status, results, error, *_ = cell.run_cell(3, "a = 1\n\n1 / 0")
    assert (status, results) == ("error", [])
    assert error[0] == "ZeroDivisionError" and error[2] == 3
    assert '"<cell 3>", line 3' in error[3] and "1 / 0" in error[3]


def test_top_level_await_runs() -> None:
    assert cell.run_cell(4, "import asyncio\nawait asyncio.sleep(0, 5)")[1] == ["5"]


def test_a_rehearsal_shows_nothing_where_each_expression_shows_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiling, "interactivity", lambda: "all")
    shown: list = []
    monkeypatch.setattr(sys, "displayhook", shown.append)
    cell.rehearse()
    assert shown == []


def test_system_exit_has_a_scripts_code() -> None:
    assert cell.run_cell(6, "import sys; sys.exit(3)") == ("exited", [], None, 3, [], None, [])


def test_variables_are_listed_without_modules() -> None:
    cell.run_cell(7, "import os\nlisted = [1, 2]\n_hidden = 1")
    found = {name: more for name, *more in variables.list_variables()}
    assert found["listed"][:2] == ["list", "2 items, [1, 2]"] and found["listed"][4] == 2
    assert "os" not in found and "_hidden" not in found


def test_state_goes_through_a_file_and_names_what_cannot(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without cloudpickle, wherever these tests run.
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    cell.run_cell(8, "carried = {'a': 1}\nclass Local: pass\nlocal = Local()")
    names, skipped, _ = state.save(str(tmp_path / "s"))
    assert "carried" in names and {"Local", "local"} <= {name for name, _ in skipped}
    del main_names()["carried"]
    restored, _, _ = state.load(str(tmp_path / "s"))
    assert "carried" in restored and main_names()["carried"] == {"a": 1}
