"""matplotlib in a session: figures become displays when shown and when a cell ends, and are closed.

Owns: the backend `module://forkpy_worker.libraries.fit_matplotlib`: this module, as matplotlib finds it.
Runs in: worker (zygote with `--preload matplotlib`), when matplotlib is imported. Imports parts of
matplotlib only inside functions: `fit` is called in the middle of its import.
"""

from __future__ import annotations

import os
import sys

from forkpy_worker.base import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

NAME = "module://forkpy_worker.libraries.fit_matplotlib"


def fit(module: ModuleType) -> None:
    """Choose the backend before `pyplot` does, or have figures collected once there can be any."""
    if module.__name__ == "matplotlib":
        wanted = os.environ.get("MPLBACKEND", "")
        if wanted.lower() in ("", "agg") or "inline" in wanted:
            module.rcParams["backend"] = NAME
    elif show_all not in place.after_cell:
        place.after_cell.append(show_all)


def show_all() -> None:
    """Display the figures that are open and close them; those of a window system are left alone."""
    from matplotlib import _pylab_helpers, get_backend

    managers = _pylab_helpers.Gcf.get_all_fig_managers()
    if os.getpid() != place.pid:
        # A script's `show` shows nothing, and what it then saves must not be gone.
        return
    if not managers or get_backend().lower() not in (NAME, "agg"):
        return
    from forkpy_worker.display import display

    try:
        for manager in managers:
            display.show_figure(manager.canvas.figure)
    finally:
        sys.modules["matplotlib.pyplot"].close("all")


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

    globals().update(FigureManager=FigureManager, FigureCanvas=FigureCanvas)
    return globals()[name]
