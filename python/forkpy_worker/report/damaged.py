"""What to do when an earlier cell has broken `builtins` or `sys.modules`, which all code uses.

Owns: the comparison with what a fresh Python has. May not put anything back but where forkpy's own
work needs it: what a cell does to builtins is its affair until then.
Runs in: worker main thread; `remember` in the zygote, before each fork.
"""

from __future__ import annotations

import builtins
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Those of this package: a copy of its own where it is embedded, see `_bootstrap`.
_here: Any = __builtins__
_WHOLE: dict[str, Any] = dict(_here if isinstance(_here, dict) else vars(_here))
_modules: dict[str, Any] = {}
# Names that `mend` has put back and no reply has told of.
_put_back: list[str] = []
# Names in a sentence.
_NAMED = 5


def remember() -> None:
    """Remember which modules a session begins with.

    In a session it would write to a page of each of them, for a count of references: the zygote does it for all.
    """
    if len(_modules) != len(sys.modules):
        _modules.update(sys.modules)


def begin(main: Any) -> None:
    """Remember a session's own `__main__` in the place of the zygote's."""
    _modules["__main__"] = main


def mend(*, in_report: bool = False) -> bool:
    """Put back what is missing, so that a report, a list or a saved state can be made.

    False when nothing was. The report of a cell says what was put back for it.
    """
    broken = _broken()
    for name in broken:
        builtins.__dict__[name] = _WHOLE[name]
    if in_report:
        _put_back[:] = broken
    # Emptied, the table fills again with second copies of everything, half of them broken.
    emptied = sys.modules.get("sys") is not sys or sys.modules.get("builtins") is not builtins
    gone = [name for name in _modules if emptied or name not in sys.modules]
    for name in gone:
        sys.modules[name] = _modules[name]
    return bool(broken or gone)


def _broken() -> list[str]:
    current = builtins.__dict__
    return [
        name
        for name, value in _WHOLE.items()
        if name not in current or (callable(value) and not callable(current[name]))
    ]


def hint() -> str | None:
    """Name what is broken, or was, and the way out; None when nothing is."""
    broken, put_back = _broken(), _put_back[:]
    _put_back.clear()
    if broken:
        return (
            f"an earlier cell of this session has replaced or deleted what is in builtins "
            f"({_few(broken)}), and all code uses that. restart_kernel with preserve_state: true "
            "gives a whole Python and keeps the variables."
        )
    if put_back:
        return (
            f"an earlier cell had taken from builtins what all code uses ({_few(put_back)}). "
            "It is put back: run this again."
        )
    return None


def _few(names: list[str]) -> str:
    names = sorted(names, key=lambda name: name.startswith("_"))
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
