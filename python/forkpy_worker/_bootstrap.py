"""Serves the embedded package from memory.

Owns: one entry of `sys.meta_path`. May not import from the package: it exists before the package.
Runs in: zygote, once, before anything else of the package. Rust executes this text with a dict
`SOURCES` in its globals: full module name -> (source text, origin for tracebacks, is a package,
the text compiled by a Python of `MAGIC`, if there is that).
"""

from __future__ import annotations

import builtins
import marshal
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    SOURCES: dict[str, tuple[str, str, bool, bytes | None]] = {}
    MAGIC = b""


# What `builtins` holds at the start: this package's code goes on whatever cells do to `builtins`.
BUILTINS = dict(builtins.__dict__)


class EmbeddedFinder:
    """Finder and loader in one, for exactly the names it was given."""

    def __init__(self, sources: dict[str, tuple[str, str, bool, bytes | None]]) -> None:
        """Keep the table; nothing is compiled before it is imported."""
        self._sources = sources

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Answer for our own names, leave all others to the next finder."""
        entry = self._sources.get(name)
        if entry is None:
            return None
        _text, origin, is_package, _code = entry
        loader: Any = self
        return ModuleSpec(name, loader, origin=origin, is_package=is_package)

    def create_module(self, spec: ModuleSpec) -> None:
        """Let the import system make an ordinary module."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module: compiled at the build, or now where another Python did that."""
        text, origin, _is_package, compiled = self._sources[module.__name__]
        if compiled is not None and MAGIC == MAGIC_NUMBER:
            code = marshal.loads(compiled)
        else:
            code = compile(text, origin, "exec", 0, True)
        module.__dict__["__builtins__"] = BUILTINS
        exec(code, module.__dict__)

    def get_source(self, name: str) -> str:
        """Give the text to `linecache`, so that tracebacks through the package show their lines."""
        try:
            return self._sources[name][0]
        except KeyError:
            raise ImportError(f"not an embedded module: {name!r}", name=name) from None

    def is_package(self, name: str) -> bool:
        """Say whether a name of ours is a package."""
        return self._sources[name][2]


sys.meta_path.insert(0, EmbeddedFinder(SOURCES))
