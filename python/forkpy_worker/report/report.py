"""What is said about a cell that did not end well: outcome tuple, traceback on descriptor 2.

Owns: `sys.last_*`. Uses no stream of the cell's: they may be closed or replaced.
Runs in: worker main thread. Imports `traceback`, so nothing imports this before it is needed.

Nothing here may fail for what an exception does when it is asked for its words; each question to
the cell's objects stands in a `try`.
"""

from __future__ import annotations

import sys
import traceback

from forkpy_worker.base import place, streams
from forkpy_worker.base.text import clean, cut
from forkpy_worker.code import sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import TypeAlias

    from forkpy_worker.base.place import Words

    # type, message, line in the cell, traceback, hint
    Error: TypeAlias = tuple[str, str, int | None, str, str | None]
    # status, results, error, exit code
    # a value's text; where that is not all of it, with the file that has the whole
    Result: TypeAlias = str | tuple[str, str]
    Outcome: TypeAlias = tuple[str, list[Result], Error | None, int | None]
    # what was raised, the text of the cell -> what helps
    HintOfIPython: TypeAlias = Callable[[BaseException, str], str | None]

# What the reply carries; descriptor 2 gets the whole, and the server caps that.
MAX_MESSAGE = 10_000
MAX_TRACEBACK = 40_000

# Where the code of this package says it comes from: "<forkpy_worker>/" embedded, a folder in tests.
_OWN = clean.__code__.co_filename[: -len("base/text.py")]


def outcome(exception: BaseException, filename: str, hint_of_ipython: HintOfIPython) -> Outcome:
    """Turn what a cell raised into its outcome.

    hint_of_ipython: says what helps when the cell has what only IPython knows.
    """
    _drop_own_frames(exception)
    if isinstance(exception, SystemExit):
        return "exited", [], None, _exit_code(exception)
    if isinstance(exception, SyntaxError):
        _complete(exception)
    sources.restore()
    words = _format(exception)
    hint = _hint(exception, filename, hint_of_ipython)
    if hint is not None:
        words += f"Hint: {hint}\n"
    _remember_last(exception)
    to_stderr(words)
    line = _line(exception, filename)
    status = "interrupted" if isinstance(exception, KeyboardInterrupt) else "error"
    traceback = cut(clean(words), MAX_TRACEBACK)
    error = (_type_name(exception), _message(exception), line, traceback, hint)
    return status, [], error, None


def exit_code(exception: BaseException) -> int | None:
    """Do what the interpreter does with what ends a script; None when it is a KeyboardInterrupt."""
    _drop_own_frames(exception)
    if isinstance(exception, SystemExit):
        return _exit_code(exception)
    streams.flush()
    _remember_last(exception)
    try:
        sys.excepthook(type(exception), exception, exception.__traceback__)
    except BaseException:
        # The script's own hook failed: the words must come all the same.
        to_stderr(_format(exception))
    streams.flush()
    return None if isinstance(exception, KeyboardInterrupt) else 1


def warn(words: str, exception: BaseException) -> None:
    """Tell of an exception that did not end the cell."""
    to_stderr(f"{words}\n{words_of(exception)[1]}")


def words_of(exception: BaseException) -> Words:
    """Give the name of its type and its traceback, as the next reply tells it."""
    _drop_own_frames(exception)
    return _type_name(exception), cut(clean(_format(exception)), MAX_TRACEBACK)


def _drop_own_frames(exception: BaseException) -> None:
    """Begin the traceback where the cell's code begins."""
    trace = exception.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN):
        trace = trace.tb_next
    BaseException.with_traceback(exception, trace)


def _complete(exception: SyntaxError) -> None:
    """Give an error the line that only the compiler's second pass leaves out."""
    try:
        if exception.text is None and exception.filename and exception.lineno:
            lines = sources.text_of(exception.filename).split("\n")
            exception.text = lines[exception.lineno - 1] + "\n"
    except Exception:
        # The cell raised it itself, with attributes of its own making.
        return


