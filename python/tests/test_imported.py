"""What cells import is noted when it is installed and takes long, and the import is as any other."""

from __future__ import annotations

import importlib.util
import os
import sys
from _thread import get_ident
from importlib.machinery import SourceFileLoader
from typing import TYPE_CHECKING

import pytest

from forkpy_worker.base import place
from forkpy_worker.cell import run as cell
from forkpy_worker.libraries import watches

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SLOW = "import time\nfrom noted_inner import x\ntime.sleep(0.03)\nspec = __spec__\n"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "noted_inner.py").write_text("import time\ntime.sleep(0.02)\nx = 1\n")
    (folder / "noted_slow.py").write_text(SLOW)
    (folder / "noted_bad.py").write_text("import time\ntime.sleep(0.02)\n1 / 0\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "meta_path", [watches._Watch(), *sys.meta_path])
    monkeypatch.setattr(place, "thread", get_ident())
    place.imported.clear()
    yield folder
    for name in [name for name in sys.modules if name.startswith("noted_")]:
        del sys.modules[name]
    place.imported.clear()


def imported(number: int, code: str) -> list[str]:
    return [name for name, *_ in cell.run_cell(number, code)[6]]


def test_what_a_cell_imports_is_told_once_and_not_what_that_imports(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Here and not before: pytest itself sets a variable for each test.
    monkeypatch.setattr(watches, "_at_start", dict(os.environ))
    report = cell.run_cell(800, "import noted_slow")
    ((name, seconds, plain),) = report[6]
    assert (name, report[0], plain) == ("noted_slow", "ok", True)
    assert 0.04 < seconds < 60
    assert imported(801, "import noted_slow, noted_inner") == []
    # The module has the loader that it would have had.
    spec = sys.modules["noted_slow"].spec
    assert type(spec.loader) is SourceFileLoader is type(sys.modules["noted_slow"].__loader__)


def test_one_that_fails_or_is_only_looked_for_is_not_told(installed: Path) -> None:
    assert imported(802, "try:\n    import noted_bad\nexcept ZeroDivisionError: pass") == []
    spec = importlib.util.find_spec("noted_slow")
    assert spec is not None
    assert type(spec.loader) is SourceFileLoader
    # The one after it is timed again.
    assert imported(803, "import noted_slow") == ["noted_slow"]


def test_an_import_with_other_variables_is_told_as_such(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTED_BACKEND", "other")
    ((_, _, plain),) = cell.run_cell(806, "import noted_slow")[6]
    assert not plain


def test_modules_of_the_sessions_own_and_of_other_threads_are_not_told(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "noted_own.py").write_text("import time\ntime.sleep(0.02)\n")
    monkeypatch.syspath_prepend(str(own))
    assert imported(804, "import noted_own") == []
    code = "import threading\nt = threading.Thread(target=__import__, args=('noted_slow',))\nt.start(); t.join()"
    assert imported(805, code) == []
