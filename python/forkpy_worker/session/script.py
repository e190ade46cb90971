"""Running one script as `__main__`, in a process of its own, the way `python script.py` does.

Owns: what such a process finds in `sys` and `__main__`, and how an exception becomes an exit code.
May not assume a session: there is none in this process.
Runs in: a script's process, main thread, once. Rust runs down the interpreter afterwards.
"""

from __future__ import annotations

import _signal
import builtins
import os
import sys

from forkpy_worker.base import forks, place, streams
from forkpy_worker.session import session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

NO_INPUT = (
    "input() cannot be answered here: a script has no standard input. "
    "Pass the value in args, or in a file."
)


def run(source: bytes, file: str, directory: str, argv: list[str], workspace: str) -> int | None:
    """Run it to its end; the exit code, or None when a KeyboardInterrupt ended it."""
    _start(file, directory, argv, workspace)
    try:
        exec(_compile(source, file), _fresh_main(file))
    except BaseException as exception:
        from forkpy_worker.report import report

        return report.exit_code(exception)
    return 0


def _start(file: str, directory: str, argv: list[str], workspace: str) -> None:
    os.chdir(workspace)
    place.workspace = workspace
    sys.argv = list(argv)
    if hasattr(sys, "orig_argv"):
        sys.orig_argv = [sys.executable, *argv]
    sys.path[:] = [directory, *(entry for entry in sys.path if entry not in ("", directory))]
    forks.born()
    streams.NO_INPUT = NO_INPUT
    streams.install()
    session.reseed()
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def _fresh_main(file: str) -> dict[str, Any]:
    """Make a `__main__` that only `sys.modules` holds: it goes first when the interpreter ends."""
    from importlib.machinery import SourceFileLoader

    main = type(sys)("__main__")
    sys.modules["__main__"] = main
    namespace = main.__dict__
    namespace["__loader__"] = SourceFileLoader("__main__", file)
    namespace["__annotations__"] = {}
    namespace["__builtins__"] = builtins
    namespace["__file__"] = file
    namespace["__cached__"] = None
    return namespace


def _compile(source: bytes, file: str) -> CodeType:
    # From bytes, as the interpreter reads a file: byte order mark and coding line count.
    return compile(source, file, "exec", 0, True)
