"""Shape, dtype, length and size of a value, where they cost nothing.

Owns: nothing. Asks builtin values and known libraries only: `__len__` and `__sizeof__` of a
session's own classes are code that may do anything.
Runs in: worker main thread, between cells.
"""

from __future__ import annotations

import sys
from itertools import islice

from forkpy_worker.base.text import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    # shape, dtype, length, bytes
    Details: TypeAlias = tuple[list[int] | None, str | None, int | None, int | None]

_SIZED = (str, bytes, bytearray, list, tuple, dict, set, frozenset, range)
_LIBRARIES = frozenset(
    ("numpy", "pandas", "polars", "torch", "xarray", "scipy", "jax", "jaxlib", "cupy", "pyarrow")
)
_COLUMNS = 12


def of(value: Any) -> Details:
    """Give the details of a value."""
    kind = type(value)
    if kind.__module__.partition(".")[0] in _LIBRARIES:
        return _shape(value), _dtype(value), _length(value), _bytes(value)
    length = next((base.__len__(value) for base in _SIZED if issubclass(type(value), base)), None)
    if length is None and kind.__module__ == "collections" and hasattr(kind, "__len__"):
        length = len(value)
    return None, None, length, _own_size(value)


def kind(value: Any) -> str:
    """Name the class of a value, as its users write it."""
    found = type(value)
    module, name = str(found.__module__), str(found.__name__)
    root = module.partition(".")[0]
    if module in ("builtins", "__main__"):
        return clean(name)
    # `pandas.core.frame.DataFrame` is `pandas.DataFrame` to everybody.
    return clean(f"{root if root in _LIBRARIES else module}.{name}")


def _own_size(value: Any) -> int | None:
    if type(value).__module__ == "builtins":
        return sys.getsizeof(value)
    try:
        return object.__sizeof__(value)
    except Exception:
        return None


def _shape(value: Any) -> list[int] | None:
    try:
        return [int(length) for length in value.shape]
    except Exception:
        return None


def _dtype(value: Any) -> str | None:
    try:
        found = getattr(value, "dtype", None)
        if found is None and hasattr(value, "dtypes"):
            columns = list(islice(value.columns, _COLUMNS))
            types = [str(found) for found in islice(value.dtypes, _COLUMNS)]
            named = [f"{str(c)[:40]}: {t}" for c, t in zip(columns, types, strict=True)]
            more = ", ..." if len(value.columns) > _COLUMNS else ""
            return clean(", ".join(named) + more)
        return None if found is None else clean(str(found))[:200]
    except Exception:
        return None


def _length(value: Any) -> int | None:
    try:
        return len(value)
    except Exception:
        return None


def _bytes(value: Any) -> int | None:
    for measure in (_table, _estimate, _array):
        try:
            found = measure(value)
        except Exception:
            continue
        if found is not None:
            return int(found)
    return None


def _table(value: Any) -> Any:
    """pandas: without the contents of objects, which would have to be walked."""
    if not hasattr(value, "memory_usage"):
        return None
    used = value.memory_usage(index=True, deep=False)
    return used if isinstance(used, int) else used.sum()


def _estimate(value: Any) -> Any:
    """polars."""
    return value.estimated_size() if hasattr(value, "estimated_size") else None


def _array(value: Any) -> Any:
    return value.nbytes if hasattr(value, "nbytes") else None
