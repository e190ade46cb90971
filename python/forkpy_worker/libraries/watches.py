"""Libraries are fitted to a session when they are imported, before they are used.

Owns: one entry of `sys.meta_path`, first in it. May not import any of the libraries.
Runs in: zygote (installed; `--preload` goes through it), worker, in whatever thread imports.
"""

from __future__ import annotations

import sys

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


def install() -> None:
    """Watch imports from now on."""
    if any(type(finder) is _Watch for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Watch())
    for name, fitter in FITTED.items():
        # The interpreter's own start may have brought some of the standard library.
        if name in sys.modules:
            _fit(sys.modules[name], fitter)


class _Watch:
    """A finder that finds what the others find, and puts a word into it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in FITTED:
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                spec.loader = _Fitting(spec.loader, FITTED[name])  # type: ignore[assignment]
                return spec
        return None


class _Fitting:
    """A loader that does what the real one does, and then has the module fitted."""

    def __init__(self, real: Any, fitter: str) -> None:
        self._real = real
        self._fitter = fitter

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
        self._real.exec_module(module)
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