def _format(exception: BaseException) -> str:
    try:
        summary = traceback.TracebackException(
            type(exception), exception, exception.__traceback__, compact=True
        )
        _hide_own_frames(summary)
        return "".join(summary.format())
    except Exception:
        return f"{_type_name(exception)}: {_message(exception)}\n"


def _hide_own_frames(summary: traceback.TracebackException) -> None:
    """Leave out our `print` and the like, in the whole chain."""
    queue = [summary]
    for entry in queue:
        entry.stack[:] = [frame for frame in entry.stack if not frame.filename.startswith(_OWN)]
        queue += [linked for linked in (entry.__cause__, entry.__context__) if linked is not None]
        queue += getattr(entry, "exceptions", None) or []


def _type_name(exception: BaseException) -> str:
    try:
        return clean(type(exception).__name__)
    except Exception:
        return "Exception"


def _hint(exception: BaseException, filename: str, hint_of_ipython: HintOfIPython) -> str | None:
    """Say what helps: the tool that installs a module, or IPython for its syntax, or a restart."""
    try:
        if isinstance(exception, SyntaxError) and exception.filename == filename:
            return hint_of_ipython(exception, sources.text_of(filename))
        if isinstance(exception, ModuleNotFoundError):
            from forkpy_worker.report import missing

            return missing.hint(exception)
        if isinstance(exception, NameError):
            found = hint_of_ipython(exception, sources.text_of(filename))
            if found is not None:
                return found
        return _hint_of_place(exception)
    except Exception:
        # The cell raised it itself, with attributes of its own making.
        return None


def _hint_of_place(exception: BaseException) -> str | None:
    """Say what in this session may be the cause: its sandbox, or names that its code has overwritten."""
    if place.sandbox is not None:
        from forkpy_worker.report import refused

        found = refused.hint(exception, place.sandbox)
        if found is not None:
            return found
    if isinstance(exception, (BlockingIOError, RuntimeError)):
        from forkpy_worker.report import crowded

        return crowded.hint(exception)
    if isinstance(exception, (TypeError, NameError, ImportError, AttributeError)):
        from forkpy_worker.report import damaged

        return damaged.hint()
    return None


def _message(exception: BaseException) -> str:
    try:
        # Without " (<cell 3>, line 2)": the line is told apart.
        text = exception.msg if isinstance(exception, SyntaxError) else None
        return cut(clean(text if isinstance(text, str) else str(exception)), MAX_MESSAGE)
    except Exception:
        return "<exception str() failed>"


def _line(exception: BaseException, filename: str) -> int | None:
    """Find the cell's line: that of a syntax error in it, else of the innermost frame in it."""
    try:
        if isinstance(exception, SyntaxError) and exception.filename == filename:
            return exception.lineno or None
    except Exception:
        return None
    return _innermost(exception.__traceback__, filename)


def _innermost(trace: TracebackType | None, filename: str) -> int | None:
    line = None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == filename:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _remember_last(exception: BaseException) -> None:
    """Leave behind what `pdb.pm()` looks for."""
    sys.last_type = type(exception)
    sys.last_value = exception
    sys.last_traceback = exception.__traceback__
    sys.last_exc = exception  # type: ignore[attr-defined,unused-ignore]


def to_stderr(words: str) -> None:
    """Write to descriptor 2, whatever stands for it in `sys`."""
    streams.flush()
    try:
        streams.write_all(2, words.encode("utf-8", "backslashreplace"))
    except OSError:
        # The cell closed descriptor 2; the outcome carries the words too.
        return


def _exit_code(exception: SystemExit) -> int:
    """Apply Python's rules for the code of a `sys.exit`."""
    try:
        code = exception.code
    except Exception:
        return 1
    if code is None:
        return 0
    if isinstance(code, int):
        # As C's int holds it.
        return (int.__index__(code) + (1 << 31)) % (1 << 32) - (1 << 31)
    try:
        to_stderr(f"{code}\n")
    except Exception:
        return 1
    return 1
