"""The no-op evaluation behind a ping.

Owns: nothing. May not touch any state: it runs while a cell runs.
Runs in: worker control thread, at any moment; zygote only imports it.
"""

from __future__ import annotations

_CODE = compile("1+1", "<ping>", "eval")


def ping() -> int:
    """Evaluate something: the answer proves that the interpreter still runs code."""
    return eval(_CODE)
