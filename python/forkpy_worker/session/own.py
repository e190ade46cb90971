"""An environment of packages that is an owner's alone (`--workspaces`), before the one that all have in common.

It is an ordinary virtual environment in the owner's workspace, so that pip and uv know it for one; a file of
paths in it leads on to the common packages.

Owns: how it is made, and what changes in a process that has one.
Runs in: worker and script main thread, once, confined where sessions are (`enter`); a process that the zygote
forks for forkpy's own lines, not confined, where sessions are not either (`answer`).
"""

from __future__ import annotations

import os
import sys

from forkpy_worker.base import place

# In it are the common packages' directories.
_COMMON = "forkpy-common.pth"
_NAME = f"python{sys.version_info[0]}.{sys.version_info[1]}"
_KINDS = ("site-packages", "dist-packages")


def packages(root: str) -> str:
    """Tell where its packages are."""
    return os.path.join(root, "lib", _NAME, "site-packages")


def enter(root: str) -> None:
    """Let this process see its owner's packages, and let what it starts install there."""
    try:
        make(root)
    except OSError as error:
        place.notices.append(
            f"Your own packages are not there: {root} could not be made ({error})."
        )
        return
    place.own = os.path.join(root, "")
    folder, programs = packages(root), os.path.join(root, "bin")
    at = next((at for at, entry in enumerate(sys.path) if _has_packages(entry)), len(sys.path))
    sys.path.insert(at, folder)
    sys.executable = os.path.join(programs, "python")
    os.environ["VIRTUAL_ENV"] = root
    os.environ["PATH"] = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
    _read_path_files(folder)


def make(root: str) -> None:
    """Make it, or make it fit the Python that runs. Without programs: pip is among the common packages."""
    folder, programs = packages(root), os.path.join(root, "bin")
    base = getattr(sys, "_base_executable", None) or sys.executable
    os.makedirs(folder, exist_ok=True)
    os.makedirs(programs, exist_ok=True)
    _link("lib", os.path.join(root, "lib64"))
    _link(base, os.path.join(programs, "python"))
    for name in ("python3", _NAME):
        _link("python", os.path.join(programs, name))
    version = ".".join(map(str, sys.version_info[:3]))
    lines = (
        f"home = {os.path.dirname(base)}",
        "implementation = CPython",
        f"version = {version}",
        "include-system-site-packages = false",
        f"executable = {base}",
        "",
    )
    common = [entry for entry in sys.path if _has_packages(entry) and entry != folder]
    calls = [f"site.addsitedir({entry!r})" for entry in common]
    # Last: what has it is whole.
    _write(os.path.join(root, "pyvenv.cfg"), "\n".join(lines))
    _write(os.path.join(folder, _COMMON), "; ".join(["import site", *calls]) + "\n")


def answer(file: str, root: str) -> None:
    """Make it, and answer."""
    make(root)
    with open(file, "w") as out:
        out.write("null")


def _has_packages(entry: str) -> bool:
    return os.path.basename(entry) in _KINDS


def _link(target: str, path: str) -> None:
    try:
        if os.readlink(path) == target:
            return
    except OSError:
        # It is not there, or something else is.
        pass
    draft = f"{path}.{os.getpid()}"
    os.symlink(target, draft)
    os.replace(draft, path)


def _write(path: str, text: str) -> None:
    try:
        with open(path) as file:
            if file.read() == text:
                return
    except (OSError, UnicodeDecodeError):
        pass
    draft = f"{path}.{os.getpid()}"
    with open(draft, "w") as file:
        file.write(text)
    os.replace(draft, path)


def _read_path_files(folder: str) -> None:
    """Do what `site` does with the files of paths that packages have put there."""
    files = sorted(name for name in os.listdir(folder) if name.endswith(".pth") and name != _COMMON)
    if not files:
        return
    import contextlib
    import io
    import site

    # Where a line fails, `site` says so on standard error, which is a cell's by now.
    with contextlib.redirect_stderr(io.StringIO()):
        for name in files:
            with contextlib.suppress(BaseException):
                site.addpackage(folder, name, None)
