"""What Landlock does not keep: how a file is marked, and that it is used.

Nothing here destroys: the files are the test's own.
"""

import ctypes
import os

from attempts.base import F, attempt, call, libc, out


@attempt()
def change_a_mode():
    os.chmod(out("marked"), 0o640)
    return True


@attempt()
def change_a_mode_by_a_relative_path():
    os.chmod("../outside/marked", 0o640)
    return True


@attempt()
def change_a_mode_through_a_link():
    os.symlink(out("marked"), "to-mark")
    os.chmod("to-mark", 0o640)
    return True


@attempt()
def change_a_mode_through_a_linked_directory():
    os.symlink(F["outside"], "folder-to-mark")
    os.chmod("folder-to-mark/marked", 0o640)
    return True


@attempt()
def change_a_mode_from_a_handle_on_the_root():
    root = os.open("/", os.O_PATH)
    os.chmod(out("marked").lstrip("/"), 0o640, dir_fd=root)
    return True


@attempt()
def change_a_mode_by_a_handle_on_the_file():
    handle = os.open(out("marked"), os.O_PATH)
    os.chmod(f"/proc/self/fd/{handle}", 0o640)
    return True


@attempt()
def change_the_mode_of_a_directory():
    os.chmod(F["outside"], 0o755)
    return True


@attempt("maybe")
def change_a_mode_the_newest_way():
    call("fchmodat2", -100, ctypes.c_char_p(out("marked").encode()), 0o640, 0)
    return True


@attempt("maybe")
def change_a_mode_by_an_empty_path():
    handle = os.open(out("marked"), os.O_PATH)
    call("fchmodat2", handle, ctypes.c_char_p(b""), 0o640, 0x1000)
    return True


@attempt()
def change_an_owner():
    os.chown(out("marked"), os.getuid(), os.getgid())
    return True


@attempt()
def change_the_owner_of_a_link():
    os.lchown(out("marked"), os.getuid(), os.getgid())
    return True


@attempt()
def change_an_owner_by_a_handle():
    handle = os.open(out("marked"), os.O_PATH)
    call(
        "fchownat",
        handle,
        ctypes.c_char_p(b""),
        os.getuid(),
        os.getgid(),
        0x1000,
    )
    return True


@attempt()
def change_times():
    os.utime(out("marked"), (1, 1))
    return True


@attempt()
def change_times_to_now():
    os.utime(out("marked"))
    return True


@attempt()
def change_times_by_a_handle_on_the_directory():
    folder = os.open(F["outside"], os.O_PATH)
    os.utime("marked", (1, 1), dir_fd=folder)
    return True


@attempt("maybe")
def give_an_attribute():
    os.setxattr(out("marked"), "user.forkpy", b"x")
    return True


@attempt("maybe")
def give_an_attribute_through_a_link():
    os.symlink(out("marked"), "to-attribute")
    os.setxattr("to-attribute", "user.forkpy", b"x")
    return True


@attempt("maybe")
def take_an_attribute_away():
    try:
        os.removexattr(out("marked"), "user.none")
    except OSError as error:
        return error.errno == 61
    return True


@attempt()
def watch_a_directory():
    watch = libc.inotify_init1(0)
    if libc.inotify_add_watch(watch, F["outside"].encode(), 0x100) < 0:
        raise OSError(ctypes.get_errno(), "inotify_add_watch")
    return True


@attempt()
def watch_the_home_directory():
    watch = libc.inotify_init1(0)
    if libc.inotify_add_watch(watch, F["home"].encode(), 0x100) < 0:
        raise OSError(ctypes.get_errno(), "inotify_add_watch")
    return True
