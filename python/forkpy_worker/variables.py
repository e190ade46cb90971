"""The session's variables by name, with a summary of each.

Owns: the choice of names. The summaries, with all they must import, are in `summaries`.
Runs in: worker main thread, between cells.
"""

from __future__ import annotations

import sys

from forkpy_worker.place import namespace

_MODULE = type(sys)


def list_variables() -> dict[str, str]:
    """Give `type: summary` for each variable; no modules, no names that begin with `_`."""
    from forkpy_worker import summaries
    from forkpy_worker.results import clean

    budget = summaries.Budget()
    return {
        clean(name): budget.summary(value)
        for name, value in list(namespace.items())
        if type(name) is str and not name.startswith("_") and not isinstance(value, _MODULE)
    }
