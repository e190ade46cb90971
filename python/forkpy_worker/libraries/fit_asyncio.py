"""`asyncio`, fitted to a session: code that wants a loop gets the session's, in every cell.

Owns: `asyncio.get_running_loop` and the default policy's `get_event_loop`. In a cell that does not
await they lend the session's loop, which stands still then. What says that a loop *runs*
(`_get_running_loop`, `loop.is_running()`) stays as it is: in such a cell none does, and so
`asyncio.run()`, `loop.run_until_complete()` and their like work as in a script.
Runs in: zygote (fitted), worker main thread (lends the loop); other threads, forked children and
scripts see plain asyncio.
"""

from __future__ import annotations

import os
from _thread import get_ident

from forkpy_worker.base import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from typing import Any


def fit(asyncio: Any) -> None:
    """Put ours in the places where asyncio itself and libraries look."""
    events = asyncio.events
    find = events._get_running_loop

    def get_running_loop() -> AbstractEventLoop:
        """Return the running event loop.  Raise a RuntimeError if there is none.

        This function is thread-specific.
        """
        loop: AbstractEventLoop | None = find()
        if loop is None:
            loop = _lend()
            if loop is None:
                raise RuntimeError("no running event loop")
        return loop

    get_running_loop.__qualname__ = "get_running_loop"
    get_running_loop.__module__ = "asyncio.events"
    asyncio.get_running_loop = events.get_running_loop = get_running_loop
    _fit_policy(events)


def _fit_policy(events: Any) -> None:
    """Serve who asks the policy, as `asyncio.Future()` and `ensure_future` do."""
    policy = getattr(events, "BaseDefaultEventLoopPolicy", None)
    if policy is None:
        # Its name since 3.14.
        policy = events._BaseDefaultEventLoopPolicy
    original = policy.get_event_loop

    def get_event_loop(self: Any) -> AbstractEventLoop:
        """Get the event loop for the current context."""
        current = self._local._loop
        if current is None or current.is_closed():
            loop = _lend()
            if loop is not None:
                self.set_event_loop(loop)
        elif current is place.loop:
            _lend()
        found: AbstractEventLoop = original(self)
        return found

    policy.get_event_loop = get_event_loop


def _lend() -> AbstractEventLoop | None:
    if get_ident() != place.thread or os.getpid() != place.pid or place.lend_loop is None:
        return None
    return place.lend_loop()
