"""Values are written as notebooks write them."""

import collections
import functools
import json
import subprocess
import sys
import types

import pytest

from forkpy_worker.base import place
from forkpy_worker.cell import run
from forkpy_worker.display import pretty


class Plain:
    pass


class Own:
    def _repr_pretty_(self, printer: pretty.Printer, cycle: bool) -> None:
        with printer.group(4, "Own(", ")"):
            for number in range(30):
                if number:
                    printer.text(",")
                    printer.breakable()
                printer.pretty(number)


class Lines:
    def __repr__(self) -> str:
        return "two\nlines"


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, "a", None], "[1, 'a', None]"),
        (int, "int"),
        (collections.Counter, "collections.Counter"),
        ([int, Plain], "[int, test_pretty.Plain]"),
        ({"b": 1, "a": 2}, "{'b': 1, 'a': 2}"),
        ({3, 1, 2}, "{1, 2, 3}"),
        (set(), "set()"),
        (frozenset((2, 1)), "frozenset({1, 2})"),
        (collections.OrderedDict(a=1), "OrderedDict([('a', 1)])"),
        (collections.defaultdict(list, a=[1]), "defaultdict(list, {'a': [1]})"),
        (collections.Counter("aab"), "Counter({'a': 2, 'b': 1})"),
        (collections.deque([1], maxlen=3), "deque([1], maxlen=3)"),
        (types.SimpleNamespace(a=1), "namespace(a=1)"),
        (Point(1, 2), "Point(x=1, y=2)"),
        (functools.reduce, "<function _functools.reduce>"),
        (ValueError("x"), "ValueError('x')"),
        ((1,), "(1,)"),
        ([Lines()], "[two\n lines]"),
    ],
)
def test_short_values_have_one_line(value: object, expected: str) -> None:
    assert pretty.text(value) == expected


def test_long_containers_have_an_item_on_each_line() -> None:
    words = ["word" * 5] * 5
    one = ",\n ".join(map(repr, words))
    assert pretty.text(words) == f"[{one}]"
    assert pretty.text(tuple(words)) == f"({one})"
    nested = pretty.text({"key": words, "other": 1})
    assert nested == "{'key': [" + ",\n  ".join(map(repr, words)) + "],\n 'other': 1}"
    assert pretty.text(Own()).startswith("Own(0,\n    1,\n    2,")


def test_cycles_end() -> None:
    loop: list = [1]
    loop.append(loop)
    assert pretty.text(loop) == "[1, [...]]"
    table: dict = {}
    table["x"] = table
    assert pretty.text(table) == "{'x': {...}}"


def test_very_many_items_are_cut_in_notebooks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [[n] for n in range(1500)]
    assert pretty.text(values) == repr(values)
    monkeypatch.setattr(place, "in_notebook", True)
    assert pretty.text(values).endswith(" [999],\n ...]")


def test_a_value_of_a_cell_is_written_so() -> None:
    assert run.run_cell(500, "type(1), [dict]")[1] == ["(int, [dict])"]
    assert run.run_cell(501, "'x' * 100")[1] == [repr("x" * 100)]


VALUES = """[
    {"a": list(range(40)), "b": {"c": ("x" * 50, "y" * 50)}, "d": {1: 2}},
    [
        collections.OrderedDict((n, [n] * 30) for n in range(4)),
        {"s"} | set(map(str, range(30))),
    ],
    types.MappingProxyType({"a": [str] * 30}),
    [ValueError("x" * 40, ["y" * 40]), range(3), 1.5, b"x", ...],
    collections.deque(range(50)),
]"""
THEIRS = f"""
import collections, json, sys, types
from IPython.lib.pretty import pretty
print(json.dumps([pretty(value) for value in {VALUES}]))
"""


def test_it_is_what_ipython_writes() -> None:
    pytest.importorskip("IPython")
    # In a process of its own: other tests put a stand-in in IPython's place.
    theirs = subprocess.run(
        [sys.executable, "-c", THEIRS], capture_output=True, text=True, check=True
    )
    ours = [pretty.text(value) for value in eval(VALUES)]
    assert ours == json.loads(theirs.stdout)
