"""Where this worker's session lives: its namespace, its outputs folder.

Owns: the reference to `__main__`, and how files get into that folder. May not import anything else of the package.
Runs in: zygote (imported), worker main thread (used).
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable
    from typing import Any, TypeAlias

    # name of an exception's type, and its traceback as text
    Words: TypeAlias = tuple[str, str]

# The module is kept too: a cell may replace sys.modules["__main__"], and a module that dies
# takes the contents of its namespace with it.
main = sys.modules["__main__"]
namespace: dict[str, Any] = main.__dict__

session_id = ""
# The worker's; children that its code forks have another.
pid = 0
# The thread that runs cells; none where there is no session.
thread = 0
outputs = ""
# Where modules of the user's own are looked for first.
workspace = ""
# Where its owner's own packages are, with a slash at its end; empty where it has none.
own = ""
# Tables and the like get a file with their HTML.
keep_html = False


class Sandbox:
    """How this session is confined: the mode, below which paths it may write, and where its proxy is."""

    __slots__ = ("mode", "proxy", "writable")

    def __init__(self, mode: str, writable: list[str], proxy: str | None) -> None:
        """Note all."""
        self.mode = mode
        self.writable = writable
        # None where there is no network.
        self.proxy = proxy


# None where the session is not confined.
sandbox: Sandbox | None = None

# Number of the cell that runs, or ran last.
cell = 0
# Values of these types have nothing to show but their `repr`, as long as no other is set.
plain_types: frozenset[type] = frozenset(
    (int, str, float, bool, list, dict, tuple, set, bytes, complex, frozenset, range)
)
# What is called before a cell runs; almost always nothing.
before_cell: list[Callable[[], None]] = []
# What is called when a cell has run; libraries that collect things put themselves here.
after_cell: list[Callable[[], None]] = []
# What cells have displayed and no report has carried yet; `display` fills it.
displays: list[Any] = []
# A notebook's cell runs, and what it shows is written as Jupyter writes it.
in_notebook = False
# Sentences about the session that the next report carries.
notices: list[str] = []
# The session's asyncio loop, made when it is first wanted, and whether it was given to a cell that
# does not await.
loop: Any = None
lent_loop = False
# Gives that loop to code that does not await; the room `cell` puts its function here.
lend_loop: Callable[[], AbstractEventLoop] | None = None
# What code of the session has imported that was installed and took long: seconds, and whether the
# environment's variables were then as at the start. `watches` fills it, and the next report carries it.
imported: list[tuple[str, float, bool]] = []
# Exceptions that something between the cell and us has caught and shown instead of raising them, as
# IPython does.
swallowed: list[BaseException] = []


def _no_interrupts() -> int:
    return 0


# Says how many interrupts were sent to the cell that runs; Rust puts its own in this place. The one
# from before has a name too: what a session does not free, it does not write to.
interrupts: Callable[[], int] = _no_interrupts


def new_file(name: str, mode: int) -> int:
    """Make a file in the outputs folder and give its descriptor; the folder is not reached through a link.

    `FileExistsError` is about the file, other kinds of `OSError` are about the folder.
    """
    if not os.path.lexists(outputs):
        os.makedirs(outputs, exist_ok=True)
    folder = os.open(outputs, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=folder
        )
    finally:
        os.close(folder)


# The session's IPython shell, once there is one, and whether it is being made.
shell: Any = None
making_shell = False
# A cell of one line that begins with one of these is a magic when nothing has the name.
magic_words = {
    *("ls", "ll", "pwd", "cd", "who", "whos", "who_ls", "hist", "history", "lsmagic"),
    *("dhist", "dirs", "popd"),
}


def make_shell() -> Any:
    """Make the shell; `cell` puts its own in this place."""
    raise RuntimeError("there is no session here")
