"""The image of a zygote: of what its memory was made, and what one that was woken from it is told anew.

Owns: the list of files and folders whose change means another zygote, and what of the zygote's state comes
from its variables. Runs in: zygote. May not import what an environment may lack.
"""

from __future__ import annotations

import os
import site
import sys
import threading

from forkpy_worker.libraries import watches

# Code of environments that is known to look at nothing but what the image is kept for.
_KNOWN = ("_virtualenv", "_distutils_hack")
_KNOWN_LINES = ("import _virtualenv", "import os; var = 'SETUPTOOLS_USE_DISTUTILS';")
# Debian's, without its comments.
_KNOWN_CUSTOM = "try:    import apport_python_hookexcept ImportError:    passelse:    apport_python_hook.install()"
_INSTALLED = ("/site-packages/", "/dist-packages/")
# Read by the C library when `time` asks it for the first time.
_TIME_ZONE = "/etc/localtime"


def origins() -> tuple[list[str], list[str]]:
    """List paths of which this process was made, there or not, and code in it that may have looked at anything."""
    paths = {_TIME_ZONE, sys.executable, os.path.join(sys.prefix, "pyvenv.cfg")}
    paths.add(os.path.join(os.path.dirname(sys.executable), "pyvenv.cfg"))
    foreign: list[str] = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not os.path.isabs(file):
            continue
        paths.add(file)
        is_installed = any(part in file for part in _INSTALLED)
        if is_installed and name.partition(".")[0] not in _KNOWN:
            foreign.append(name)
    folders = [*sys.path, *site.getsitepackages(), site.getusersitepackages()]
    for folder in folders:
        if not os.path.isabs(folder):
            foreign.append(f"{folder!r} in sys.path")
        paths.add(folder)
        foreign.extend(_look_at_lines(folder, paths))
    custom = [name for name in ("sitecustomize", "usercustomize") if name in sys.modules]
    foreign.extend(name for name in custom if not _is_known(sys.modules[name]))
    return sorted(paths), foreign


def _look_at_lines(folder: str, paths: set[str]) -> list[str]:
    """Note the files by which a folder adds to `sys.path`; those that run code which is not known."""
    try:
        names = [name for name in os.listdir(folder) if name.endswith(".pth")]
    except OSError:
        return []
    running: list[str] = []
    for name in names:
        path = os.path.join(folder, name)
        paths.add(path)
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = [line.rstrip() for line in file if line.startswith(("import ", "import\t"))]
        except OSError:
            continue
        running.extend(path for line in lines if not line.startswith(_KNOWN_LINES))
    return running


def _is_known(module: object) -> bool:
    try:
        with open(getattr(module, "__file__", ""), encoding="utf-8") as file:
            lines = [line.rstrip() for line in file if not line.startswith("#")]
    except (OSError, UnicodeDecodeError):
        return False
    return "".join(lines) == _KNOWN_CUSTOM


def take_environment(variables: list[tuple[bytes, bytes]]) -> None:
    """Have these variables and no others, which the C library has already; and be the process that this is."""
    # A dictionary of bytes, and the one that `posix` has made at its start.
    held = os.environ._data  # type: ignore[attr-defined]
    held.clear()
    held.update(variables)
    watches.renew()
    # CPython notes it once, where the thread is made.
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]
