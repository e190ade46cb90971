"""Code of packages that Python runs when it starts: lines of `.pth` files, `sitecustomize`, `usercustomize`.

Where sessions are confined they may have installed those packages, and the zygote is not confined. So
it runs none of that code: it notes it, and each process runs it for itself once it is shut in. Paths that
`.pth` files name are searched for modules, and are not made readable for that.

Owns: how `site` runs in the zygote, by names that `site` looks up in itself.
Runs in: zygote (`hold`, `release`, once, at start), worker and script main thread (`run`, once, confined).
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# A directory of packages, and a line of a file in it.
_lines: list[tuple[str, str]] = []
_customs: list[str] = []
_before: set[str] = set()
# Directories that are searched because files of packages name them.
named: set[str] = set()
_CUSTOMS = ("execsitecustomize", "execusercustomize")
_kept: dict[str, Any] = {}


def hold() -> None:
    """Do what `site` does at the start of Python, and note what it would run."""
    import site

    module: Any = site
    _before.update(sys.path)

    def keep(line: str) -> None:
        _lines.append((str(sys._getframe(1).f_locals.get("sitedir", "")), line))

    module.exec = keep
    for name in _CUSTOMS:
        _kept[name] = getattr(module, name)
        setattr(module, name, lambda name=name: _customs.append(name))
    module.main()


def release(given: list[str]) -> None:
    """Let `site` run what it is asked to run from now on: it is sessions that ask.

    Of the directories that modules are searched in, those of Python and those given are trusted.
    """
    import site

    module: Any = site
    if "exec" in vars(module):
        del module.exec
    for name, function in _kept.items():
        setattr(module, name, function)
    trusted = _before | set(site.getsitepackages()) | set(given)
    if site.ENABLE_USER_SITE:
        trusted.add(site.getusersitepackages())
    named.update(path for path in sys.path if path not in trusted)


def is_named(path: str) -> bool:
    """Tell whether a directory is searched for modules because a file of a package says so."""
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    return path in named and not any(
        path.startswith(os.path.join(prefix, "")) for prefix in prefixes
    )


def run() -> None:
    """Run what was noted, as `site` would have; what fails there fails for itself."""
    import contextlib
    import site

    for sitedir, line in _lines:
        _run_line(sitedir, line)
    for name in _customs:
        with contextlib.suppress(BaseException):
            getattr(site, name)()


def _run_line(sitedir: str, line: str) -> None:
    import contextlib
    import site

    # Such lines read `sitedir`, of the frame that runs them too. Where one fails, Python would say so on
    # standard error, which is a cell's by now.
    with contextlib.suppress(BaseException):
        exec(line, {**vars(site), "sitedir": sitedir})
