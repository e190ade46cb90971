"""Fork hooks that are not the standard library's: those may do anything.

Owns: `os.register_at_fork`, which it wraps. Runs no hook.
Runs in: zygote (`watch`, once), worker any thread (the wrapper), worker main thread (`has_hooks`).
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_count = 0


def watch() -> None:
    """Count them from now on."""
    import posix

    register = os.register_at_fork

    def register_at_fork(**hooks: Any) -> None:
        global _count
        register(**hooks)
        # Those of `random`, `threading`, `logging` and the like neither hang nor kill.
        module = str(sys._getframe(1).f_globals.get("__name__"))
        if module.partition(".")[0] not in sys.stdlib_module_names:
            _count += 1

    register_at_fork.__doc__ = register.__doc__
    os.register_at_fork = posix.register_at_fork = register_at_fork


def has_hooks() -> bool:
    """Whether a session's code, or a library that it imported, has registered one."""
    return _count > 0
