"""What of a session's variables a copy shares, or finds taken: locks that are held, memory that is shared.

Owns: a look at what can be reached from the namespace within a few steps. May not look at more than
`_MOST` objects: each look touches a page, which the checkpoint then holds alone.
Runs in: checkpoint, once.
"""

from __future__ import annotations

import sys
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

# Objects looked at, and steps from the namespace.
_MOST = 2000
_STEPS = 4
# Entries of one container.
_ENTRIES = 200


def look(namespace: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Name locks that are held, and objects whose memory is shared."""
    locks: list[str] = []
    memory: list[str] = []
    memory_kinds = _memory_kinds()
    for name, value in _reachable(namespace):
        try:
            if _is_held(value):
                locks.append(name)
            elif issubclass(type(value), memory_kinds):
                memory.append(name)
        except Exception:  # noqa: PERF203
            # Objects of the session's own may do anything when looked at.
            continue
    return locks, memory


def _reachable(namespace: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Go through variables, their entries and attributes; the nearest first, and each once."""
    waiting: deque[tuple[str, Any, int]] = deque(
        (name, value, 0) for name, value in list(namespace.items()) if not name.startswith("__")
    )
    seen: set[int] = set()
    while waiting and len(seen) < _MOST:
        name, value, steps = waiting.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield name, value
        if steps < _STEPS:
            waiting.extend((inner, held, steps + 1) for inner, held in _within(name, value))


def _within(name: str, value: Any) -> list[tuple[str, Any]]:
    kind = type(value)
    if issubclass(kind, dict):
        entries = list(dict.items(value))[:_ENTRIES]
        return [(f"{name}[{_key(key)}]", held) for key, held in entries]
    if issubclass(kind, (list, tuple)):
        return [(f"{name}[{index}]", held) for index, held in enumerate(value[:_ENTRIES])]
    if issubclass(kind, (set, frozenset, deque)):
        return [(f"{name}[...]", held) for held in list(value)[:_ENTRIES]]
    if kind.__module__ == "builtins" or issubclass(kind, type) or _is_lock(kind):
        return []
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return []
    if type(attributes) is not dict:
        return []
    return [(f"{name}.{key}", held) for key, held in list(attributes.items())[:_ENTRIES]]


def _key(key: Any) -> str:
    return repr(key) if type(key) in (str, int, float, bool) else "..."


def _is_lock(kind: type) -> bool:
    return kind.__module__ in ("threading", "_thread", "multiprocessing.synchronize")


def _is_held(value: Any) -> bool:
    import _thread

    kind = type(value)
    if issubclass(kind, (_thread.LockType, _thread.RLock)):
        locked = getattr(value, "locked", None)
        # RLock before 3.14: only its text tells.
        return bool(locked()) if locked is not None else repr(value).startswith("<locked")
    if not _is_lock(kind):
        return False
    semaphore = getattr(value, "_semlock", None)
    if semaphore is not None:
        return bool(semaphore._is_zero())
    if type(getattr(value, "_value", None)) is int:
        return bool(value._value == 0)
    inner = getattr(value, "_lock", None)
    if inner is None:
        # RLock of Python's own, an Event or a Barrier around a Condition.
        inner = getattr(value, "_block", None) or getattr(value, "_cond", None)
    return inner is not None and _is_held(inner)


def _memory_kinds() -> tuple[type, ...]:
    found = []
    for module, names in (
        ("multiprocessing.shared_memory", ("SharedMemory", "ShareableList")),
        ("multiprocessing.sharedctypes", ("SynchronizedBase",)),
    ):
        loaded = sys.modules.get(module)
        found += [getattr(loaded, name) for name in names if hasattr(loaded, name)]
    return tuple(found)
