"""pandas in a session: as many columns as in a notebook, where a terminal would be measured.

Runs in: worker (zygote with `--preload pandas`), when pandas is imported.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

# What pandas itself chooses when it sees a notebook.
NOTEBOOK_COLUMNS = 20


def fit(pandas: ModuleType) -> None:
    """Give the notebook's default for the number of columns, unless something set it."""
    if pandas.get_option("display.max_columns") == 0:
        pandas.set_option("display.max_columns", NOTEBOOK_COLUMNS)
