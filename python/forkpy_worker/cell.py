"""Running one cell, from its text to the tuple that Rust reads.

Owns: the order of things in a cell. May not fail for anything a cell did: streams
replaced or closed, handlers changed, builtins overwritten.
Runs in: worker main thread, GIL held. A KeyboardInterrupt may arrive at any bytecode; then either a
tuple says so or it leaves through `run_cell` and Rust says it. The next cell needs nothing undone.
"""

from __future__ import annotations

from _signal import SIGINT, default_int_handler, getsignal
from _signal import signal as _set_handler

from forkpy_worker import compiling, history, place, sources, streams
from forkpy_worker.place import namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any, TypeAlias

    # type, message, line in the cell, traceback, hint
    Error: TypeAlias = tuple[str, str, int | None, str, str | None]
    # status, results, error, exit code
    Outcome: TypeAlias = tuple[str, list[str], Error | None, int | None]
    # the same, displays as `display` makes them, and what to know of the session
    Report: TypeAlias = tuple[str, list[str], Error | None, int | None, list[Any], str | None]

# Longer representations are cut, see `results`.
MAX_RESULT = 40_000


_LOOP_WANTED = frozenset(("create_task", "ensure_future", "get_running_loop"))
_LOOP_UNWANTED = frozenset(("run", "Runner", "run_until_complete", "run_forever"))

# Values of these types have nothing to show but their `repr`.
_PLAIN = frozenset(
    (int, str, float, bool, list, dict, tuple, set, bytes, complex, frozenset, range)
)


def run_cell(cell: int, code: str) -> Report:
    """Run a cell in `__main__` and say how it ended: ok, error, exited or interrupted."""
    filename = f"<cell {cell}>"
    _prepare(cell, filename, code)
    try:
        value = _evaluate(cell, code, filename)
        results = [] if value is None else _show(value, cell)
        outcome: Outcome = "ok", results, None, None
    except BaseException as exception:
        from forkpy_worker import report

        outcome = report.outcome(exception, filename)
    finally:
        streams.flush()
    if place.after_cell or place.displays:
        return (*outcome, _displays(), _notice())
    return (*outcome, [], None)


def rehearse() -> None:
    """Touch what a cell touches, and leave no trace of it.

    After a fork each page is copied when it is first written to; better now than in the next cell.
    """
    try:
        statements, last = compiling.compile_cell("1+1", "<rehearsal>")
        if statements is None and last is not None:
            repr(eval(last, {}))
        getsignal(SIGINT)
        streams.flush()
    except BaseException:
        # Whatever a session has done to its interpreter, its next cell will say.
        return


def _prepare(cell: int, filename: str, code: str) -> None:
    if getsignal(SIGINT) is not default_int_handler:
        # An earlier cell changed it; without it no interrupt reaches this one.
        _set_handler(SIGINT, default_int_handler)
    place.cell = cell
    sources.remember(filename, code)
    if "_" in code:
        history.publish(code)
    if place.before_cell:
        _call_all(place.before_cell)
    # Each cell is a new file: what line 1 of another cell warned of is not yet said here.
    namespace.pop("__warningregistry__", None)


def _evaluate(cell: int, code: str, filename: str) -> Any:
    statements, last = _compile(code, filename)
    if _awaits(statements) or _awaits(last):
        from forkpy_worker import awaiting

        return awaiting.run(cell, statements, last)
    if statements is not None:
        eval(statements, namespace)
    return None if last is None else eval(last, namespace)


def _compile(code: str, filename: str) -> tuple[CodeType | None, CodeType | None]:
    try:
        return compiling.compile_cell(code, filename)
    except SyntaxError as error:
        refused = error
    from forkpy_worker import habits

    # Outside of `except`: what is raised there is not to be told as a second error.
    return habits.compile_cell(code, filename, refused)


def _awaits(code: CodeType | None) -> bool:
    if code is None:
        return False
    if code.co_flags & compiling.CO_COROUTINE:
        return True
    # These want a running loop, and notebooks have one. `asyncio.run` wants none.
    names = code.co_names
    return bool(names) and not _LOOP_WANTED.isdisjoint(names) and _LOOP_UNWANTED.isdisjoint(names)


def _show(value: Any, cell: int) -> list[str]:
    """Give the text of the last value, or leave it among the displays when it has more to show."""
    if type(value) not in _PLAIN:
        from forkpy_worker import formats

        if formats.is_rich(value):
            from forkpy_worker import display

            display.result(value)
            history.keep(value, cell)
            return []
    text = repr(value)
    if type(text) is not str or len(text) > MAX_RESULT or not text.isascii():
        from forkpy_worker import results

        text = results.fit(text, cell)
    history.keep(value, cell)
    return [text]


def _displays() -> list[Any]:
    """Take what was displayed, figures that are still open included."""
    _call_all(place.after_cell)
    streams.flush()
    shown = place.displays[:]
    del place.displays[: len(shown)]
    return shown


def _notice() -> str | None:
    words = " ".join(place.notices) or None
    place.notices.clear()
    return words


def _call_all(functions: list[Callable[[], None]]) -> None:
    for function in functions[:]:
        try:
            function()
        except Exception as error:  # noqa: PERF203
            from forkpy_worker import report

            report.warn("around the cell:", error)
