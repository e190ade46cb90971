"""IPython's display functions in a session: ours in their place, its own would print.

Runs in: worker, when IPython, if it is installed, imports them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


def fit(module: ModuleType) -> None:
    """Put our functions into `IPython.core.display_functions`, which `IPython.display` copies."""
    from forkpy_worker.display import display

    for name in ("display", "update_display", "clear_output", "publish_display_data"):
        setattr(module, name, getattr(display, name))
