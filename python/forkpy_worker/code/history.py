"""What cells gave and what they were: `_`, `__`, `___`, `_12`, `Out[12]`, `In[12]`.

Owns: these names in `builtins`: there they are no variables, and a variable of the same name wins.
Runs in: worker main thread.
"""

from __future__ import annotations

import builtins

from forkpy_worker.base import place
from forkpy_worker.code import sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Older results are let go: a session is not to keep every data frame that it ever showed.
MAX_RESULTS = 100

_builtins = builtins.__dict__
_out: dict[int, Any] = {}
_published: set[int] = set()


class Inputs:
    """The texts of the cells by number."""

    def __getitem__(self, cell: int) -> str:
        """Give a cell's text."""
        text = sources.text_of(f"<cell {cell + place.cell if cell < 0 else cell}>")
        if not text:
            raise IndexError(f"there is no cell {cell}, or it is no longer kept")
        return text

    def __len__(self) -> int:
        """Count them up to this one."""
        return place.cell + 1

    def __repr__(self) -> str:
        """Say what it is."""
        return f"<the {place.cell} cells of this session: In[1] to In[{place.cell}]>"


def install() -> None:
    """Put the names where every cell sees them."""
    _builtins["In"] = Inputs()
    _builtins["Out"] = _out


def keep(value: Any, cell: int) -> None:
    """Remember a cell's result."""
    if value is _out:
        return
    _builtins["___"] = _builtins.get("__")
    _builtins["__"] = _builtins.get("_")
    _builtins["_"] = value
    _out[cell] = value
    if len(_out) > MAX_RESULTS:
        oldest = next(iter(_out))
        _out.pop(oldest, None)
        _published.discard(oldest)
        if f"_{oldest}" in _builtins:
            del _builtins[f"_{oldest}"]


def results() -> dict[int, Any]:
    """Give the results by the number of their cell."""
    return _out


def publish(code: str) -> None:
    """Give the results that code may call `_12` these names.

    Not all of them at once: each new name in `builtins` makes CPython forget what it has learnt of
    all functions that use any of them.
    """
    place = code.find("_")
    while place >= 0:
        if code[place + 1 : place + 2].isdigit():
            _publish(code)
            return
        place = code.find("_", place + 1)


def _publish(code: str) -> None:
    import re

    for digits in set(re.findall(r"(?<!\w)_(\d{1,9})(?!\w)", code)):
        cell = int(digits)
        if cell in _out and cell not in _published:
            _builtins[f"_{cell}"] = _out[cell]
            _published.add(cell)
