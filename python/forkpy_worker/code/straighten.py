"""Text that is no Python as it stands and that a notebook runs all the same: pasted code.

Owns: which such marks are taken away, and in which order. May not change code that Python compiles:
it is asked only about what was refused. The number of lines stays, since tracebacks name them.
Runs in: worker main thread, after a SyntaxError.
"""

from __future__ import annotations

import re

_BOM = "\ufeff"
_INDENT = re.compile(r"[ \t]+")
# As IPython takes them: `>>> ` begins what is pasted from Python, `In [1]: ` what is from IPython.
_CLASSIC = re.compile(r"(>>>|\.\.\.)( |$)")
_CLASSIC_FIRST = re.compile(r">>>( |$)")
_IPYTHON = re.compile(r"In \[\d+\]: ?|\s*\.{3,}: ?")
_IPYTHON_FIRST = re.compile(r"In \[\d+\]: ?")


def straighten(code: str) -> str:
    """Take away a byte order mark, a common indentation and prompts."""
    lines = code.removeprefix(_BOM).split("\n")
    first = next((number for number, line in enumerate(lines) if line.strip()), None)
    if first is None:
        return code
    lines = _dedent(lines, first)
    for prompt, opening in ((_CLASSIC, _CLASSIC_FIRST), (_IPYTHON, _IPYTHON_FIRST)):
        if opening.match(lines[first]):
            lines = [
                prompt.sub("", line, count=1) if prompt.match(line) else line for line in lines
            ]
    return "\n".join(_dedent(lines, first))


def _dedent(lines: list[str], first: int) -> list[str]:
    """Take the indentation of the first line of code from all lines that have it."""
    indent = _INDENT.match(lines[first])
    if indent is None:
        return lines
    return [line.removeprefix(indent[0]) for line in lines]
