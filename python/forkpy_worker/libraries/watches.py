"""Libraries are fitted to a session when they are imported, before they are used; and it is noted how long that took.

Owns: one entry of `sys.meta_path`, first in it. May not import any of the libraries.
Runs in: zygote (installed; `--preload` goes through it), worker, in whatever thread imports.
"""

from __future__ import annotations

import os
import sys
from _thread import get_ident
from time import perf_counter

from forkpy_worker.base import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

# Module -> the module of this package whose `fit(module)` is called when it has been imported.
FITTED = {
    "asyncio": "forkpy_worker.libraries.fit_asyncio",
    "matplotlib": "forkpy_worker.libraries.fit_matplotlib",
    "matplotlib.pyplot": "forkpy_worker.libraries.fit_matplotlib",
    "pandas": "forkpy_worker.libraries.fit_pandas",
    "plotly.io._renderers": "forkpy_worker.libraries.fit_plotly",
    "inspect": "forkpy_worker.code.class_sources",
    "IPython.core.display_functions": "forkpy_worker.libraries.fit_ipython",
    "IPython.core.getipython": "forkpy_worker.libraries.stand_ins",
    "IPython.core.interactiveshell": "forkpy_worker.libraries.stand_ins",
}

# An import that took less is not worth to be noted.
_LONG = 0.01
# In the middle of the path of what is installed; modules of the session's own are not.
_INSTALLED = ("/site-packages/", "/dist-packages/")
# Variables of the environment: code that sets some before it imports may want the library to see them.
_at_start: dict[str, str] = {}
_STANDARD = os.path.dirname(os.__file__) + "/"


def install() -> None:
    """Watch imports from now on."""
    if any(type(finder) is _Watch for finder in sys.meta_path):
        return
    _at_start.update(os.environ)
    sys.meta_path.insert(0, _Watch())
    for name, fitter in FITTED.items():
        # The interpreter's own start may have brought some of the standard library.
        if name in sys.modules:
            _fit(sys.modules[name], fitter)


def renew() -> None:
    """Take the variables as they are now for those of the start."""
    _at_start.clear()
    _at_start.update(os.environ)


class _Watch:
    """A finder that finds what the others find, and puts a word into it."""

    def __init__(self) -> None:
        # An import is being timed: what it imports is part of it.
        self.is_timing = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        fitter = FITTED.get(name)
        timed = not self.is_timing and place.thread == get_ident() and _is_import()
        if fitter is None and not timed:
            return None
        began = perf_counter()
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                timed = timed and _is_installed(spec)
                if fitter is not None or timed:
                    watch = self if timed else None
                    spec.loader = _Fitting(spec.loader, fitter, watch, began)  # type: ignore[assignment]
                return spec
        return None


def _is_import() -> bool:
    """Whether a module is really imported, and not only looked for (`importlib.util.find_spec`)."""
    # This function, the finder, `_find_spec` of the import system, and who asks it.
    asks = sys._getframe(2).f_back
    return asks is not None and asks.f_code.co_name == "_find_and_load_unlocked"


def _is_installed(spec: ModuleSpec) -> bool:
    origin = spec.origin
    if type(origin) is not str or not hasattr(spec.loader, "exec_module"):
        return False
    if place.own and origin.startswith(place.own):
        # The zygote could import it for no other.
        return False
    return origin.startswith(_STANDARD) or any(part in origin for part in _INSTALLED)


class _Fitting:
    """A loader that does what the real one does, and then has the module fitted."""

    def __init__(self, real: Any, fitter: str | None, watch: _Watch | None, began: float) -> None:
        self._real = real
        self._fitter = fitter
        self._watch = watch
        self._began = began
        self._is_plain = watch is not None and dict(os.environ) == _at_start

    def __getattr__(self, name: str) -> Any:
        # Who only asks where a module is gets this loader to see.
        return getattr(self._real, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._real.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._real
        if module.__spec__ is not None:
            module.__spec__.loader = self._real
        if self._watch is None:
            self._load(module)
            return
        self._watch.is_timing = True
        try:
            self._load(module)
        finally:
            self._watch.is_timing = False
        took = perf_counter() - self._began
        if took >= _LONG:
            place.imported.append((module.__name__, took, self._is_plain))

    def _load(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        if self._fitter is not None:
            _fit(module, self._fitter)


def _fit(module: ModuleType, fitter: str) -> None:
    try:
        __import__(fitter)
        sys.modules[fitter].fit(module)
    except Exception as error:
        # A version of the library that is built otherwise: it works as it does anywhere else.
        import warnings

        words = f"forkpy could not fit {module.__name__} to the session: {error!r}"
        warnings.warn(words, RuntimeWarning, stacklevel=3)
