"""What the sandbox has refused, and what would allow it.

Owns: telling a refusal of the sandbox from one of the system's, as far as Python's exception shows.
Runs in: worker, after a cell that raised, where the session is confined.
"""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from forkpy_worker.base.place import Sandbox

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
        return f"the sandbox ({sandbox.mode}) has no network, so no host name can be looked up"
    if not isinstance(exception, OSError):
        return None
    if exception.errno == errno.EXDEV:
        return None
    if exception.errno not in _REFUSED:
        return None
    if exception.filename is None:
        return (
            f"the sandbox ({sandbox.mode}) refuses this system call: a confined session has no network, and reaches "
            "no process but its own"
        )
    below = ", ".join(sandbox.writable)
    return (
        f"the sandbox ({sandbox.mode}) allows writing only below {below}, and reading only there and what Python "
        "needs; the server's options --allow-read PATH and --allow-write PATH allow more"
    )
