"""A session's begin and end.

Owns: what a fresh `python` process would have set up for a script and a fork of the zygote has not:
`__main__`, working directory, streams, randomness, the SIGINT handler.
May not import what a fork cannot wait for: `start` is part of every session's birth.
Runs in: worker main thread, once after the fork (`start`), once before the end (`finish`).
"""

from __future__ import annotations

import _signal  # `signal` would bring `enum` along
import builtins
import os
import sys
from _thread import get_ident

from forkpy_worker.base import asking, forks, place, streams
from forkpy_worker.cell import arrivals
from forkpy_worker.code import history, sources
from forkpy_worker.libraries import stand_ins
from forkpy_worker.report import damaged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def start(
    session_id: str,
    workspace: str,
    outputs: str,
    ask: Callable[..., Any],
    interrupts: Callable[[], int],
    keep_html: bool = False,
) -> None:
    """Make this process the session's."""
    place.session_id = session_id
    begin(interrupts)
    place.outputs = outputs
    place.workspace = workspace
    place.keep_html = keep_html
    if sys.modules.get("__main__") is not place.main or len(place.namespace) != len(_FRESH):
        fresh_main()
    os.chdir(workspace)
    sys.argv = [""]
    sys.path[:] = [workspace, *(entry for entry in sys.path if entry not in ("", workspace))]
    streams.install(ask)
    asking.install_debugger()
    stand_ins.install()
    history.install()
    sources.watch()
    reseed()
    damaged.begin(place.main)
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def begin(interrupts: Callable[[], int]) -> None:
    """Remember what is this process' own, which a copy of another's memory has not."""
    place.pid = os.getpid()
    place.thread = get_ident()
    place.interrupts = interrupts
    forks.born()


def become(session_id: str) -> None:
    """Give a worker that was made for no session its session."""
    place.session_id = session_id


# What a session's `__main__` begins with.
_FRESH: dict[str, Any] = {
    "__name__": "__main__",
    "__doc__": None,
    "__package__": None,
    "__loader__": None,
    "__spec__": None,
    "__builtins__": builtins,
}


def fresh_main() -> None:
    """Put `__main__` in its place, with nothing of its own. The zygote does it for all sessions."""
    sys.modules["__main__"] = place.main
    place.namespace.clear()
    place.namespace.update(_FRESH)


def reseed() -> None:
    """Two forks of one zygote must not draw the same numbers."""
    # The fork hook of `random` rests at births, and in a fork that was made without hooks none has run.
    for name in ("random", "numpy.random"):
        module = sys.modules.get(name)
        if module is not None:
            module.seed()


def finish() -> None:
    """Do what an ending `python` does, but wait for no thread; nothing may raise."""
    for step in (arrivals.last_words, _run_exit_callbacks, streams.flush):
        try:
            step()
        except BaseException:  # noqa: PERF203
            # The process ends here either way; the other step shall have its turn.
            continue


def _run_exit_callbacks() -> None:
    import atexit

    atexit._run_exitfuncs()
