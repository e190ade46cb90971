"""A root directory of another machine, and how to start a program in it by qemu-user.

The kernel is told of qemu in a user namespace of its own (Linux 6.7 and newer): nothing on this machine changes.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

QEMU = "qemu-aarch64-static"
# An ELF file of 64 bits for aarch64; `F`: qemu is opened now, and need not be in the root.
KIND = (
    r":aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:"
)
ENTER = """
set -e
root=$1 kind=$2
shift 2
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
printf '%s' "$kind" >/proc/sys/fs/binfmt_misc/register
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
exec chroot "$root" "$@"
"""
ENVIRONMENT = {"HOME": "/home/user", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def reason_against() -> str | None:
    """Why no program of another machine runs here."""
    if shutil.which(QEMU) is None:
        return f"{QEMU} is not here (Debian: qemu-user-static)"
    words = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "binfmt_misc", "none"]
    tried = subprocess.run([*words, "/proc/sys/fs/binfmt_misc"], capture_output=True, text=True)
    return f"a user may not tell the kernel of qemu: {tried.stderr.strip()}" if tried.returncode else None


def make(root: Path, libraries: Path, program: Path) -> None:
    """Lay the root out: the other machine's C library, and the program as /forkpy."""
    shutil.copytree(libraries, root, symlinks=True)
    for name in ("proc", "dev", "tmp", "home/user", "work", "etc"):
        (root / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(program, root / "forkpy")


def command(root: Path, *arguments: str) -> list[str]:
    """How to start it there."""
    kind = KIND + str(shutil.which(QEMU)) + ":F"
    enter = ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "private", "sh", "-c", ENTER, "sh"]
    return [*enter, str(root), kind, *arguments]
