"""How some objects are pickled that pickle would take apart or refuse.

Owns: which arrays are views of others that are saved with them. `lru_cache` functions of cells keep
their function and its bounds, and begin with an empty cache; `cached_property` of a cell's class
gets a new lock; a view of an array that is saved too is a view again when both are loaded.
Runs in: worker main thread, between cells. Imports no library: an array exists only where numpy does.
"""

from __future__ import annotations

import functools
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_LRU = type(functools.lru_cache(lambda: None))
# Arrays that own the memory of more than one variable, by id, while a session is saved.
_owners: dict[int, Any] = {}


def look(values: dict[str, Any]) -> list[str]:
    """Learn which arrays share memory; give the names of those that will be copies."""
    _owners.clear()
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return []
    sharing: dict[int, tuple[Any, list[str]]] = {}
    for name, value in values.items():
        if type(value) is numpy.ndarray:
            owner = _owner(value)
            sharing.setdefault(id(owner), (owner, []))[1].append(name)
    copies = []
    for key, (owner, names) in sharing.items():
        if len(names) < 2:
            continue
        if type(owner) is numpy.ndarray and _can_be_shared(owner):
            _owners[key] = owner
        else:
            copies += [name for name in names if values[name] is not owner]
    return copies


def forget() -> None:
    """Let the arrays go."""
    _owners.clear()


def _owner(array: Any) -> Any:
    while getattr(array, "base", None) is not None:
        array = array.base
    return array


def _can_be_shared(owner: Any) -> bool:
    flags = owner.flags
    return (
        flags.owndata and not owner.dtype.hasobject and (flags.c_contiguous or flags.f_contiguous)
    )


def reduce(obj: Any) -> Any:
    """Serve a pickler's `reducer_override`."""
    kind = type(obj)
    if kind is _LRU:
        if _is_importable(obj):
            return NotImplemented
        attributes = {k: v for k, v in vars(obj).items() if k not in functools.WRAPPER_ASSIGNMENTS}
        attributes.pop("__wrapped__", None)
        return cached, (obj.__wrapped__, obj.cache_parameters(), attributes)
    if kind is functools.cached_property:
        return property_of, (obj.func, obj.attrname)
    if _owners and kind.__name__ == "ndarray" and kind.__module__ == "numpy":
        owner = _owner(obj)
        if owner is not obj and id(owner) in _owners:
            offset = _address(obj) - _address(owner)
            return view, (owner, obj.dtype, obj.shape, offset, obj.strides, obj.flags.writeable)
    return NotImplemented


def _address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def _is_importable(function: Any) -> bool:
    """Whether a new process finds it by its name."""
    module = getattr(function, "__module__", None)
    if module in (None, "__main__") or module not in sys.modules:
        return False
    found: Any = sys.modules[module]
    for part in getattr(function, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found is function


def cached(function: Callable[..., Any], bounds: dict[str, Any], attributes: dict[str, Any]) -> Any:
    """Make a function with a cache of its own again."""
    made = functools.lru_cache(bounds["maxsize"], bounds["typed"])(function)
    made.__dict__.update(attributes)
    return made


def property_of(function: Callable[..., Any], name: str | None) -> Any:
    """Make a `cached_property` again."""
    made: Any = functools.cached_property(function)
    made.attrname = name
    return made


def view(owner: Any, dtype: Any, shape: Any, offset: int, strides: Any, writeable: bool) -> Any:
    """Make a view of an array again."""
    memory = owner if owner.flags.c_contiguous else owner.T
    made = sys.modules["numpy"].ndarray(shape, dtype, memory, offset, strides)
    if not writeable:
        made.flags.writeable = False
    return made
