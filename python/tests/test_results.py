"""Results and summaries, whatever the values do."""

import pathlib

import pytest

from forkpy_worker.base import place, text
from forkpy_worker.cell import run as cell
from forkpy_worker.variables import details, summaries


def test_a_long_result_keeps_head_and_tail_and_goes_to_a_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "outputs", str(tmp_path / "outputs"))
    fitted = cell.run_cell(301, "'a' * 30_000 + 'b' * 30_000")[1][0]
    assert isinstance(fitted, tuple)
    text, file = fitted
    assert file == "outputs/cell-301-result.txt"
    assert len(text) <= cell.MAX_RESULT
    assert text.startswith("'aaa") and text.endswith("bbb'")
    assert "outputs/cell-301-result.txt" in text
    saved = (tmp_path / "outputs" / "cell-301-result.txt").read_text()
    assert len(saved) == 60_002


def test_a_lone_surrogate_becomes_its_escape() -> None:
    assert text.clean("a\ud800b") == "a\\ud800b"


def test_the_underscore_holds_the_last_result() -> None:
    cell.run_cell(302, "40 + 1")
    assert cell.run_cell(303, "_ + 1")[1] == ["42"]


class Slow:
    def __repr__(self) -> str:
        while True:
            pass


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError


class NoText:
    def __repr__(self) -> str:
        return 7  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, "int: 7"),
        (10**500, "int: integer of 1661 bits"),
        ("x" * 1000, "str: 1000 characters, 'xxx"),
        ([1] * 1000, "list: 1000 items, [1, 1, 1, 1, 1, 1, ...]"),
        ({"a": 1}, "dict: 1 item, {'a': 1}"),
        (Slow(), "Slow: <__repr__ is too slow>"),
        (Rude(), "Rude: <__repr__ raised RuntimeError>"),
        (NoText(), "NoText: <__repr__ raised TypeError>"),
        (Slow, "type: class test_results.Slow"),
    ],
)
def test_summaries(value: object, expected: str) -> None:
    summary = summaries.Budget().summary(value)
    assert summary.startswith(expected)
    assert len(summary) < 200


class Tensor:
    """As torch's are: a length, a shape, a dtype, a size, and a `__repr__` that takes long."""

    shape = (2, 3)
    dtype = "torch.float32"
    nbytes = 24

    def __len__(self) -> int:
        return 2

    def __repr__(self) -> str:
        raise AssertionError("it is described without")


Tensor.__module__ = "torch"


class Counting:
    def __len__(self) -> int:
        raise AssertionError("a session's own code is not asked")

    __sizeof__ = __len__


def test_details_of_arrays_and_of_what_must_not_be_asked() -> None:
    tensor = Tensor()
    assert details.of(tensor) == ([2, 3], "torch.float32", 2, 24)
    assert details.kind(tensor) == "torch.Tensor"
    assert summaries.Budget().summary(tensor) == "Tensor: shape (2, 3), dtype torch.float32"
    shape, dtype, length, _size = details.of(Counting())
    assert (shape, dtype, length) == (None, None, None)
    assert details.of("äö")[2] == 2 and details.kind([]) == "list"
