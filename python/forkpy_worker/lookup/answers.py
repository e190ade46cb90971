"""Questions from beside the cell: what completes this, what is that, which variables are there.

Owns: the exception that breaks an answer off. The answers are in `completion` and `inspection`,
which are imported by the first question.
Runs in: worker, a helper thread for each question, also while a cell runs; zygote only imports it.
"""

from __future__ import annotations


class TooSlow(BaseException):
    """Raised in the middle of an answer by the thread that watches the clock."""


def complete(code: str, cursor: int) -> str:
    """Say what could stand at the cursor, as JSON."""
    from forkpy_worker.lookup import completion

    return completion.complete(code, cursor)


def inspect_object(code: str, cursor: int, detail: int) -> str:
    """Say what is at the cursor, as JSON."""
    from forkpy_worker.lookup import inspection

    return inspection.inspect_object(code, cursor, detail)


def variables() -> str:
    """Say which variables there are while a cell runs, as JSON: each as `list_variables` has it."""
    import json

    from forkpy_worker.variables.variables import list_variables

    return json.dumps(list_variables(), ensure_ascii=False, default=int)
