"""`display` and `get_ipython` for every cell, `IPython.display` where there is no IPython.

Owns: `display`, `get_ipython` and `__IPYTHON__` in `builtins`, the last entry of
`sys.meta_path`. May not import what a cell that displays nothing does not need.
Runs in: zygote (`prepare`), worker.
"""

from __future__ import annotations

import builtins
import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import PathFinder

from forkpy_worker.base import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
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


def get_ipython() -> Any:
    """Give the session's IPython shell.

    It is made by the first cell that asks. A library that asks gets it too, but not before it does
    something with it: pandas looks at its class for each table, to see whether this is Jupyter.
    """
    if place.shell is not None:
        return place.shell
    if not has_ipython():
        raise NameError("name 'get_ipython' is not defined", name="get_ipython")
    asks = sys._getframe(1).f_globals
    if asks is place.namespace or "IPython.core.interactiveshell" in sys.modules:
        return _shell()
    return _unmade


class SessionShell:
    """The session's shell, for those who only look at its class. Anything else makes it."""

    def __getattribute__(self, name: str) -> Any:
        """Give what the shell has."""
        if name == "__class__" and "IPython.core.interactiveshell" not in sys.modules:
            # Without that module there is nothing to compare the class with.
            return SessionShell
        if name == "kernel":
            # What only Jupyter's shell has; pandas looks for it when it is imported.
            raise AttributeError("the session's shell has no kernel")
        return getattr(_shell(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set it in the shell."""
        setattr(_shell(), name, value)


_unmade = SessionShell()


def fit(module: ModuleType) -> None:
    """Let IPython's own ways to find the shell, and to make one, lead to the session's."""
    if module.__name__ == "IPython.core.getipython":
        module.get_ipython = _replacing(module.get_ipython)  # type: ignore[attr-defined]
        return
    from forkpy_worker.code import compiling
    from forkpy_worker.libraries import shell_formats

    kind = module.InteractiveShell
    kind.instance = classmethod(_instance_of(kind, kind.instance.__func__))
    compiling.interactivity = shell_formats.interactivity
    if sys.displayhook is sys.__displayhook__:
        sys.displayhook = shell_formats.show_value


def _replacing(its_own: Callable[[], Any]) -> Callable[[], Any]:
    def get_ipython() -> Any:
        """Get the session's shell."""
        return its_own() if place.making_shell or not place.pid else _shell()

    return get_ipython


def _instance_of(kind: type, its_own: Callable[..., Any]) -> Callable[..., Any]:
    def instance(cls: type, *given: Any, **named: Any) -> Any:
        """Give the one shell; no bare one is made beside the session's."""
        if cls is kind and place.pid and not place.making_shell:
            return _shell()
        return its_own(cls, *given, **named)

    return instance


def _shell() -> Any:
    return place.make_shell() if place.shell is None else place.shell


def install() -> None:
    """Make all of it available."""
    builtins.display = display  # type: ignore[attr-defined]
    builtins.get_ipython = get_ipython  # type: ignore[attr-defined]
    is_as_before = _folders is not None and _folders == _state(_folders)
    if _has_ipython if is_as_before else _look():
        # What code asks that wants to know whether it runs in IPython.
        builtins.__IPYTHON__ = True  # type: ignore[attr-defined]
    sys.meta_path.append(_StandIn())


# Where packages are, when each folder was changed last, and whether IPython is among them.
_folders: dict[str, int] | None = None
_has_ipython = False


def prepare() -> None:
    """Look for IPython before there is a session: what is found holds as long as no folder changes."""
    global _folders, _has_ipython
    _folders = _state(sys.path)
    _has_ipython = _look()


def _look() -> bool:
    # Not in the workspace: all that lies there would be read, for each session.
    installed = [folder for folder in sys.path if folder not in ("", place.workspace)]
    return PathFinder.find_spec("IPython", installed) is not None


def _state(folders: Iterable[str]) -> dict[str, int]:
    state = {}
    for folder in folders:
        try:
            state[folder] = os.stat(folder).st_mtime_ns
        except OSError:  # noqa: PERF203
            continue
    return state


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
