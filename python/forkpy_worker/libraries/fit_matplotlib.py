"""matplotlib in a session: figures become displays when shown and when a cell ends, and are closed.

Owns: the backend `module://forkpy_worker.libraries.fit_matplotlib`: this module, as matplotlib finds it.
Runs in: worker (zygote with `--preload matplotlib`), when matplotlib is imported. Imports parts of
matplotlib only inside functions: `fit` is called in the middle of its import.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from functools import wraps
from weakref import WeakSet

from forkpy_worker.base import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

# Whether figures are closed when they were shown at the end of a cell.
closes = True
# After `plt.ioff()`: figures wait for `plt.show()`, and so do those of that time after `plt.ion()`.
_waits = False
_open_before: Any = WeakSet()
_silent: Any = WeakSet()

NAME = "module://forkpy_worker.libraries.fit_matplotlib"


def fit(module: ModuleType) -> None:
    """Choose the backend before `pyplot` does, or have figures collected once there can be any."""
    if module.__name__ == "matplotlib":
        wanted = os.environ.get("MPLBACKEND", "")
        if wanted.lower() in ("", "agg") or "inline" in wanted:
            module.rcParams["backend"] = NAME
    elif show_open not in place.after_cell:
        place.after_cell.append(show_open)
        _follow_switch(module)


def _follow_switch(pyplot: ModuleType) -> None:
    """Let figures stay open and unshown after `plt.ioff()`, as a notebook does.

    matplotlib's own switch is off in a session: on, it would draw after each command.
    """
    for name, waits in (("ioff", True), ("ion", False)):
        setattr(pyplot, name, _switch(getattr(pyplot, name), waits))


def _switch(its_own: Callable[[], Any], waits: bool) -> Callable[[], Any]:
    @wraps(its_own)
    def switch() -> Any:
        import matplotlib

        stack = ExitStack()
        stack.callback(_set_switch, matplotlib.is_interactive(), _waits)
        its_own()
        _set_switch(matplotlib.is_interactive(), waits)
        return stack

    return switch


def _set_switch(interactive: bool, waits: bool) -> None:
    global _waits
    import matplotlib

    if waits and not _waits:
        _open_before.clear()
        _open_before.update(_open_figures())
    elif _waits and not waits:
        _silent.update(figure for figure in _open_figures() if figure not in _open_before)
    _waits = waits
    matplotlib.interactive(interactive)


def _open_figures() -> list[Any]:
    from matplotlib import _pylab_helpers

    managers = _pylab_helpers.Gcf.get_all_fig_managers()
    return [manager.canvas.figure for manager in managers]


def show_open() -> None:
    """Display the figures that a cell has left open, at its end."""
    if not _waits:
        show_all(lambda figure: figure not in _silent and (closes or figure.stale))


def show_all(wanted: Callable[[Any], bool] | None = None) -> None:
    """Display the figures that are open and close them; those of a window system are left alone."""
    from matplotlib import get_backend

    figures = [figure for figure in _open_figures() if wanted is None or wanted(figure)]
    if os.getpid() != place.pid:
        # A script's `show` shows nothing, and what it then saves must not be gone.
        return
    if not figures or get_backend().lower() not in (NAME, "agg"):
        return
    from forkpy_worker.display import display

    try:
        for figure in figures:
            display.show_figure(figure)
            # What is not closed is shown again when it has changed.
            figure.stale = False
    finally:
        if closes:
            for figure in figures:
                sys.modules["matplotlib.pyplot"].close(figure)


def show(*_arguments: Any, **_options: Any) -> None:
    """Serve `plt.show()`."""
    show_all()


def __getattr__(name: str) -> Any:
    """Give the classes that a backend has, once they are asked for."""
    if name not in ("FigureCanvas", "FigureManager"):
        raise AttributeError(name)
    from matplotlib.backend_bases import FigureManagerBase
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from forkpy_worker.display import display

    class FigureManager(FigureManagerBase):
        def show(self) -> None:
            display.show_figure(self.canvas.figure)

    class FigureCanvas(FigureCanvasAgg):
        manager_class = FigureManager

        def draw_idle(self, *_given: Any, **_named: Any) -> None:
            """Draw when the figure is shown, and not after each command."""

    globals().update(FigureManager=FigureManager, FigureCanvas=FigureCanvas)
    return globals()[name]
