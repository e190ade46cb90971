"""Completion and inspection by jedi, and where the cursor is."""

import json
import pathlib

import pytest

from forkpy_worker.base import place
from forkpy_worker.lookup import completion, inspection


def matches(code: str) -> list[str]:
    return json.loads(completion.complete(code, len(code)))["matches"]


def test_imports_and_attributes_of_what_code_makes() -> None:
    assert "path" in matches("from os.pa")
    assert "upper" in matches("x = 'abc'\nx.up")
    assert matches("def function(argument): pass\nfunction(argu")[0] == "argument="


def test_paths_in_strings(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data file.csv").touch()
    monkeypatch.chdir(tmp_path)
    assert [text.strip("'") for text in matches("open('data")] == ["data file.csv"]


def test_living_names_and_what_code_defines() -> None:
    place.namespace["living_one"] = object()
    assert matches("living_two = 1\nliving_") == ["living_one", "living_two"]


def test_no_attributes_in_comments_and_strings() -> None:
    place.namespace["living"] = [1]
    assert "append" not in matches("# living.")
    assert "append" not in matches("x = 'living.")
    assert "append" in matches("x = 'a'; living.")


def test_lines_of_magics_keep_their_length() -> None:
    assert completion.without_magics("%%time\nx = 1\n%time y\n!ls") == "#%time\nx = 1\n      y\n#ls"


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("os.pa|th.join", "os.path"),
        ("o|s.path", "os"),
        ("print(len(x|), sep=1)", "x"),
        ("print(len(x), |sep=1)", "sep"),
        ("print(len(1), | 3)", "print"),
        ("print(len(1, |", "len"),
        ("import os|", "os"),
        ("df.head()|", ""),
        ("'漢' + text|", "text"),
        ("obj?|", ""),
        ("ob|j?", "obj"),
        ("x = (1,\n  value|", "value"),
        ("|", ""),
    ],
)
def test_the_name_at_the_cursor(code: str, name: str) -> None:
    cursor = code.index("|")
    assert ".".join(inspection.at_cursor(code.replace("|", ""), cursor)) == name


def test_what_code_defines_is_inspected_by_jedi() -> None:
    code = "def fresh(a, b=2):\n    'Words.'\nfresh"
    found = json.loads(inspection.inspect_object(code, len(code), 0))
    assert found["found"]
    assert (
        "fresh(a, b=2)" in found["data"]["text/plain"] and "Words." in found["data"]["text/plain"]
    )


def test_a_cached_tree_that_is_only_half_written_is_no_error(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sessions completed for the first time at once: one read what the other wrote, and offered nothing."""
    import jedi
    import parso.cache

    monkeypatch.setattr(jedi.settings, "cache_directory", str(tmp_path))
    monkeypatch.setattr(completion, "_have_a_cache", lambda settings: None)
    parso.cache.parser_cache.clear()
    assert "path" in matches("from os.pa")
    trees = list(tmp_path.glob("*/*.pkl"))
    assert trees
    for tree in trees:
        tree.write_bytes(tree.read_bytes()[:100])
    parso.cache.parser_cache.clear()
    assert "path" in matches("from os.pa")
