"""The rooms of the package: a room imports rooms below it, no imports form a circle.

Reads the sources by `ast` and runs nothing of them. It sees every import: at the top of a module,
inside a function, for the type checker only, and a module's name in a string (`sys.modules.get`,
`__import__`, tables), because each of them makes one room depend on another.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "forkpy_worker"
ROOT = Path(__file__).parent.parent / PACKAGE
RUST = ROOT.parent.parent / "src"

# From the ground up. A room may import from those before it, and from itself.
ROOMS = (
    "base",
    "code",
    "report",
    "display",
    "libraries",
    "variables",
    "lookup",
    "cell",
    "session",
)

# Arrows that go up and have to be taken away: (importing module, imported module). It stays empty;
# an entry that is no longer needed fails too.
EXCEPTIONS: frozenset[tuple[str, str]] = frozenset()

_NAME_IN_STRING = re.compile(rf"(?:module://)?({PACKAGE}(?:\.\w+)+)")
_NAME_IN_RUST = re.compile(rf"\b{PACKAGE}((?:\.\w+)+)|find\(\"([\w.]+)\", \"(\w+)\"\)")

WHAT_TO_DO = (
    "A room imports only rooms below it, in the order of ROOMS in python/tests/test_layers.py. Move the type or "
    "constant down (base/ is the lowest), hand the value in as an argument, or let the upper room put its function "
    "where the lower one looks for it, as cell/run.py does with place.lend_loop."
)


def modules(root: Path) -> dict[str, Path]:
    """Find the modules of a package by dotted name, the package's own name left out."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows(root: Path) -> Iterator[tuple[str, str, int]]:
    """Give each import inside the package: from, to, line."""
    known = modules(root)
    for name, path in known.items():
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            for target in _named(node, known):
                if target != name:
                    yield name, target, getattr(node, "lineno", 0)


