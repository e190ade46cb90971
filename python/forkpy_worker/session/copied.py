"""A copy of a session is not its original.

It removes no file of the original's, and says nothing false of its processes.

Owns: whose a temporary file, a temporary folder and a child process is, once a session has been copied;
for that it replaces methods of `tempfile`, `subprocess` and `multiprocessing`, in copies only. May not
walk over all objects: what was made before the copy is known by having no mark.
Runs in: worker main thread (`remember`, before a checkpoint), worker just woken (`arrive`).
"""

from __future__ import annotations

import errno
import os
import sys
import time

from forkpy_worker.base import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Who made it: the name of a session for files, the number of a process for children.
_MARK = "_forkpy_made_by"

_SIGKILL = 9

# The session in which everything was made that has no mark.
_home: str | None = None
# Clock ticks since the machine's start, at the last checkpoint: a process that began later is a stranger.
_moment = 0
# The process whose checkpoint that was.
_worker = 0
# Children that were alive when this session went back or on: they ended with the worker that had them.
_ended_with_it: set[int] = set()
# Folders of sessions other than this one.
_foreign_folders: set[str] = set()
_done: set[str] = set()


def remember() -> None:
    """Note the moment of a checkpoint."""
    global _moment, _worker
    _worker = os.getpid()
    _moment = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def arrive(session_id: str) -> None:
    """Be a copy, in a session of this name; `place` still has the name of the one before."""
    global _home
    if _home is None:
        _home = place.session_id
    for module, adapt in _ADAPTED.items():
        if module in sys.modules and module not in _done:
            _done.add(module)
            adapt(sys.modules[module])
    if "tempfile" in sys.modules:
        _note_folders(session_id)
    if session_id == place.session_id and "subprocess" in sys.modules:
        _ended_with_it.update(pid for pid in _children(_worker) if _lives(pid))
    # Neither joined nor ended at exit: they are children of another process.
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process._children.clear()


def temporary_folders() -> list[str]:
    """Give the folders that `TemporaryDirectory` will remove."""
    return [str(info.args[0]) for info in _finalizers()]


def _finalizers() -> list[Any]:
    weakref, tempfile = sys.modules.get("weakref"), sys.modules.get("tempfile")
    if weakref is None or tempfile is None:
        return []
    cleanup = tempfile.TemporaryDirectory._cleanup.__func__
    return [
        info
        for info in list(weakref.finalize._registry.values())
        if getattr(info.func, "__func__", None) is cleanup and info.args
    ]


def _note_folders(session_id: str) -> None:
    """Tell the folders of other sessions from those of this one, which goes on from a copy of itself."""
    _foreign_folders.clear()
    for info in _finalizers():
        folder = str(info.args[0])
        if _made_in.get(folder, _home) != session_id:
            _foreign_folders.add(folder)


# Where folders were made that a copy made.
_made_in: dict[str, str] = {}


def _adapt_tempfile(tempfile: Any) -> None:
    closer = tempfile._TemporaryFileCloser
    _mark_new(closer, lambda: place.session_id)
    for name in ("close", "cleanup", "__del__"):
        if name in vars(closer):
            setattr(closer, name, _sparing(getattr(closer, name)))
    folder = tempfile.TemporaryDirectory
    init, remove = folder.__init__, folder._rmtree.__func__

    def make(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        _made_in[str(self.name)] = place.session_id

    def remove_own(cls: Any, name: Any, *args: Any, **options: Any) -> None:
        if str(name) not in _foreign_folders:
            remove(cls, name, *args, **options)

    folder.__init__ = make
    folder._rmtree = classmethod(remove_own)


def _sparing(method: Callable[..., Any]) -> Callable[..., Any]:
    def close(self: Any, *args: Any, **options: Any) -> Any:
        if getattr(self, _MARK, _home) != place.session_id:
            self.delete = False
        return method(self, *args, **options)

    return close


def _mark_new(kind: Any, mark: Callable[[], Any]) -> None:
    init = kind.__init__

    def make(self: Any, *args: Any, **options: Any) -> None:
        setattr(self, _MARK, mark())
        init(self, *args, **options)

    make.__doc__ = init.__doc__
    make.__wrapped__ = init  # type: ignore[attr-defined]
    kind.__init__ = make


def _adapt_subprocess(subprocess: Any) -> None:
    kind = subprocess.Popen
    _mark_new(kind, os.getpid)
    poll, wait, send = kind._internal_poll, kind._wait, kind.send_signal

    def poll_own(self: Any, _deadstate: Any = None, *args: Any, **options: Any) -> Any:
        # With a state for the dead it is the clean-up that asks, which no reply tells.
        if _deadstate is None and _is_foreign(self):
            return _poll_child(self)
        return poll(self, _deadstate, *args, **options)

    def wait_own(self: Any, timeout: float | None = None) -> Any:
        if not _is_foreign(self):
            return wait(self, timeout)
        if not _wait_foreign(self.pid, timeout):
            raise subprocess.TimeoutExpired(self.args, timeout)
        return _poll_child(self)

    def send_own(self: Any, sig: int) -> None:
        if not _is_foreign(self) or _lives(self.pid):
            send(self, sig)

    kind._internal_poll, kind._wait, kind.send_signal = poll_own, wait_own, send_own


def _adapt_multiprocessing(popen_fork: Any) -> None:
    kind = popen_fork.Popen
    _mark_new(kind, os.getpid)
    poll = kind.poll

    def poll_own(self: Any, *args: Any, **options: Any) -> Any:
        return _poll_foreign(self.pid) if _is_foreign(self) else poll(self, *args, **options)

    kind.poll = poll_own


def _is_foreign(child: Any) -> bool:
    """Whether it is another process' child, and how it ended is not known since before the copy."""
    return (
        getattr(child, "returncode", 0) is None
        and getattr(child, "pid", None) is not None
        and getattr(child, _MARK, None) != os.getpid()
    )


def _poll_child(child: Any) -> int | None:
    """Poll a `Popen` of another process."""
    if child.pid in _ended_with_it and not _lives(child.pid):
        child.returncode = -_SIGKILL
        return -_SIGKILL
    _poll_foreign(child.pid)
    return None


def _poll_foreign(pid: int) -> None:
    """None while it runs; no exit status is invented for one that does not."""
    if not _lives(pid):
        raise _unknown(pid)


def _unknown(pid: int) -> ChildProcessError:
    return ChildProcessError(
        errno.ECHILD,
        f"process {pid} was started by another process, before this session was copied or restored from it: it has "
        "ended, and its exit status is not known here",
    )


def _children(parent: int) -> list[int]:
    """List what a process has started that is still its child."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{parent}/task"):
            with open(f"/proc/{parent}/task/{thread}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    except (OSError, ValueError):
        # It has ended, or the system does not tell.
        pass
    return found


def _lives(pid: int) -> bool:
    """Whether it runs, and is not another one that has its number by now."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZXx" and int(fields[19]) <= _moment


def _wait_foreign(pid: int, timeout: float | None) -> bool:
    """Wait for its end; False when it did not come in time."""
    import select

    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return True
    try:
        if not _lives(pid):
            return True
        watch = select.poll()
        watch.register(descriptor, select.POLLIN)
        return bool(watch.poll(None if timeout is None else max(0, int(timeout * 1000) + 1)))
    finally:
        os.close(descriptor)


_ADAPTED: dict[str, Callable[[Any], None]] = {
    "tempfile": _adapt_tempfile,
    "subprocess": _adapt_subprocess,
    "multiprocessing.popen_fork": _adapt_multiprocessing,
}
