"""jedi, imported and used once: its first answer takes as long as ten others.

Owns: nothing. Importing this is all: jedi keeps what it has read of Python's own stubs.
Runs in: zygote, behind; its forks have what it leaves in memory.
"""

from __future__ import annotations

from forkpy_worker.lookup import completion, inspection  # noqa: F401

_view = completion.interpreter("prin")
if _view is not None:
    _view.complete(1, len("prin"))
del _view
