"""What is found of a session's locks and shared memory, and when the look ends."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import Any

from forkpy_worker.session import held


def test_locks_are_found_where_programs_keep_them() -> None:
    def taken() -> Any:
        lock = threading.Lock()
        lock.acquire()
        return lock

    class Job:
        def __init__(self) -> None:
            self.guard = taken()

    condition, semaphore = threading.Condition(), threading.Semaphore(1)
    condition.acquire()
    semaphore.acquire()
    namespace: dict[str, Any] = {
        "plain": taken(),
        "jobs": [Job(), {"inner": (taken(),)}],
        "queue": deque([taken()]),
        "ordered": OrderedDict(a=taken()),
        "condition": condition,
        "semaphore": semaphore,
        "free": [
            threading.Lock(),
            threading.RLock(),
            threading.Condition(),
            threading.Event(),
            threading.Semaphore(2),
        ],
    }
    locks, memory = held.look(namespace)
    expected = {
        "plain",
        "jobs[0].guard",
        "jobs[1]['inner'][0]",
        "queue[...]",
        "ordered['a']",
        "condition",
        "semaphore",
    }
    assert (set(locks), memory) == (expected, [])


def test_the_look_is_bounded_and_bears_objects_of_all_kinds() -> None:
    class Rude:
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

    class Slots:
        __slots__ = ("a",)

    loop: list[Any] = []
    loop.append(loop)
    lock = threading.Lock()
    lock.acquire()
    namespace = {
        "rude": Rude(),
        "slots": Slots(),
        "loop": loop,
        "many": [[n] for n in range(100_000)],
        "lock": lock,
    }
    assert held.look(namespace) == (["lock"], [])
    deep: Any = lock
    for _ in range(50):
        deep = [deep]
    assert held.look({"deep": deep}) == ([], [])
