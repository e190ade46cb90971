"""One asyncio loop for the session: it runs while a cell awaits and stands still otherwise.

Owns: that loop (it stands in `place`), and the SIGINT handler while it runs. May not lose a task of
the session's other than the cell's own.
Runs in: worker main thread. Imports `asyncio`, so nothing imports this before a cell awaits.

An interrupt must end the cell and nothing else. Raised inside the loop's own code or in some other
task it would do damage there, so the handler looks at what is running: the cell's own code gets its
KeyboardInterrupt at once, otherwise the cell's task is cancelled and that tells it. A second
interrupt shows that the first did not help, and is raised wherever it arrives.

A cell that awaits runs in the context in which all cells run, not in a copy of it as other tasks
do: context variables, decimal context, numpy's print options that it sets are there afterwards.
"""

from __future__ import annotations

import asyncio
import contextvars
import signal
import sys

from forkpy_worker.base import place
from forkpy_worker.base.place import namespace
from forkpy_worker.code.compiling import CO_COROUTINE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, FrameType
    from typing import Any, TypeAlias

    # the value of the last expression, or what was raised
    Ending: TypeAlias = tuple[Any, BaseException | None]

# How long a cancelled cell may clean up after a second interrupt, before it is left behind.
GRACE_SECONDS = 1.0
STAYS = "the cell's task did not end when cancelled; it goes on whenever a later cell awaits"

# Task names in a notice.
_NAMED = 5

# How many paused tasks the last notice was about.
_told = 0


def run(cell: int, statements: CodeType | None, last: CodeType | None) -> Any:
    """Run a cell's code as one task; give its last value or raise what it raised."""
    loop = _session_loop()
    asyncio.set_event_loop(loop)
    place.lent_loop = False
    task, copy = _make_task(loop, _drive(statements, last), f"cell {cell}")
    task.add_done_callback(_stop)
    interrupts = _Interrupts(loop, task)
    previous = signal.signal(signal.SIGINT, interrupts)
    try:
        forced = _run_until_done(loop, task)
    finally:
        if signal.getsignal(signal.SIGINT) is interrupts:
            signal.signal(signal.SIGINT, previous)
        if copy is not None:
            _take_over(copy)
    if not task.done():
        raise KeyboardInterrupt(STAYS)
    value, exception = _ending(task)
    cancelled = interrupts.count and isinstance(exception, asyncio.CancelledError)
    if forced or cancelled:
        trace = None if exception is None else exception.__traceback__
        raise KeyboardInterrupt().with_traceback(trace) from None
    if exception is None:
        return value
    raise exception


def lend() -> asyncio.AbstractEventLoop:
    """Give the loop to a cell that does not await, and remember that."""
    place.lent_loop = True
    return _session_loop()


def run_what_is_ready() -> None:
    """Let tasks that a cell has begun without awaiting take their first step."""
    place.lent_loop = False
    loop = place.loop
    if loop is None or loop.is_closed():
        return
    interrupts = _Interrupts(loop, None)
    previous = signal.signal(signal.SIGINT, interrupts)
    try:
        loop.call_soon(loop.stop)
        loop.run_forever()
    finally:
        if signal.getsignal(signal.SIGINT) is interrupts:
            signal.signal(signal.SIGINT, previous)
    if interrupts.count:
        raise KeyboardInterrupt


def _session_loop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop | None = place.loop
    if loop is None or loop.is_closed():
        loop = place.loop = asyncio.new_event_loop()
        if tell_of_paused not in place.after_cell:
            place.after_cell.append(tell_of_paused)
    return loop


