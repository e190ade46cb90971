"""Lines that install packages, `%pip install x` and its kin: what they name, and the tool that does it.

Owns: which options have a value. Runs in: worker, when such a line could not run.
"""

from __future__ import annotations

import re

NO_PIP = (
    "the tool install_dependencies installs packages that are named to it; it takes no file of "
    "requirements, no index and no other option"
)
_PIP = re.compile(
    r"^\s*[%!]{0,2}\s*(?:python3?\s+-m\s+)?(?:uv\s+)?(?:pip3?|conda|mamba)\s+install\s+(.*)$",
    re.MULTILINE,
)
# Options of pip and conda that have a value after them which is no package.
_VALUED = frozenset(
    ("-c", "--channel", "-n", "--name", "-p", "--prefix", "-t", "--target", "--python", "--timeout")
)
# With these, what is installed is not named on the line, or comes from elsewhere.
_ELSEWHERE = ("-r", "--requirement", "-e", "--editable", "-i", "--index-url", "--extra-index-url")


def packages(code: str) -> list[str] | None:
    """List what a line such as `%pip install x` names; none if it is no list, None without one."""
    found = _PIP.search(code)
    if found is None:
        return None
    import shlex

    try:
        words = shlex.split(found[1], comments=True)
    except ValueError:
        return []
    if any(word.startswith(_ELSEWHERE) for word in words):
        return []
    names = []
    skip = False
    for word in words:
        if not skip and not word.startswith("-"):
            names.append(word)
        skip = word in _VALUED
    return names


def hint(code: str) -> str | None:
    """Name the tool and the packages; None where code has no such line."""
    found = packages(code)
    if found is None:
        return None
    if not found:
        return NO_PIP
    return (
        "the tool install_dependencies installs packages, and no code of a cell is needed: "
        f"packages {found}. Then run this cell again without that line."
    )
