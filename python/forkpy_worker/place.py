"""Where this worker's session lives: its namespace, its outputs folder.

Owns: the reference to `__main__`. May not import anything else of the package.
Runs in: zygote (imported), worker main thread (used).
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# The module is kept too: a cell may replace sys.modules["__main__"], and a module that dies
# takes the contents of its namespace with it.
main = sys.modules["__main__"]
namespace: dict[str, Any] = main.__dict__

session_id = ""
# The worker's; children that its code forks have another.
pid = 0
outputs = ""

# Number of the cell that runs, or ran last.
cell = 0
# What is called before a cell runs; almost always nothing.
before_cell: list[Callable[[], None]] = []
# What is called when a cell has run; libraries that collect things put themselves here.
after_cell: list[Callable[[], None]] = []
# What cells have displayed and no report has carried yet; `display` fills it.
displays: list[Any] = []
# Sentences about the session that the next report carries.
notices: list[str] = []
