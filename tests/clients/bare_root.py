"""A root directory with libc's family and nothing else, and how to start a program in it as an ordinary user.

FORKPY_OLD_LIBRARIES names a folder with an older system's C library, to be used instead of this machine's.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

# What `ldd` of a bundle may name.
LIBC_FAMILY = ("ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libgcc_s.so.1")
# Empty today, for programs of before glibc 2.34: wheels name them.
OLD_NAMES = ("libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1")
USER = 12345

# Mounts go with the namespace. The program's own arguments follow.
ENTER = """
set -e
root=$1 user=$2
shift 2
mount -t proc proc "$root/proc"
for device in null zero random urandom; do mount --bind "/dev/$device" "$root/dev/$device"; done
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
exec chroot --userspec="$user:$user" "$root" "$@"
"""


def can_be_made() -> bool:
    """Mounting takes root."""
    return os.geteuid() == 0


def make(root: Path, program: Path) -> None:
    """Lay the root out, the program as /forkpy in it."""
    for name in ("proc", "dev/shm", "tmp", "home/user", "work", "lib64"):
        (root / name).mkdir(parents=True)
    for device in ("null", "zero", "random", "urandom"):
        (root / "dev" / device).touch()
    old = os.environ.get("FORKPY_OLD_LIBRARIES")
    places = (Path(old),) if old else (Path("/lib/x86_64-linux-gnu"), Path("/lib64"), Path("/usr/lib64"))
    for library in (*LIBC_FAMILY, *OLD_NAMES):
        found = next(place / library for place in places if (place / library).exists())
        shutil.copy(found, root / "lib64" / library)
    # Older programs look for what is part of libc.so.6 today.
    (root / "lib").symlink_to("lib64")
    shutil.copy(program, root / "forkpy")
    (root / "tmp").chmod(0o1777)
    os.chown(root / "work", USER, USER)
    (root / "home/user").chmod(0o555)
    assert not any(root.rglob("*python*"))


def command(root: Path, *arguments: str) -> list[str]:
    """How to start it there."""
    inside = ["/forkpy", *arguments]
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER, "sh", str(root), str(USER), *inside]


ENVIRONMENT = {"HOME": "/home/user", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
