"""`display` for every cell, and `IPython.display` for those whose environment has no IPython.

Owns: `builtins.display`, the last entry of `sys.meta_path`. May not import what a cell that
displays nothing does not need.
Runs in: worker.
"""

from __future__ import annotations

import builtins
import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

# Modules that are served when no other finder has them. Other parts of IPython are missing.
_OURS = {
    "IPython": True,
    "IPython.display": False,
    "IPython.core": True,
    "IPython.core.display": False,
    "IPython.core.display_functions": False,
}


def display(*values: Any, **options: Any) -> Any:
    """Show values as a notebook does: pictures as pictures, tables as tables.

    display_id: True or a name; then `update_display` can replace what is shown.
    raw: the values are dicts of mime type to data already.
    """
    from forkpy_worker.display import display as room

    return room.display(*values, **options)


def install() -> None:
    """Make both available."""
    builtins.display = display  # type: ignore[attr-defined]
    sys.meta_path.append(_StandIn())


class _StandIn:
    """Finder and loader; asked last, so an IPython that is installed is found first."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in _OURS or (name != "IPython" and not _is_ours(sys.modules.get("IPython"))):
            return None
        loader: Any = self
        return ModuleSpec(name, loader, origin="forkpy's stand-in", is_package=_OURS[name])

    def create_module(self, spec: ModuleSpec) -> None:
        """Let the import system make an ordinary module."""

    def exec_module(self, module: ModuleType) -> None:
        from forkpy_worker.libraries import ipython_display

        ipython_display.fill(module)


def has_ipython() -> bool:
    """Whether the environment has IPython itself; does not import it."""
    from importlib.util import find_spec

    try:
        spec = find_spec("IPython")
    except ValueError:
        # A cell put a module of its own making in that place.
        return False
    return spec is not None and not isinstance(spec.loader, _StandIn)


def _is_ours(module: ModuleType | None) -> bool:
    return module is not None and isinstance(getattr(module, "__loader__", None), _StandIn)
