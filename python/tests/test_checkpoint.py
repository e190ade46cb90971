"""What a session has that a copy of it would miss, as far as Python knows."""

from __future__ import annotations

import multiprocessing

from forkpy_worker.session import checkpoint


def test_the_process_of_a_manager_holds_objects_that_a_copy_would_lose() -> None:
    """A copy was made, and its proxies spoke to a process that ended with the session it was of."""
    before = checkpoint.keepers()
    manager = multiprocessing.get_context("spawn").Manager()
    try:
        assert len(checkpoint.keepers()) == len(before) + 1
        assert "Manager" in checkpoint.keepers()[-1]
    finally:
        manager.shutdown()
    assert checkpoint.keepers() == before
