"""What to do when an earlier cell has broken `builtins`, which every line of code uses.

Owns: the comparison with what a fresh Python has. Runs in: worker main thread, after an error.
"""

from __future__ import annotations

import builtins

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Those of this package: a copy of its own where it is embedded, see `_bootstrap`.
_here: Any = __builtins__
_WHOLE: dict[str, Any] = _here if isinstance(_here, dict) else dict(vars(_here))
# Names in a sentence.
_NAMED = 5


def hint() -> str | None:
    """Name what is broken and the way out; None when nothing is."""
    current = builtins.__dict__
    broken = [
        name
        for name, value in _WHOLE.items()
        if callable(value) and not callable(current.get(name))
    ]
    if not broken:
        return None
    names = ", ".join(broken[:_NAMED]) + (", ..." if len(broken) > _NAMED else "")
    return (
        f"an earlier cell of this session has replaced or deleted what is in builtins ({names}), and all code uses "
        "that. "
        "restart_kernel with preserve_state: true gives a whole Python and keeps the variables."
    )
