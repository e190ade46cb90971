"""A cell of a notebook: it runs where the notebook is, as in Jupyter, and a session's own cells do not.

Owns: the directory that a notebook's cells go on in, `place.in_notebook`.
Runs in: worker main thread, GIL held.
"""

from __future__ import annotations

import os
import sys

from forkpy_worker.base import place
from forkpy_worker.cell import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from forkpy_worker.cell.run import Report

# Where the notebook's last cell has ended; a cell may have gone elsewhere.
_directory = ""


def run_notebook_cell(number: int, code: str, directory: str, first: bool) -> Report:
    """Run a cell in the notebook's directory, with the modules there, and come back."""
    global _directory
    home = _here()
    if first or not _directory:
        _directory = directory
    _go(_directory)
    # First, as for `python notebook.py`. Afterwards it stays as the last: what the notebook has defined may import.
    _move_path(directory, 0)
    place.in_notebook = True
    try:
        return run.run_cell(number, code)
    finally:
        place.in_notebook = False
        _directory = _here() or _directory
        _go(home)
        if directory != home:
            _move_path(directory, len(sys.path))


def _here() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        # A cell has removed the directory that it was in.
        return None


def _go(directory: str | None) -> None:
    try:
        if directory is not None:
            os.chdir(directory)
    except OSError:
        # It is gone: the cell runs where the session is.
        return


def _move_path(directory: str, place_in_path: int) -> None:
    if directory in sys.path:
        if sys.path.index(directory) == 0 == place_in_path:
            return
        sys.path.remove(directory)
    sys.path.insert(place_in_path, directory)
