"""Fork hooks: those of the standard library rest at a session's birth, and others are counted.

Owns: `os.register_at_fork`, which it wraps. Runs no hook.
Runs in: zygote (`watch`, `rest_at_births`), worker any thread (the wrapper), worker main thread (`born`, `has_hooks`).

A session is a fork of the zygote, which has one thread and holds no lock. What `threading` and others
do after a fork, for locks that another thread may have held, would be for nothing, and writes to a
hundred pages that all sessions could have in common. A session's own forks have all of it.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Modules whose hooks are about locks and threads; `random` is seeded by `session.reseed`.
_OF_LOCKS = frozenset(("threading", "logging", "concurrent.futures.thread", "random"))

_count = 0
_is_watched = False
# Whether a fork of this process is a session's birth.
_births = False


def watch() -> None:
    """Wrap `os.register_at_fork` from now on."""
    global _is_watched
    if _is_watched:
        return
    _is_watched = True
    import posix

    register = os.register_at_fork

    def register_at_fork(**hooks: Any) -> None:
        global _count
        module = str(sys._getframe(1).f_globals.get("__name__"))
        if module in _OF_LOCKS:
            hooks = {when: _resting(hook) for when, hook in hooks.items()}
        register(**hooks)
        # Those of `random`, `threading`, `logging` and the like neither hang nor kill.
        if module.partition(".")[0] not in sys.stdlib_module_names:
            _count += 1

    register_at_fork.__doc__ = register.__doc__
    os.register_at_fork = posix.register_at_fork = register_at_fork


def _resting(hook: Any) -> Any:
    if not callable(hook):
        return hook

    def run() -> None:
        if not _births:
            hook()

    return run


def rest_at_births() -> None:
    """Say that forks of this process are sessions from now on, and count the hooks that they register."""
    global _births, _count
    _births = True
    _count = 0


def born() -> None:
    """Say in such a fork that its own forks are none, and do what is left of the hooks' work."""
    global _births
    _births = False
    threading: Any = sys.modules.get("threading")
    if threading is not None:
        # The same thread by its number for Python, and another one for the system.
        threading.main_thread()._set_native_id()


def has_hooks() -> bool:
    """Whether a session's code, or a library that it imported, has registered one."""
    return _count > 0