class _Here:
    """Stands for a `contextvars.Context`: what is run in it runs in the one that is current."""

    def run(self, function: Any, /, *arguments: Any, **named: Any) -> Any:
        """Call the function."""
        return function(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        # Who looks at a task's context sees what is in it.
        return getattr(contextvars.copy_context(), name)

    def __getitem__(self, variable: contextvars.ContextVar[Any]) -> Any:
        return contextvars.copy_context()[variable]

    def __contains__(self, variable: contextvars.ContextVar[Any]) -> bool:
        return variable in contextvars.copy_context()

    def __iter__(self) -> Any:
        return iter(contextvars.copy_context())

    def __len__(self) -> int:
        return len(contextvars.copy_context())


_here: Any = _Here()


def _make_task(
    loop: asyncio.AbstractEventLoop, code: Any, name: str
) -> tuple[asyncio.Task[Ending], contextvars.Context | None]:
    """Make the cell's task, in the context of all cells or in a copy, which is given then."""
    if sys.version_info < (3, 11):
        return _task_of_3_10()(code, loop=loop, name=name), None
    # uvloop enters contexts itself, and wants real ones.
    copy = None if isinstance(loop, asyncio.BaseEventLoop) else contextvars.copy_context()
    return asyncio.Task(code, loop=loop, name=name, context=_here if copy is None else copy), copy


def _task_of_3_10() -> Any:
    """Make the class of a task whose context can be told: in 3.10 no argument does it."""

    class CellTask(asyncio.tasks._PyTask):  # type: ignore[name-defined,misc]
        _context = property(lambda self: _here, lambda self, value: None)

    return CellTask


def _take_over(copy: contextvars.Context) -> None:
    for variable, value in copy.items():
        if variable.get(_here) is not value:
            variable.set(value)


def paused() -> list[str]:
    """Name the tasks that wait for a cell that awaits."""
    loop = place.loop
    if loop is None or loop.is_closed():
        return []
    return sorted(task.get_name()[:60] for task in asyncio.all_tasks(loop) if not task.done())


def end_idle_threads() -> None:
    """End the threads of `asyncio.to_thread` if they have nothing to do: the next call starts new ones."""
    loop: Any = place.loop
    executor: Any = None if loop is None else getattr(loop, "_default_executor", None)
    threads = getattr(executor, "_threads", None)
    queue, idle = getattr(executor, "_work_queue", None), getattr(executor, "_idle_semaphore", None)
    if not threads or queue is None or idle is None:
        return
    # As many are idle as there are: none has work, nor will get some, since the thread that gives it is here.
    if queue.qsize() == 0 and idle._value >= len(threads):
        loop._default_executor = None
        executor.shutdown(wait=True)


def renew() -> None:
    """Give the loop of a forked session a selector of its own: it shared one with the original.

    What was registered is registered anew, on the same files. The old one is only closed here:
    to take something out of it would take it away from the original too.
    """
    loop = place.loop
    if loop is None or loop.is_closed() or not hasattr(loop, "_selector"):
        return
    old, loop._selector = loop._selector, type(loop._selector)()
    for key in list(old.get_map().values()):
        if key.fileobj is not loop._ssock:
            loop._selector.register(key.fileobj, key.events, key.data)
    old.close()
    loop._close_self_pipe()
    loop._make_self_pipe()


def descriptors() -> list[int]:
    """Give the descriptors that `renew` replaces."""
    loop: Any = place.loop
    if loop is None or loop.is_closed() or not hasattr(loop, "_selector"):
        return []
    own = [loop._selector, loop._ssock, loop._csock]
    return [held.fileno() for held in own if hasattr(held, "fileno")]


def tell_of_paused() -> None:
    """Say when tasks wait for a cell that awaits: nothing of theirs happens meanwhile."""
    global _told
    tasks = paused()
    if tasks and len(tasks) != _told:
        names = ", ".join(tasks[:_NAMED])
        more = ", ..." if len(tasks) > _NAMED else ""
        count = "1 asyncio task is" if len(tasks) == 1 else f"{len(tasks)} asyncio tasks are"
        place.notices.append(
            f"{count} paused ({names}{more}): tasks run while a cell awaits, not between cells."
        )
    _told = len(tasks)


async def _drive(statements: CodeType | None, last: CodeType | None) -> Ending:
    """Run the code; an exception is returned, since asyncio would throw some out of the loop."""
    try:
        if statements is not None:
            await _evaluate(statements)
        return (None if last is None else await _evaluate(last)), None
    except BaseException as exception:
        return None, exception


async def _evaluate(code: CodeType) -> Any:
    value = eval(code, namespace)
    return await value if code.co_flags & CO_COROUTINE else value


def _run_until_done(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Ending]) -> bool:
    """Run the loop for the cell; True when an interrupt had to break it."""
    # Again and again, because a cell may call `loop.stop()` and is not over then.
    while not task.done():
        try:
            loop.run_forever()
        except KeyboardInterrupt:  # noqa: PERF203
            _cancel_within_grace(loop, task)
            return True
    return False


def _cancel_within_grace(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Ending]) -> None:
    task.cancel()
    timer = loop.call_later(GRACE_SECONDS, loop.stop)
    loop.run_forever()
    timer.cancel()


def _stop(task: asyncio.Task[Ending]) -> None:
    task.get_loop().stop()


def _ending(task: asyncio.Task[Ending]) -> Ending:
    try:
        return task.result()
    except asyncio.CancelledError as exception:
        # Cancelled before its first step.
        return None, exception


class _Interrupts:
    """The SIGINT handler of one cell."""

    def __init__(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Ending] | None) -> None:
        self.count = 0
        self._loop = loop
        # None when the cell's own code is over.
        self._task = task

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 1 or (
            self._task is not None and asyncio.current_task(self._loop) is self._task
        ):
            raise KeyboardInterrupt
        if self._task is None:
            self._loop.stop()
        else:
            self._task.cancel()
        # The loop sleeps in select, which Python resumes after a signal: wake it.
        self._loop.call_soon_threadsafe(lambda: None)
