"""The no-op evaluation behind a ping, and the collection of garbage.

Owns: nothing. May not touch any state: `ping` runs while a cell runs.
Runs in: worker pinger thread, at any moment (`ping`); worker main thread (`ping`, `collect`).
"""

from __future__ import annotations

import gc

_CODE = compile("1+1", "<ping>", "eval")


def ping() -> int:
    """Evaluate something: the answer proves that the interpreter still runs code."""
    answer: int = eval(_CODE)
    return answer


def collect() -> int:
    """Collect garbage of all generations; returns how many objects were unreachable."""
    return gc.collect()
