"""Stacks of all threads, written as text to the black box.

Owns: the use of faulthandler, apart from the user's own: `faulthandler.enable()` in a cell stays
as it is.
May not touch the session's state: it runs while a cell runs.
Runs in: worker main thread (`arm`, once), pinger thread (`dump`, at any moment).
"""

from __future__ import annotations

import faulthandler


def arm(black_box: int, signal: int) -> None:
    """Let `signal` write all stacks to the descriptor: faulthandler's handler needs no GIL."""
    faulthandler.register(signal, file=black_box, all_threads=True, chain=False)


def dump(black_box: int) -> None:
    """Write all stacks now, with the GIL held."""
    faulthandler.dump_traceback(file=black_box, all_threads=True)
