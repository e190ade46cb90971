"""What is installed, and what a living interpreter forgets of it."""

from __future__ import annotations

import importlib.util
import json
import sys
from typing import TYPE_CHECKING

from forkpy_worker.session import packages

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_refresh_lets_a_new_module_be_found_and_names_what_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "later"
    monkeypatch.setattr(sys, "path", [str(missing), *sys.path])
    assert importlib.util.find_spec("forkpy_made_later") is None
    missing.mkdir()
    (missing / "forkpy_made_later.py").write_text("x = 1\n")
    assert packages.refresh(["json", "forkpy_made_later", "nowhere"]) == ["json"]
    assert importlib.util.find_spec("forkpy_made_later") is not None


def test_refresh_bears_finders_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.path_importer_cache, "/nowhere", object())  # type: ignore[arg-type]
    assert packages.refresh([]) == []


def test_survey_knows_versions_and_modules(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    packages.survey(str(file), True)
    found = json.loads(file.read_text())
    pytest_entry = next(entry for entry in found["packages"] if entry["name"] == "pytest")
    assert pytest_entry["version"].split(".")[0].isdigit()
    assert "pytest" in pytest_entry["modules"]
    assert "__pycache__" not in pytest_entry["modules"]
    assert "pytest" in found["preloaded"]
    packages.survey(str(file), False)
    assert all(entry["modules"] == [] for entry in json.loads(file.read_text())["packages"])


def test_spellings_of_a_name_are_one() -> None:
    assert packages.normal("Foo.Bar_baz") == packages.normal("foo-bar-baz")
