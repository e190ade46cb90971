"""What the sandbox has refused, and what would allow it.

Owns: telling a refusal of the sandbox from one of the system's, as far as Python's exception shows.
Runs in: worker, after a cell that raised, where the session is confined.
"""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from forkpy_worker.base.place import Sandbox

# What `pty` says when no terminal could be had.
_NO_TERMINAL = "out of pty devices"
_REFUSED = (errno.EPERM, errno.EACCES)
# Most links of a chain of exceptions that are looked at.
_DEEP = 12


def hint(exception: BaseException, sandbox: Sandbox) -> str | None:
    """Name the flag, where one of the exceptions behind this one is a refusal."""
    seen = 0
    link: BaseException | None = exception
    while link is not None and seen < _DEEP:
        found = _of(link, sandbox)
        if found is not None:
            return found
        link = link.__cause__ or link.__context__
        seen += 1
    return None


def _of(exception: BaseException, sandbox: Sandbox) -> str | None:
    if type(exception).__name__ == "gaierror":
        return _of_name(sandbox)
    if not isinstance(exception, OSError):
        return None
    if exception.args == (_NO_TERMINAL,):
        return (
            f"the sandbox ({sandbox.mode}) has no terminals; the server's options --allow-write /dev/ptmx "
            "--allow-write /dev/pts open those of its user"
        )
    if exception.errno == errno.EXDEV:
        return None
    if exception.errno not in _REFUSED:
        return None
    if exception.filename is None:
        network = "no network"
        if sandbox.proxy is not None:
            network += (
                f" but by the proxy http://{sandbox.proxy}, as HTTP_PROXY and HTTPS_PROXY say"
            )
        return (
            f"the sandbox ({sandbox.mode}) refuses this system call: a confined session has {network}, and reaches no "
            f"process but its own{_allowed_by(sandbox)}"
        )
    below = ", ".join(sandbox.writable)
    return (
        f"the sandbox ({sandbox.mode}) allows writing only below {below}, and reading only there and what Python "
        "needs; the server's options --allow-read PATH and --allow-write PATH allow more"
    )


def _of_name(sandbox: Sandbox) -> str:
    if sandbox.proxy is not None:
        return (
            f"in the sandbox ({sandbox.mode}) only the server's proxy looks up host names; let this library use "
            f"the proxy http://{sandbox.proxy}, as HTTP_PROXY and HTTPS_PROXY say"
        )
    return f"the sandbox ({sandbox.mode}) has no network, so no host name can be looked up{_allowed_by(sandbox)}"


def _allowed_by(sandbox: Sandbox) -> str:
    """Name the option for a network, where there is none and could be one."""
    if sandbox.mode == "strict" or sandbox.proxy is not None:
        return ""
    return "; the server's option --allow-net HOST allows some hosts"
