"""What the image of a zygote depends on, and what keeps it from being made."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from forkpy_worker.session import origins

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_files_of_modules_and_folders_are_named() -> None:
    paths, _ = origins.origins()
    assert sys.executable in paths
    assert os.path.dirname(os.__file__) in paths
    assert getattr(sys.modules["typing"], "__file__", "") in paths


def test_lines_that_run_unknown_code_are_found(tmp_path: Path) -> None:
    known = "import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os.environ.get(var, 'local') == 'local'\n"
    (tmp_path / "a.pth").write_text(f"/a/folder\n{known}import _virtualenv\n")
    (tmp_path / "b.pth").write_text("# nothing\nimport os; os.environ.get('X')\n")
    paths: set[str] = set()
    assert origins._look_at_lines(str(tmp_path), paths) == [str(tmp_path / "b.pth")]
    assert paths == {str(tmp_path / "a.pth"), str(tmp_path / "b.pth")}


def test_only_debian_s_customisation_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    custom = tmp_path / "sitecustomize.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sitecustomize", raising=False)
    custom.write_text("import os\n")
    module = __import__("sitecustomize")
    assert not origins._is_known(module)
    custom.write_text(
        "# a comment\ntry:\n    import apport_python_hook\nexcept ImportError:\n    pass\n"
        "else:\n    apport_python_hook.install()\n"
    )
    assert origins._is_known(module)
    monkeypatch.delitem(sys.modules, "sitecustomize")


def test_variables_are_those_that_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environb)
    try:
        origins.take_environment([(b"ONE", b"1"), (b"\xff", b"\xfe")])
        assert dict(os.environ) == {"ONE": "1", "\udcff": "\udcfe"}
    finally:
        origins.take_environment(list(before.items()))
    assert dict(os.environb) == before
    monkeypatch.undo()
