"""One line about a value, whatever the value does.

Owns: SIGALRM and the real-time timer while a cell's own `__repr__` runs, unless a cell uses them.
Runs in: worker main thread, between cells.

Builtin values are described here, by a few of their first items: `repr` and `reprlib` would walk or
sort the whole. Other objects are asked, once and under an alarm.
"""

from __future__ import annotations

import _signal
from itertools import islice
from time import monotonic
from weakref import WeakKeyDictionary

from forkpy_worker.base.text import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any

MAX_SUMMARY = 120
# For all variables together, and for one __repr__.
TOTAL_SECONDS = 0.5
REPR_SECONDS = 0.05

_ITEMS = 6
_DEPTH = 2
_TEXT = 60
_BITS = 400

_PLAIN = (bool, float, complex, type(None), type(...), type(NotImplemented), range, slice)
_ARRAY_LIBRARIES = (
    "numpy",
    "pandas",
    "polars",
    "torch",
    "xarray",
    "scipy",
    "jax",
    "jaxlib",
    "cupy",
)


class _TooSlow(BaseException):
    """A `__repr__` took too long. No Exception, so that it is not caught on its way by habit."""


# Classes whose `__repr__` was too slow or raised, with the words for it: it is not called again.
_REFUSED: WeakKeyDictionary[type, str] = WeakKeyDictionary()


class Budget:
    """The time left for one list of variables."""

    def __init__(self) -> None:
        """Start the clock."""
        self._end = monotonic() + TOTAL_SECONDS
        self._armed = False

    def summary(self, value: Any) -> str:
        """Give `type: summary`; the type alone where the value will not be described."""
        try:
            name = clean(type(value).__name__)
            text = " ".join(clean(self._describe(value, _DEPTH)).split("\n"))
        except Exception as error:
            name, text = _type_name(value), f"<{type(error).__name__} while describing it>"
        if len(text) > MAX_SUMMARY:
            text = text[: MAX_SUMMARY - 3] + "..."
        return f"{name}: {text}"

    def _describe(self, value: Any, depth: int) -> str:
        for kinds, describe in _BUILTIN:
            if issubclass(type(value), kinds):
                return describe(self, value, depth)
        if type(value).__module__.partition(".")[0] in _ARRAY_LIBRARIES and hasattr(value, "shape"):
            return _array(value)
        if issubclass(type(value), type):
            return f"class {value.__module__}.{value.__qualname__}"
        return self._ask(value)

    def _ask(self, value: Any) -> str:
        """Call the object's own `__repr__`, once and not for long."""
        kind: Any = type(value)
        if kind.__repr__ is object.__repr__:
            plain: str = object.__repr__(value)
            return plain
        refused = _REFUSED.get(kind)
        if refused is not None:
            return refused
        if monotonic() > self._end:
            return "<not described: the others took too long>"
        if _signal.getsignal(_signal.SIGALRM) is not _signal.SIG_DFL or any(
            _signal.getitimer(_signal.ITIMER_REAL)
        ):
            return "<not described: the session uses SIGALRM>"
        return self._ask_under_alarm(value)

    def _ask_under_alarm(self, value: Any) -> str:
        _signal.signal(_signal.SIGALRM, self._alarm)
        try:
            self._armed = True
            # It comes again, in case that the first one is swallowed.
            _signal.setitimer(_signal.ITIMER_REAL, REPR_SECONDS, REPR_SECONDS)
            try:
                return repr(value)
            finally:
                self._armed = False
        except _TooSlow:
            return _refuse(value, "<__repr__ is too slow>")
        except Exception as error:
            return _refuse(value, f"<__repr__ raised {type(error).__name__}>")
        finally:
            _signal.setitimer(_signal.ITIMER_REAL, 0)
            _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)

    def _alarm(self, _signal_number: int, _frame: FrameType | None) -> None:
        if self._armed:
            raise _TooSlow

    def _items(self, values: Any, depth: int) -> str:
        """Describe the first few items."""
        shown: list[str] = []
        for value in islice(values, _ITEMS):
            text = self._describe(value, depth - 1)
            shown.append(text if len(text) <= _TEXT else text[:_TEXT] + "...")
        return ", ".join(shown)


