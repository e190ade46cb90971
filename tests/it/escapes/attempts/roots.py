"""Roots, mounts and namespaces.

Nothing here destroys: signals are 0 or SIGCONT, files are the test's own.
"""

import ctypes
import os
import signal
import struct

from attempts.base import F, attempt, call, libc


@attempt("root")
def change_the_root():
    call("chroot", ctypes.c_char_p(F["outside"].encode()))
    return True


@attempt("root", "maybe")
def mount_something():
    os.mkdir("mounted")
    place = ctypes.c_char_p(os.path.abspath("mounted").encode())
    call("mount", ctypes.c_char_p(b"none"), place, ctypes.c_char_p(b"tmpfs"), 0, 0)
    libc.umount2(place, 2)
    return True


@attempt("root", "maybe")
def open_a_file_system():
    return call("fsopen", ctypes.c_char_p(b"tmpfs"), 0) >= 0


@attempt("maybe")
def copy_a_mount():
    call("unshare", 0x10000000 | 0x00020000)
    return call("open_tree", -100, ctypes.c_char_p(b"/"), 1) >= 0


@attempt("maybe")
def make_a_user_namespace():
    call("unshare", 0x10000000)
    return True


@attempt("maybe")
def make_a_child_in_a_user_namespace():
    if call("clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os._exit(0)
    return True


@attempt("maybe")
def make_a_child_in_a_user_namespace_the_new_way():
    wanted = ctypes.create_string_buffer(
        struct.pack("QQQQQQQQ", 0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    )
    if call("clone3", wanted, 64) == 0:
        os._exit(0)
    return True


@attempt("root", "maybe")
def make_a_mount_namespace():
    call("unshare", 0x00020000)
    return True


@attempt("root", "maybe")
def join_the_servers_namespace():
    call("setns", os.open(f"/proc/{F['server']}/ns/uts", os.O_RDONLY), 0)
    return True


@attempt("root", "maybe")
def watch_all_files():
    return call("fanotify_init", 0, 0) >= 0
