"""Where the text of a class stands that a cell defined: `inspect` knows it for functions only.

Owns: `inspect.getfile` and `inspect.findsource` for classes of `__main__`, which has no file.
Runs in: zygote (fitted), worker. Imports `ast` inside functions only.
"""

from __future__ import annotations

import re
import sys

from forkpy_worker.code import sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

    # name of the cell, its lines, the line of the class counted from 0
    Found = tuple[str, list[str], int]


def fit(inspect: ModuleType) -> None:
    """Let `inspect` find the classes of cells; all else is left to it."""
    its_getfile, its_findsource = inspect.getfile, inspect.findsource

    def getfile(object: Any) -> str:  # noqa: A002
        found = locate(object) if _is_of_a_cell(object) else None
        return its_getfile(object) if found is None else found[0]

    def findsource(object: Any) -> tuple[list[str], int]:  # noqa: A002
        found = locate(object) if _is_of_a_cell(object) else None
        return its_findsource(object) if found is None else found[1:]

    getfile.__doc__, findsource.__doc__ = its_getfile.__doc__, its_findsource.__doc__
    inspect.getfile = getfile  # type: ignore[attr-defined]
    inspect.findsource = findsource  # type: ignore[attr-defined]


def _is_of_a_cell(value: Any) -> bool:
    return (
        isinstance(value, type)
        and type.__getattribute__(value, "__module__") == "__main__"
        and getattr(sys.modules.get("__main__"), "__file__", None) is None
    )


def locate(kind: type) -> Found | None:
    """Find the cell that defined a class, and the line of its first decorator or `class`.

    A class does not say where it was defined, but its functions do. One without functions is looked
    for by its name: of several, the newest is taken that gives what the class has.
    """
    names = type.__getattribute__(kind, "__qualname__").split(".")
    own = dict(type.__getattribute__(kind, "__dict__"))
    sources.restore()
    best: tuple[int, Found] | None = None
    for filename in _candidates(own, names[-1]):
        lines = sources.lines_of(filename)
        for line, bound in _definitions(lines, names):
            lacking = len(bound.difference(own))
            exact = own.get("__firstlineno__") in (None, line + 1)
            score = lacking + (0 if exact else 1000)
            if best is None or score < best[0]:
                best = score, (filename, lines, line)
        if best is not None and best[0] == 0:
            break
    return None if best is None else best[1]


def _candidates(own: dict[str, Any], name: str) -> list[str]:
    named = re.compile(rf"\bclass\s+{re.escape(name)}\b")
    newest_first = [
        filename for filename, text in reversed(sources.texts()) if named.search(text) is not None
    ]
    told = [filename for filename in _files(own) if filename in newest_first]
    return told or newest_first


def _files(own: dict[str, Any]) -> list[str]:
    """Name the files of the functions in a class, properties and the like included."""
    found = []
    for value in own.values():
        function = getattr(value, "fget", None) or getattr(value, "__func__", value)
        code: CodeType | None = getattr(function, "__code__", None)
        if code is not None:
            found.append(code.co_filename)
    return found


def _definitions(lines: list[str], names: list[str]) -> list[tuple[int, set[str]]]:
    """List where classes of this name begin, the last first, with the names that each gives."""
    import ast

    tree = _parsed("".join(lines))
    if tree is None:
        # No Python at all, such as a cell whose magic takes the whole of it.
        head = re.compile(rf"\s*class\s+{re.escape(names[-1])}\b")
        nothing: set[str] = set()
        return [(n, nothing) for n, line in enumerate(lines) if head.match(line)][::-1]
    found: list[tuple[int, set[str]]] = []

    def look(node: ast.AST, path: list[str]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                here = [*path, child.name]
                if here == names:
                    first = min([child.lineno, *(d.lineno for d in child.decorator_list)])
                    found.append((first - 1, _bound(child)))
                look(child, here)
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                look(child, [*path, child.name, "<locals>"])
            else:
                look(child, path)

    look(tree, [])
    return found[::-1]


def _bound(node: Any) -> set[str]:
    """Give the names that a class's body certainly leaves in the class."""
    import ast

    names = set()
    for part in node.body:
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(part.name)
        elif isinstance(part, ast.Assign):
            names.update(name.id for name in part.targets if isinstance(name, ast.Name))
    return names


def _parsed(text: str) -> Any:
    import ast
    import warnings

    for version in (text, _without_magics(text)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse(version)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # noqa: PERF203
            continue
    return None


def _without_magics(text: str) -> str:
    """Make lines that only IPython understands comments; the others stay where they are."""
    return re.sub(r"^[ \t]*[%!?]", "#", text, flags=re.MULTILINE)
