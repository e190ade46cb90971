"""What a library does for the first time it does slowly: tables are filled, code is specialised.

Done once before the forks, and not in each session.

Owns: which libraries are exercised, and how. An exercise opens no file, starts no thread, draws no random
number and leaves no object behind (no font is looked up: a figure is made and not drawn). One that fails
changes nothing for the session.
Runs in: zygote, after the imports of `--preload`.
"""

from __future__ import annotations

import sys
import warnings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_done: set[str] = set()


def loaded() -> None:
    """Exercise what has been imported since the last time."""
    for name, exercise in EXERCISES.items():
        if name in _done or name not in sys.modules:
            continue
        _done.add(name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exercise()
        except KeyboardInterrupt:
            raise
        except BaseException:
            # A library of another age than this: its first use in a session is as slow as it always was.
            continue


def _pandas() -> None:
    import pandas

    frame = pandas.DataFrame({"a": [1.0, 2.0, 3.0], "b": [1, 2, 3]})
    described = frame.describe()
    repr(described)
    described.to_html()


def _figure() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    axes.plot([1, 2])
    axes.set_title("a")


EXERCISES: dict[str, Callable[[], None]] = {"pandas": _pandas, "matplotlib.figure": _figure}
