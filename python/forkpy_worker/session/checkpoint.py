"""What a fork of a living session needs of Python: a look before it, and a new life after it.

Owns: the state of the random generators that a checkpoint remembers. May not walk over all objects:
that would touch, and so copy, every page that the checkpoint shares with its session.
Runs in: worker main thread (`threads`, `before`), checkpoint (`hazards`, where the session has fork
hooks), worker just woken (`wake`).
"""

from __future__ import annotations

import sys

from forkpy_worker.base import asking, forks, place, streams
from forkpy_worker.session import copied, session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Names in a sentence.
_NAMED = 5

# Modules whose threads come again when they are wanted: tqdm's makes stalled bars speak.
_WATCHERS = frozenset(("tqdm._monitor",))

_random: Any = None
_numpy: Any = None


def threads() -> tuple[list[str], list[int]]:
    """Name the Python threads that will be missed in a fork; and give the numbers of those `threading` knows.

    A thread that only watches is not missed. One that is just starting has number 0.
    """
    threading = sys.modules.get("threading")
    if threading is None:
        return [], []
    awaiting = sys.modules.get("forkpy_worker.cell.awaiting")
    if awaiting is not None:
        awaiting.end_idle_threads()
    main = threading.main_thread()
    # Ours (pings, completion) show up as dummies as soon as Python code in them asks for itself.
    known = [
        thread
        for thread in threading.enumerate()
        if thread is not main and not isinstance(thread, threading._DummyThread)
    ]
    missed = [thread.name for thread in known if type(thread).__module__ not in _WATCHERS]
    return missed, [thread.native_id or 0 for thread in known]


def keepers() -> list[str]:
    """Name processes that hold objects of the session's, which a copy would share with it and lose at its end."""
    util = sys.modules.get("multiprocessing.util")
    if util is None or "multiprocessing.managers" not in sys.modules:
        return []
    ends = list(util._finalizer_registry.values())
    managers = [end._args[0] for end in ends if _name_of(end) == "_finalize_manager" and end._args]
    return [f"the process of a multiprocessing.Manager ({manager.name})" for manager in managers]


def _name_of(finalizer: Any) -> str:
    return str(getattr(finalizer._callback, "__name__", ""))


def before() -> tuple[list[int], list[str]] | None:
    """Remember what the fork's hooks change, and tell of the hazards.

    None where the session has fork hooks: then the checkpoint runs them, and tells of the hazards.
    """
    global _random, _numpy
    copied.remember()
    random, numpy = sys.modules.get("random"), sys.modules.get("numpy.random")
    _random = None if random is None else random.getstate()
    _numpy = None if numpy is None else numpy.get_state()
    return None if forks.has_hooks() else hazards()


def hazards() -> tuple[list[int], list[str]]:
    """Say what of the session is shared with, or only in, the worker that goes on.

    First come the descriptors of ours that each woken worker has anew, and that so are no hazard.
    """
    found: list[str] = []
    for look in (_tasks, _variables, _folders):
        try:
            found += look()
        except Exception:  # noqa: PERF203
            # Objects of the session's own may do anything when looked at.
            continue
    return _renewed(), found


def _tasks() -> list[str]:
    awaiting = sys.modules.get("forkpy_worker.cell.awaiting")
    names = [] if awaiting is None else awaiting.paused()
    if not names:
        return []
    return [
        f"asyncio tasks are paused ({_few(names)}): each copy of the session goes on with its own, "
        "and what they are connected to is shared"
    ]


def _variables() -> list[str]:
    from forkpy_worker.session import held

    locks, memory = held.look(place.namespace)
    found = []
    if locks:
        found.append(
            f"locks are held ({_few(locks)}): a copy finds them held, and without a holder if that was a thread"
        )
    if memory:
        found.append(
            f"variables lie in shared memory ({_few(memory)}): a change in one copy is seen in all"
        )
    return found


def _folders() -> list[str]:
    names = copied.temporary_folders()
    if not names:
        return []
    return [
        f"temporary folders are in use ({_few(names)}): they are the same for all copies, and only the session that "
        "made them removes them"
    ]


def _renewed() -> list[int]:
    awaiting = sys.modules.get("forkpy_worker.cell.awaiting")
    return [] if awaiting is None else awaiting.descriptors()


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def wake(
    session_id: str, ask: Callable[..., Any], interrupts: Callable[[], int], keep_random: bool
) -> None:
    """Make this fork of a checkpoint the session's."""
    copied.arrive(session_id)
    place.session_id = session_id
    session.begin(interrupts)
    asking.install(ask)
    streams.know_pipes()
    awaiting = sys.modules.get("forkpy_worker.cell.awaiting")
    if awaiting is not None:
        awaiting.renew()
    if keep_random:
        _remember()
    else:
        session.reseed()


def _remember() -> None:
    random, numpy = sys.modules.get("random"), sys.modules.get("numpy.random")
    if random is not None and _random is not None:
        random.setstate(_random)
    if numpy is not None and _numpy is not None:
        numpy.set_state(_numpy)