class Quiet(Budget):
    """For other threads, and while a cell runs: asks no object for its own words."""

    def _ask(self, value: Any) -> str:
        return object.__repr__(value)


def _refuse(value: Any, words: str) -> str:
    _REFUSED[type(value)] = words
    return words


def _plain(budget: Budget, value: Any, depth: int) -> str:
    return repr(value) if type(value) in _PLAIN else budget._ask(value)


def _integer(budget: Budget, value: int, depth: int) -> str:
    if type(value) is not int:
        return budget._ask(value)
    # Decimal digits of a huge one cost quadratic time, and CPython refuses more than 4300.
    bits = value.bit_length()
    return repr(value) if bits <= _BITS else f"integer of {bits} bits"


def _text(budget: Budget, value: Any, depth: int) -> str:
    kind = next(kind for kind in (str, bytes, bytearray) if issubclass(type(value), kind))
    length = kind.__len__(value)
    head = kind.__getitem__(value, slice(0, MAX_SUMMARY))
    if length <= MAX_SUMMARY // 2 or depth < _DEPTH:
        return kind.__repr__(head)
    unit = "characters" if kind is str else "bytes"
    return f"{length} {unit}, {kind.__repr__(head)}"


def _mapping(budget: Budget, value: dict[Any, Any], depth: int) -> str:
    length = dict.__len__(value)
    return _counted(length, depth, "{", "}", lambda: _pairs(budget, value, depth))


def _pairs(budget: Budget, value: dict[Any, Any], depth: int) -> str:
    pairs = islice(dict.items(value), _ITEMS)
    return ", ".join(f"{budget._items([k], depth)}: {budget._items([v], depth)}" for k, v in pairs)


def _sequence(budget: Budget, value: Any, depth: int) -> str:
    kind = next(kind for kind in _BRACKETS if issubclass(type(value), kind))
    opening, closing = _BRACKETS[kind]
    first = kind.__iter__(value)
    return _counted(
        kind.__len__(value), depth, opening, closing, lambda: budget._items(first, depth)
    )


_BRACKETS: dict[Any, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}


def _counted(length: int, depth: int, opening: str, closing: str, first: Callable[[], str]) -> str:
    inner = first() if depth > 0 else "..."
    if length > _ITEMS and depth > 0:
        inner += ", ..."
    short = f"{opening}{inner if length else ''}{closing}"
    return f"{length} item{'' if length == 1 else 's'}, {short}" if depth == _DEPTH else short


def _function(budget: Budget, value: Any, depth: int) -> str:
    code = value.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return f"{value.__name__}({', '.join(names)})"


def _array(value: Any) -> str:
    parts = [f"shape {_shape(value.shape)}"]
    if getattr(value, "dtype", None) is not None:
        parts.append(f"dtype {value.dtype}")
    elif hasattr(value, "columns"):
        parts.append(f"columns {', '.join(_columns(value.columns))}")
    if type(value).__module__ == "numpy" and value.dtype.kind in "biufcSU":
        first = value.flat[:_ITEMS].tolist()
        more = ", ..." if value.size > _ITEMS else ""
        parts.append(f"[{', '.join(str(item)[:_TEXT] for item in first)}{more}]")
    return ", ".join(parts)


def _shape(shape: Any) -> str:
    return str(tuple(shape))


def _columns(columns: Any) -> Iterator[str]:
    for name in islice(columns, _ITEMS):
        yield str(name)[:_TEXT]


def _type_name(value: Any) -> str:
    try:
        return clean(type(value).__name__)
    except Exception:
        return "object"


_BUILTIN: tuple[tuple[Any, Callable[[Budget, Any, int], str]], ...] = (
    (_PLAIN, _plain),
    (int, _integer),
    ((str, bytes, bytearray), _text),
    (dict, _mapping),
    (tuple(_BRACKETS), _sequence),
    (type(_plain), _function),
)
