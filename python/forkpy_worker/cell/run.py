"""Running one cell, from its text to the tuple that Rust reads.

Owns: the order of things in a cell. May not fail for anything a cell did: streams
replaced or closed, handlers changed, builtins overwritten.
Runs in: worker main thread, GIL held. A KeyboardInterrupt may arrive at any bytecode; then either a
tuple says so or it leaves through `run_cell` and Rust says it. The next cell needs nothing undone.
"""

from __future__ import annotations

import builtins
from _signal import SIGINT, default_int_handler, getsignal
from _signal import signal as _set_handler

from forkpy_worker.base import place, streams
from forkpy_worker.base.place import namespace
from forkpy_worker.base.text import MAX_RESULT
from forkpy_worker.cell import arrivals
from forkpy_worker.code import compiling, history, sources
from forkpy_worker.report import damaged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable
    from types import CodeType
    from typing import Any, TypeAlias

    from forkpy_worker.report.report import Error, Outcome, Result

    # module, seconds, and whether the environment's variables were as at the start
    Imports: TypeAlias = list[tuple[str, float, bool]]
    # an outcome, displays as `display` makes them, what to know of the session, and what was imported
    Report: TypeAlias = tuple[
        str, list[Result], Error | None, int | None, list[Any], str | None, Imports
    ]

# How often a report is begun anew when something is raised in the middle of it.
_TRIES = 3

# What almost every cell imports.
_NONE: Imports = []

# Values of these types are shown by what is in them, which their `repr` may not lay out.
_CONTAINERS = frozenset((list, dict, tuple, set, frozenset))


def run_cell(cell: int, code: str) -> Report:
    """Run a cell in `__main__` and say how it ended: ok, error, exited or interrupted."""
    filename = f"<cell {cell}>"
    try:
        _prepare(cell, filename, code)
    except BaseException as exception:
        # A signal's handler, at the very last moment before the cell.
        arrivals.keep(exception)
        _prepare(cell, filename, code)
    try:
        value = _evaluate(cell, code, filename)
        if place.swallowed:
            raise place.swallowed.pop(0)
        results = [] if value is None else _show(value, cell)
        outcome: Outcome = "ok", results, None, None
    except BaseException as exception:
        outcome = _report(exception, filename)
    streams.flush()
    if place.after_cell or place.displays or place.notices or place.swallowed:
        return (*outcome, _displays(), _notice(), _imported())
    return (*outcome, [], None, _imported() if place.imported else _NONE)


def _report(exception: BaseException, filename: str) -> Outcome:
    """Say how it ended; what is raised meanwhile (a timer's handler) is told apart."""
    for _ in range(_TRIES):
        try:
            from forkpy_worker.report import report

            _tell_swallowed()
            return report.outcome(exception, filename, _hint_of_ipython)
        except BaseException as another:  # noqa: PERF203
            if isinstance(another, KeyboardInterrupt) or not damaged.mend(in_report=True):
                arrivals.keep(another)
    return "error", [], (type(exception).__name__, "", None, "", None), None


def _hint_of_ipython(exception: BaseException, code: str) -> str | None:
    """Say what is missing when a cell has what only IPython knows."""
    from forkpy_worker.libraries import habits

    return habits.hint_about(exception, code)


def _tell_swallowed() -> None:
    """Tell of errors that were only shown, beside the one that the cell ends with."""
    while place.swallowed:
        from forkpy_worker.report import report

        report.warn("Before that:", place.swallowed.pop(0))


def rehearse() -> None:
    """Touch what a cell touches, and leave no trace of it.

    After a fork each page is copied when it is first written to; better now than in the next cell.
    """
    try:
        # Not as a cell: where each expression shows its value (`ast_node_interactivity`), this one would.
        last = compiling.as_expression("1+1", "<rehearsal>")
        if last is not None:
            repr(eval(last, {}))
        getsignal(SIGINT)
        streams.flush()
    except BaseException:
        # Whatever a session has done to its interpreter, its next cell will say.
        return


def rehearse_before_forks() -> None:
    """Do what a first cell does: what CPython learns by it, each session would learn, and write, by itself."""
    filename = "<rehearsal>"
    for code in ("1", "x = 1", "x = 1\nx"):
        rehearse()
        try:
            sources.remember(filename, code)
            _awaits(_compile(code, filename)[0])
            sources.forget(filename)
            streams.are_ours()
        except BaseException:
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
    if namespace.get("__builtins__") is not builtins:
        # Replaced, deleted, or the whole namespace was cleared.
        namespace["__builtins__"] = builtins
        namespace.setdefault("__name__", "__main__")
    if not streams.are_ours():
        streams.mend()


