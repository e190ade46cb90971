"""Variables kept by value: what is written, what is not written anew, and what gives way."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from forkpy_worker.base.place import namespace
from forkpy_worker.variables import keptfile, state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT = 64 << 20


@pytest.fixture
def variables() -> Iterator[dict[str, object]]:
    before = dict(namespace)
    yield namespace
    namespace.clear()
    namespace.update(before)


@pytest.fixture
def pipe() -> Iterator[list[int]]:
    ends = list(os.pipe())
    yield ends
    for end in ends:
        os.close(end)


def large(folder: Path) -> dict[str, int]:
    return {entry.name: entry.stat().st_ino for entry in folder.iterdir() if len(entry.name) == 64}


def test_what_is_kept_comes_back_and_what_cannot_be_is_named(
    tmp_path: Path, variables: dict[str, object], pipe: list[int]
) -> None:
    shared = [1]
    variables.update(a=shared, b=[shared], mod=os, gen=(x for x in "ab"), text="ä" * 3_000_000)
    report = state.keep(str(tmp_path), pipe[0], LIMIT)
    assert report is not None
    names, skipped, _ = report
    assert {"a", "b", "mod", "text"} <= set(names)
    assert "gen" in dict(skipped)
    for name in ("a", "b", "mod", "gen", "text"):
        del variables[name]
    loaded = state.load_kept(str(tmp_path))
    assert {"a", "b", "mod", "text"} <= set(loaded[0])
    assert variables["b"][0] is variables["a"]  # type: ignore[index]
    assert variables["mod"] is os
    assert variables["text"] == "ä" * 3_000_000


def test_what_is_large_and_did_not_change_is_not_written_anew(
    tmp_path: Path, variables: dict[str, object], pipe: list[int]
) -> None:
    variables.update(one=bytes(2_000_000), two=b"x" * 2_000_000, count=0)
    state.keep(str(tmp_path), pipe[0], LIMIT)
    first = large(tmp_path)
    assert len(first) == 2
    variables.update(two=b"y" * 2_000_000, count=1)
    state.keep(str(tmp_path), pipe[0], LIMIT)
    second = large(tmp_path)
    assert len(second) == 2, "what nothing names is removed"
    kept = set(first.items()) & set(second.items())
    assert len(kept) == 1, "the same file, not one that was written again"
    variables.clear()
    state.load_kept(str(tmp_path))
    assert (variables["count"], variables["two"]) == (1, b"y" * 2_000_000)


def test_a_call_that_waits_has_precedence_and_what_was_kept_before_stays(
    tmp_path: Path, variables: dict[str, object]
) -> None:
    variables.update(value=1)
    reading, writing = os.pipe()
    state.keep(str(tmp_path), reading, LIMIT)
    index = (tmp_path / keptfile.INDEX).read_bytes()
    variables.update(value=2)
    os.close(writing)
    assert state.keep(str(tmp_path), reading, LIMIT) is None
    os.close(reading)
    assert (tmp_path / keptfile.INDEX).read_bytes() == index
    state.load_kept(str(tmp_path))
    assert variables["value"] == 1


def test_what_is_too_large_is_left_out_and_the_rest_is_kept(
    tmp_path: Path, variables: dict[str, object], pipe: list[int]
) -> None:
    variables.update(huge=bytes(3_000_000), many=list(range(1_000_000)), small=7)
    report = state.keep(str(tmp_path), pipe[0], 1_000_000)
    assert report is not None
    skipped = dict(report[1])
    assert "too large" in skipped["huge"]
    assert "too large" in skipped["many"]
    assert "small" in report[0]


def test_damage_is_found(tmp_path: Path, variables: dict[str, object], pipe: list[int]) -> None:
    variables.update(whole=bytes(2_000_000), small=7)
    state.keep(str(tmp_path), pipe[0], LIMIT)
    (place,) = large(tmp_path)
    (tmp_path / place).write_bytes(b"\1" * 2_000_000)
    assert "small" in state.load_kept(str(tmp_path))[0]
    assert "not as it was written" in dict(state.load_kept(str(tmp_path))[1])["whole"]
    (tmp_path / keptfile.INDEX).write_text("{")
    with pytest.raises(ValueError, match="incomplete or damaged"):
        state.load_kept(str(tmp_path))
