"""What arrives in the main thread while no cell runs is told by itself, and the next request runs.

Owns: the words about it until a cell carries them. A handler of a signal that raises,
`_thread.interrupt_main` and asynchronous exceptions are raised at the next bytecode of the main
thread, whichever code that belongs to. So Rust calls `look`, which has no other purpose, before each
request.
Runs in: worker main thread. Imports `traceback` (by `report`) only when something has arrived.
"""

from __future__ import annotations

from forkpy_worker.base import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from forkpy_worker.base.place import Words

# How often each came.
_waiting: dict[Words, int] = {}

# A timer that raises again and again must not fill the next reply.
_MOST = 5


def look() -> None:
    """Do nothing: what has arrived is raised here."""


def keep(exception: BaseException) -> None:
    """Remember what was raised, for the next cell."""
    from forkpy_worker.report import report

    words = report.words_of(exception)
    if words in _waiting or len(_waiting) < _MOST:
        _waiting[words] = _waiting.get(words, 0) + 1
    if _tell not in place.before_cell:
        place.before_cell.append(_tell)


def last_words() -> None:
    """Tell what no cell has told, before the process ends."""
    if _waiting:
        _tell()


def _tell() -> None:
    """Write the tracebacks to standard error and a sentence into the cell's notice."""
    from forkpy_worker.report import report

    place.before_cell.remove(_tell)
    told = dict(_waiting)
    _waiting.clear()
    for (_, words), count in told.items():
        times = "" if count == 1 else f" {count} times"
        report.to_stderr(
            f"Between two cells, outside of any cell, this was raised{times}:\n{words}"
        )
    names = ", ".join(dict.fromkeys(name for name, _ in told))
    place.notices.append(
        f"Between two cells {names} was raised (a signal handler, interrupt_main or another thread "
        "did it; the traceback is in stderr). It ended nothing."
    )