def _named(node: ast.AST, known: dict[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from _own(alias.name)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: write imports out, from {PACKAGE}.room"
        for room in _own(node.module or ""):
            for alias in node.names:
                # A module of that room, or something that the module itself has.
                inner = f"{room}.{alias.name}".lstrip(".")
                yield inner if inner in known else room
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        match = _NAME_IN_STRING.fullmatch(node.value)
        if match:
            yield from _own(match[1])


def _own(dotted: str) -> Iterator[str]:
    package, _, rest = dotted.partition(".")
    if package == PACKAGE:
        yield rest


def room_of(module: str) -> str:
    return module.partition(".")[0]


def wrong_places(root: Path) -> list[str]:
    """Find modules outside of a room, and rooms that do something themselves."""
    complaints = []
    for name, path in modules(root).items():
        room = room_of(name)
        if name not in ("", "_bootstrap") and (room not in ROOMS or name.count(".") > 1):
            complaints.append(
                f"{path.name} stands in no room. Put it into one of {', '.join(ROOMS)}; a new room needs a "
                "place in ROOMS (python/tests/test_layers.py) and a folder with an __init__.py."
            )
        statements = ast.parse(path.read_text("utf-8")).body
        only_words = len(statements) == 1 and isinstance(statements[0], ast.Expr)
        if path.name == "__init__.py" and not only_words:
            complaints.append(
                f"{room or PACKAGE}/__init__.py has more than its docstring. It is loaded before everything in the "
                "room, also when only one module is wanted; move the code into a module."
            )
    return complaints


def arrows_up(root: Path) -> dict[tuple[str, str], str]:
    """Find imports that do not go down."""
    found = {}
    heights = {room: height for height, room in enumerate(ROOMS)}
    known = modules(root)
    for name, target, line in arrows(root):
        if target not in known:
            found[name, target] = f"{name}, line {line}, names {target!r}, which does not exist."
        elif name == "_bootstrap" or target == "_bootstrap":
            found[name, target] = (
                f"{name}, line {line}, imports {target}: _bootstrap runs before the package exists."
            )
        elif heights.get(room_of(target), 0) > heights.get(room_of(name), 0):
            found[name, target] = (
                f"{name}, line {line}, imports {target}, which is above it. {WHAT_TO_DO}"
            )
    return found


def circles(root: Path) -> list[str]:
    """Find modules that import each other, directly or through others."""
    ahead: dict[str, set[str]] = {}
    for name, target, _ in arrows(root):
        ahead.setdefault(name, set()).add(target)
    found, done = [], set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            round_trip = " -> ".join((*way[way.index(name) :], name))
            found.append(
                f"{round_trip} is a circle: none of them can be read or tested without the others. Move what "
                "both need into a module of its own below them."
            )
        elif name not in done:
            for target in sorted(ahead.get(name, ())):
                walk(target, (*way, name))
            done.add(name)

    for name in sorted(ahead):
        walk(name, ())
    return found


def test_every_module_stands_in_a_room() -> None:
    assert wrong_places(ROOT) == []
    assert {room_of(name) for name in modules(ROOT)} == {"", "_bootstrap", *ROOMS}


def test_no_import_goes_up() -> None:
    found = arrows_up(ROOT)
    assert [words for arrow, words in found.items() if arrow not in EXCEPTIONS] == []
    unneeded = EXCEPTIONS - found.keys()
    assert not unneeded, f"these exceptions are no longer needed, delete them: {sorted(unneeded)}"


def test_no_imports_form_a_circle() -> None:
    assert circles(ROOT) == []


def test_rust_names_only_what_exists() -> None:
    known = modules(ROOT)
    wrong = []
    seen = 0
    for path in sorted(RUST.rglob("*.rs")):
        for match in _NAME_IN_RUST.finditer(path.read_text("utf-8")):
            seen += 1
            module, name = (match[1] or f".{match[2]}")[1:], match[3]
            if module not in known or (name and not defines(known[module], name)):
                wrong.append(
                    f"{path.relative_to(RUST)} names {match[0]}, which the package does not have"
                )
    assert wrong == []
    assert seen > 10, "the patterns no longer find what Rust calls"


def defines(path: Path, name: str) -> bool:
    kinds = (ast.FunctionDef, ast.ClassDef)
    body = ast.parse(path.read_text("utf-8")).body
    return any(isinstance(node, kinds) and node.name == name for node in body)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (
            {"base/a.py": f"from {PACKAGE}.cell import b\n", "cell/b.py": ""},
            "base.a, line 1, imports cell.b",
        ),
        (
            {"base/a.py": f"def f():\n    import {PACKAGE}.cell.b\n", "cell/b.py": ""},
            "base.a, line 2, imports cell.b",
        ),
        (
            {"code/a.py": f"from {PACKAGE}.cell.b import c\n", "cell/b.py": "c = 1"},
            "code.a, line 1, imports cell.b",
        ),
        (
            {"base/a.py": f'NAME = "module://{PACKAGE}.cell.b"\n', "cell/b.py": ""},
            "base.a, line 1, imports cell.b",
        ),
        (
            {"cell/a.py": f'NAME = "{PACKAGE}.base.gone"\n'},
            "cell.a, line 1, names 'base.gone', which does not exist",
        ),
        (
            {"_bootstrap.py": f"import {PACKAGE}.base.a\n", "base/a.py": ""},
            "_bootstrap runs before the package",
        ),
    ],
)
def test_an_arrow_up_is_told(tmp_path: Path, files: dict[str, str], complaint: str) -> None:
    build(tmp_path, files)
    assert [words for words in arrows_up(tmp_path).values() if complaint in words]


def test_a_circle_is_told(tmp_path: Path) -> None:
    here = f"from {PACKAGE}.base import"
    build(
        tmp_path,
        {
            "base/a.py": f"{here} b",
            "base/b.py": f"def f():\n    {here} c",
            "base/c.py": f"{here} a",
        },
    )
    assert arrows_up(tmp_path) == {}
    assert ["base.a -> base.b -> base.c -> base.a" in words for words in circles(tmp_path)] == [
        True
    ]


def test_a_module_outside_of_the_rooms_is_told(tmp_path: Path) -> None:
    build(tmp_path, {"new.py": "", "attic/a.py": "", "base/__init__.py": "import os"})
    words = "\n".join(wrong_places(tmp_path))
    assert all(
        part in words
        for part in ("new.py stands in no room", "a.py stands in", "base/__init__.py has more")
    )


def build(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def test_no_module_is_longer_than_500_lines() -> None:
    lengths = {
        name: len(path.read_text("utf-8").splitlines()) for name, path in modules(ROOT).items()
    }
    long = {name: lines for name, lines in lengths.items() if lines > 500}
    assert not long, f"split these where their subjects part (ARCHITECTURE.md, rule 7): {long}"
