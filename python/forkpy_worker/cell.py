"""Running one cell, from its text to the tuple that Rust reads.

Owns: `builtins._` and the order of things in a cell. May not fail for anything a cell did: streams
replaced or closed, handlers changed, builtins overwritten.
Runs in: worker main thread, GIL held. A KeyboardInterrupt may arrive at any bytecode; then either a
tuple says so or it leaves through `run_cell` and Rust says it. The next cell needs nothing undone.
"""

from __future__ import annotations

import builtins
from _signal import SIGINT, default_int_handler, getsignal
from _signal import signal as _set_handler

from forkpy_worker import compiling, sources, streams
from forkpy_worker.place import namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any, TypeAlias

    # type, message, line in the cell, traceback
    Error: TypeAlias = tuple[str, str, int | None, str]
    # status, results, error, exit code
    Outcome: TypeAlias = tuple[str, list[str], Error | None, int | None]

# Longer representations are cut, see `results`.
MAX_RESULT = 40_000


def run_cell(cell: int, code: str) -> Outcome:
    """Run a cell in `__main__` and say how it ended: ok, error, exited or interrupted."""
    filename = f"<cell {cell}>"
    _prepare(filename, code)
    try:
        value = _evaluate(cell, code, filename)
        results = [] if value is None else [_represent(value, cell)]
        return "ok", results, None, None
    except BaseException as exception:
        from forkpy_worker import report

        return report.outcome(exception, filename)
    finally:
        streams.flush()


def _prepare(filename: str, code: str) -> None:
    if getsignal(SIGINT) is not default_int_handler:
        # An earlier cell changed it; without it no interrupt reaches this one.
        _set_handler(SIGINT, default_int_handler)
    sources.remember(filename, code)
    # Each cell is a new file: what line 1 of another cell warned of is not yet said here.
    namespace.pop("__warningregistry__", None)


def _evaluate(cell: int, code: str, filename: str) -> Any:
    statements, last = compiling.compile_cell(code, filename)
    if _awaits(statements) or _awaits(last):
        from forkpy_worker import awaiting

        return awaiting.run(cell, statements, last)
    if statements is not None:
        eval(statements, namespace)
    return None if last is None else eval(last, namespace)


def _awaits(code: CodeType | None) -> bool:
    return code is not None and code.co_flags & compiling.CO_COROUTINE != 0


def _represent(value: Any, cell: int) -> str:
    text = repr(value)
    if type(text) is not str or len(text) > MAX_RESULT or not text.isascii():
        from forkpy_worker import results

        text = results.fit(text, cell)
    builtins._ = value  # type: ignore[attr-defined]
    return text
