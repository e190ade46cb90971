"""Results that do not go over the wire as they are: too long, or no UTF-8.

Owns: the files `cell-<N>-result.txt` in the session's outputs folder; never overwrites one, since
sessions share the folder and count their cells alike.
Runs in: worker main thread.
"""

from __future__ import annotations

from forkpy_worker.base import place
from forkpy_worker.base.text import MAX_RESULT, clean

_MAX_FILES = 1000


def fit(text: str, cell: int) -> str | tuple[str, str]:
    """Make a result's text fit for the reply; where it is shortened, with the file of the whole."""
    text = clean(text)
    return text if len(text) <= MAX_RESULT else _shorten(text, cell)


def _shorten(text: str, cell: int) -> str | tuple[str, str]:
    file = None
    try:
        file = _save(text, cell)
        where = f"the whole is in {file}"
    except OSError as error:
        where = f"the whole could not be saved: {error}"
    # Room for the marker, so that the reply stays within what it promises.
    half = (MAX_RESULT - len(where) - 80) // 2
    left_out = len(text) - 2 * half
    short = f"{text[:half]}\n... {left_out} characters left out; {where} ...\n{text[-half:]}"
    return short if file is None else (short, file)


def _save(text: str, cell: int) -> str:
    """Write the text to a file of its own and give its name, relative to the workspace."""
    for number in range(1, _MAX_FILES):
        name = f"cell-{cell}-result.txt" if number == 1 else f"cell-{cell}-result-{number}.txt"
        try:
            descriptor = place.new_file(name, 0o600)
        except FileExistsError:
            continue
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        return f"outputs/{name}"
    raise FileExistsError(f"{_MAX_FILES} files of this name exist")