def _evaluate(cell: int, code: str, filename: str) -> Any:
    statements, last = _compile(code, filename)
    if (
        statements is None
        and last is not None
        and last.co_names
        and last.co_names[0] in place.magic_words
    ):
        statements, last = _as_magic(code, filename) or (statements, last)
    if _awaits(statements) or _awaits(last):
        from forkpy_worker.cell import awaiting

        return awaiting.run(cell, statements, last)
    if statements is not None:
        eval(statements, namespace)
    value = None if last is None else eval(last, namespace)
    if place.lent_loop:
        from forkpy_worker.cell import awaiting

        awaiting.run_what_is_ready()
    return value


def _compile(code: str, filename: str) -> tuple[CodeType | None, CodeType | None]:
    try:
        # `In [1]: x = 2` is Python too (an annotation), and never meant so.
        if not code.startswith("In ["):
            return compiling.compile_cell(code, filename)
        refused: SyntaxError | None = None
    except SyntaxError as error:
        refused = error
    from forkpy_worker.code import straighten

    # Outside of `except`: what is raised there is not to be told as a second error.
    straight = straighten.straighten(code)
    if straight != code or refused is None:
        sources.remember(filename, straight)
        try:
            return compiling.compile_cell(straight, filename)
        except SyntaxError as error:
            refused = error
    from forkpy_worker.libraries import habits

    return habits.compile_cell(straight, filename, refused)


def _lend_loop() -> AbstractEventLoop:
    """Give the session's loop to a cell that does not await."""
    from forkpy_worker.cell import awaiting

    return awaiting.lend()


place.lend_loop = _lend_loop


def _make_shell() -> Any:
    """Make the session's IPython shell for code that asks for it."""
    from forkpy_worker.libraries import habits

    return habits.shell()


place.make_shell = _make_shell


def _as_magic(code: str, filename: str) -> tuple[CodeType | None, CodeType | None] | None:
    from forkpy_worker.libraries import habits

    return habits.compile_word(code, filename)


def _awaits(code: CodeType | None) -> bool:
    return code is not None and bool(code.co_flags & compiling.CO_COROUTINE)


def _show(value: Any, cell: int) -> list[Result]:
    """Give the text of the last value, or leave it among the displays when it has more to show."""
    kind = type(value)
    if kind in place.plain_types and kind not in _CONTAINERS:
        text = repr(value)
    else:
        from forkpy_worker.display import formats

        if kind not in place.plain_types and formats.is_rich(value):
            from forkpy_worker.display import display

            display.result(value)
            history.keep(value, cell)
            return []
        text = formats.plain(value)
    if type(text) is not str or len(text) > MAX_RESULT or not text.isascii():
        if place.in_notebook and len(text) > MAX_RESULT:
            # A notebook holds the whole.
            from forkpy_worker.display import display

            display.publish({"text/plain": text}, is_result=True)
            history.keep(value, cell)
            return []
        from forkpy_worker.display import results

        fitted: Result = results.fit(text, cell)
        history.keep(value, cell)
        return [fitted]
    history.keep(value, cell)
    return [text]


def _displays() -> list[Any]:
    """Take what was displayed, figures that are still open included."""
    early = len(place.displays)
    try:
        _call_all(place.after_cell)
        _tell_swallowed()
    except BaseException as exception:
        # An interrupt, when the cell was over.
        arrivals.keep(exception)
    streams.flush()
    shown = place.displays[:]
    del place.displays[: len(shown)]
    for number in range(early, len(shown)):
        # Late: behind the value, or the exception.
        shown[number] = (*shown[number][:4], True, *shown[number][5:])
    return shown


def _imported() -> Imports:
    taken = place.imported[:]
    place.imported.clear()
    return taken


def _notice() -> str | None:
    words = " ".join(place.notices) or None
    place.notices.clear()
    return words


def _call_all(functions: list[Callable[[], None]]) -> None:
    for function in functions[:]:
        try:
            function()
        except Exception as error:  # noqa: PERF203
            from forkpy_worker.report import report

            report.warn("around the cell:", error)
