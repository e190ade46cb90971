"""Whether there is IPython is looked for once, and again when a folder has changed."""

from __future__ import annotations

import builtins
import sys
from typing import TYPE_CHECKING

import pytest

from forkpy_worker.libraries import stand_ins

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(stand_ins, "_folders", None)
    for name in ("display", "get_ipython", "__IPYTHON__"):
        monkeypatch.setattr(builtins, name, None, raising=False)
        monkeypatch.delattr(builtins, name)


def is_told() -> bool:
    stand_ins.install()
    return hasattr(builtins, "__IPYTHON__")


def test_what_was_found_before_the_forks_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins.prepare()
    monkeypatch.setattr(stand_ins, "_look", lambda: pytest.fail("looked for again"))
    assert not is_told()


def test_what_is_installed_later_is_found_all_the_same(tmp_path: Path) -> None:
    stand_ins.prepare()
    (tmp_path / "IPython").mkdir()
    (tmp_path / "IPython/__init__.py").touch()
    assert is_told()


def test_it_is_looked_for_where_it_was_not_before(tmp_path: Path) -> None:
    assert not is_told()
    (tmp_path / "IPython").mkdir()
    (tmp_path / "IPython/__init__.py").touch()
    assert is_told()
