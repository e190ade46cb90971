"""pandas in a session: as many columns as in a notebook, where a terminal would be measured.

Runs in: worker (zygote with `--preload pandas`), when pandas is imported.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

# What pandas itself chooses when it sees a notebook.
NOTEBOOK_COLUMNS = 20
# Lines of a table are broken there when a model reads it, instead of at a terminal's 80.
TEXT_WIDTH = 200


def fit(pandas: ModuleType) -> None:
    """Give the notebook's default for the number of columns, unless something set it."""
    if pandas.get_option("display.max_columns") == 0:
        pandas.set_option("display.max_columns", NOTEBOOK_COLUMNS)


def text(value: Any) -> str:
    """Write a data frame out without breaking its lines at a terminal's width."""
    import pandas

    if pandas.get_option("display.width") != 80:
        return repr(value)
    with pandas.option_context("display.width", TEXT_WIDTH):
        return repr(value)
