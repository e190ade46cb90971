"""A session that may start no more processes or threads, and says why.

Owns: telling the session's own limit, which the kernel keeps in a cgroup, from other reasons for the
same error. Reads what the kernel tells of the own cgroup.
Runs in: worker, after a cell that raised.
"""

from __future__ import annotations

import errno
import sys

# What `threading` says when the system refuses a thread.
_NO_THREAD = "can't start new thread"
# As the server calls the groups of sessions.
_OURS = "forkpy-"
# So near its bound the next one may be refused: the one that was refused is gone again.
_NEAR = 2
# Refusals of a group that were there at the last look.
_seen: dict[str, int] = {}


def hint(exception: BaseException) -> str | None:
    """Name the limit, where it is the reason."""
    if isinstance(exception, OSError):
        if exception.errno != errno.EAGAIN:
            return None
    elif exception.args != (_NO_THREAD,):
        return None
    folder = _group()
    if folder is None:
        return None
    count, bound = _number(folder, "pids.current"), _number(folder, "pids.max")
    # The bound may have been laid anew since, to what there is now: then the kernel's count of its refusals tells.
    if not _refused(folder) and count + _NEAR < bound:
        return None
    return (
        f"the session has {count} processes and threads, and its limit of processes (--processes-limit, "
        "`limits.processes`) lets it start no more; end some: one that stays beyond its limit is ended"
    )


def _refused(folder: str) -> bool:
    """Whether the kernel has refused a process of this group since this was asked last."""
    try:
        with open(f"{folder}/pids.events") as file:
            count = next((int(line.split()[1]) for line in file if line.startswith("max ")), 0)
    except OSError:
        # Kernels before 4.4 do not count.
        return False
    before, _seen[folder] = _seen.get(folder, 0), count
    return count > before


def _group() -> str | None:
    """Find the session's own group: it counts processes and threads."""
    with open("/proc/self/cgroup") as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    # The first version has a line for each controller, the second one line without a name.
    for names in ("pids", ""):
        for line in lines:
            ours = line[2].rpartition("/")[2].startswith(_OURS)
            if ours and names in line[1].split(","):
                folder = _folder(names, line[2])
                if folder is not None:
                    return folder
    return None


def _folder(controller: str, path: str) -> str | None:
    """Find where that group is mounted."""
    kind = "cgroup" if controller else "cgroup2"
    with open("/proc/self/mountinfo") as file:
        for line in file:
            front, _, back = line.partition(" - ")
            fields, (mounted, _, options) = front.split(), back.split()[:3]
            if mounted == kind and (not controller or controller in options.split(",")):
                root, point = fields[3].rstrip("/"), fields[4]
                return point + path.removeprefix(root)
    return None


def _number(folder: str, name: str) -> int:
    with open(f"{folder}/{name}") as file:
        text = file.read().strip()
    return sys.maxsize if text == "max" else int(text)
