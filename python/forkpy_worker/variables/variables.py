"""The session's variables by name, with a summary of each.

Owns: the choice of names. The summaries, with all they must import, are in `summaries`.
Runs in: worker main thread, between cells.
"""

from __future__ import annotations

import sys

from forkpy_worker.base.place import namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from forkpy_worker.variables.summaries import Budget

    # name, type, value in short, and its details
    Variable: TypeAlias = tuple[str, str, str, list[int] | None, str | None, int | None, int | None]

_MODULE = type(sys)


def list_variables() -> list[Variable]:
    """Describe each variable; no modules, no names that begin with `_`."""
    from forkpy_worker.base.text import clean
    from forkpy_worker.variables import summaries

    budget = summaries.Budget()
    return [
        _described(budget, clean(name), value)
        for name, value in list(namespace.items())
        if type(name) is str and not name.startswith("_") and not issubclass(type(value), _MODULE)
    ]


def _described(budget: Budget, name: str, value: Any) -> Variable:
    from forkpy_worker.variables import details

    summary = budget.summary(value).partition(": ")[2]
    try:
        return name, details.kind(value), summary, *details.of(value)
    except Exception:
        return name, "object", summary, None, None, None, None
