"""What a sandbox means for Python: what it needs of the disk, and where its files go.

Owns: the list of paths that the interpreter and its environment are made of, and the variables that
lead libraries into the session's own folder instead of the home directory that they cannot reach.
May not confine anything: Rust does, with the kernel.
Runs in: zygote (`needed`, once), worker and script main thread (`begin`, once after the fork).
"""

from __future__ import annotations

import os
import sys

from forkpy_worker.base import place
from forkpy_worker.session import startup

# Below a prefix; the prefix itself may be a home directory.
_PARTS = ("bin", "lib", "lib64", "include", "share", "etc", "pyvenv.cfg", "conda-meta")
# Of an environment, for files of packages that are no modules.
_DATA = ("etc", "include", "share")
_LOCK_OF_UV = ".lock"
# These lead to the home directory, or to what is all users'.
_LEADING_OUT = (
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "TEMP",
    "TMP",
)
# Sockets of services that would act for the session outside of its sandbox.
_SERVICES = (
    "DBUS_SESSION_BUS_ADDRESS",
    "SSH_AUTH_SOCK",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "DOCKER_HOST",
)
# The proxy, in both cases: programs read the one or the other. What the server's user has set may
# hold a password.
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_NO_PROXY = "NO_PROXY"


def needed() -> tuple[list[str], list[str]]:
    """Tell what must be readable, and which programs are Python."""
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    folders = {os.path.join(prefix, part) for prefix in prefixes for part in _PARTS}
    searched = (entry for entry in sys.path if not startup.is_named(entry))
    folders.update(entry for entry in searched if os.path.isabs(entry) and entry != "/")
    folders.update(_mapped())
    for name in (
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "MPLCONFIGDIR",
    ):
        named = os.environ.get(name, "")
        if os.path.isabs(named) and named != "/":
            folders.add(named)
    base = getattr(sys, "_base_executable", None)
    programs = {os.path.realpath(name) for name in (sys.executable, base) if name}
    # What installs packages can make these lead anywhere.
    above = [os.path.join(os.path.realpath(prefix), "") for prefix in prefixes if prefix != "/"]
    programs = {path for path in programs if path.startswith(tuple(above))}
    return sorted(filter(os.path.exists, folders)), sorted(filter(os.path.exists, programs))


def environment() -> list[str]:
    """Tell where packages of the environment are installed to.

    Not what is above: that says where Python and its library are, and the zygote believes it.
    """
    import contextlib
    import sysconfig

    places = {sysconfig.get_path(name) for name in ("purelib", "platlib", "scripts")}
    if sys.prefix != sys.base_prefix:
        places.update(os.path.join(sys.prefix, name) for name in _DATA)
        for place in places:
            with contextlib.suppress(OSError):
                os.makedirs(place, exist_ok=True)
        lock = os.path.join(sys.prefix, _LOCK_OF_UV)
        with contextlib.suppress(OSError), open(lock, "a"):
            places.add(lock)
    return sorted(places)


def _mapped() -> set[str]:
    """Libraries that are loaded: they may lie anywhere, and a child of the session loads them again."""
    try:
        with open("/proc/self/maps") as maps:
            lines = maps.read().splitlines()
    except OSError:
        return set()
    paths = {line.split(maxsplit=5)[-1] for line in lines if "/" in line}
    return {
        path for path in paths if path.startswith("/") and not path.startswith(("/dev/", "/memfd:"))
    }


def begin(
    mode: str,
    workspace: str,
    room: str,
    writable: list[str],
    proxy: str | None,
    secrets: dict[str, str | None],
) -> None:
    """Lead libraries into the session's own folder, and to the server's proxy."""
    _set(secrets)
    _set(_proxies(proxy))
    temporary, home = os.path.join(room, "tmp"), os.path.join(room, "home")
    for name in (*_LEADING_OUT, *_SERVICES):
        os.environ.pop(name, None)
    os.environ["TMPDIR"] = temporary
    os.environ["HOME"] = home
    os.environ.setdefault("JOBLIB_TEMP_FOLDER", temporary)
    if mode == "strict":
        # polars asks the processor by code that it writes, which is refused there.
        os.environ.setdefault("POLARS_SKIP_CPU_CHECK", "1")
    tempfile = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile.tempdir = None  # type: ignore[attr-defined]
    place.sandbox = place.Sandbox(mode, [workspace, temporary, home, *writable], proxy)
    startup.run()


def _proxies(proxy: str | None) -> dict[str, str | None]:
    """Name the proxy and nothing that is reached without it, not even this machine."""
    address = None if proxy is None else f"http://{proxy}"
    named: dict[str, str | None] = dict.fromkeys(_PROXIES, address)
    named[_NO_PROXY] = None if proxy is None else ""
    return {spelled: value for name, value in named.items() for spelled in (name, name.lower())}


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
