"""The text of the session's cells, for tracebacks, `inspect.getsource` and warnings.

Owns: the table of cell texts and their entries in `linecache`. May not import `linecache`: up to
3.12 that costs the first cell several milliseconds. Until other code imports it, the texts wait here.
Runs in: worker main thread.
"""

from __future__ import annotations

import sys
from io import StringIO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

# A session of a million cells must not keep them all; the newest always stays.
MAX_CELLS = 20_000
MAX_CHARACTERS = 32_000_000

_texts: dict[str, str] = {}
_characters = 0


def remember(filename: str, text: str) -> None:
    """Keep a cell's text under its filename."""
    global _characters
    _characters += len(text) - len(_texts.pop(filename, ""))
    _texts[filename] = text
    linecache = sys.modules.get("linecache")
    if linecache is not None:
        _register(linecache, filename, text)
    if len(_texts) > MAX_CELLS or _characters > MAX_CHARACTERS:
        _forget_oldest(linecache)


def forget(filename: str) -> None:
    """Keep a cell's text no longer."""
    global _characters
    _characters -= len(_texts.pop(filename, ""))
    linecache = sys.modules.get("linecache")
    if linecache is not None:
        linecache.cache.pop(filename, None)


def text_of(filename: str) -> str:
    """Give a cell's text, empty when it is not kept."""
    return _texts.get(filename, "")


def texts() -> list[tuple[str, str]]:
    """List the cells whose text is kept, with it, the oldest first."""
    return list(_texts.items())


def lines_of(filename: str) -> list[str]:
    """Give a cell's lines, as `linecache` holds them."""
    return _lines(text_of(filename))


def saved_name(filename: str) -> str:
    """Give the name under which a cell's text goes to another process, which has cells of its own.

    It tells texts apart, so that the same text has the same name in all of them.
    """
    if ", saved " in filename:
        return filename
    from hashlib import blake2b

    text = text_of(filename).encode("utf-8", "backslashreplace")
    return f"{filename[:-1]}, saved {blake2b(text, digest_size=6).hexdigest()}>"


def restore() -> None:
    """Enter every cell that `linecache` does not know: it was imported late, or was cleared."""
    linecache = sys.modules.get("linecache")
    if linecache is None:
        return
    for filename, text in list(_texts.items()):
        if filename not in linecache.cache:
            _register(linecache, filename, text)


def watch() -> None:
    """Make the first import of `linecache` find the cells that ran before it."""
    if "linecache" not in sys.modules:
        sys.meta_path.insert(0, _LinecacheWatch())


def _register(linecache: ModuleType, filename: str, text: str) -> None:
    cache: dict[str, Any] | None = getattr(linecache, "cache", None)
    if cache is not None:
        # An mtime of None makes `linecache.checkcache` leave the entry alone.
        cache[filename] = (len(text), None, _lines(text), filename)


def _lines(text: str) -> list[str]:
    # StringIO, because str.splitlines also splits at form feeds and others that are no line ends to
    # Python.
    lines = StringIO(text, None).readlines()
    if lines and not lines[-1].endswith("\n"):
        # As `linecache` does it: carets below the last line are counted with its end.
        lines[-1] += "\n"
    return lines


def _forget_oldest(linecache: ModuleType | None) -> None:
    global _characters
    cache: dict[str, Any] = getattr(linecache, "cache", {})
    while len(_texts) > MAX_CELLS or (_characters > MAX_CHARACTERS and len(_texts) > 1):
        oldest = next(iter(_texts))
        _characters -= len(_texts.pop(oldest))
        cache.pop(oldest, None)


class _LinecacheWatch:
    """A finder that sees one import go by and leaves."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "linecache":
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                spec.loader = _Fill(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _Fill:
    """A loader that does what the real one does, and then enters the cells."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._real.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._real
        if module.__spec__ is not None:
            module.__spec__.loader = self._real
        self._real.exec_module(module)
        restore()
