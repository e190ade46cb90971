"""What every attempt needs: facts about the world outside, system calls by number, and the list of attempts.

Runs in: a session under test (and, for its proof, in one that is not confined).
"""

import ctypes
import os

F = {}
ATTEMPTS = {}
libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
# x86_64, aarch64
CALLS = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "io_uring_setup": (425, 425), "bpf": (321, 280), "userfaultfd": (323, 282),
    "perf_event_open": (298, 241), "add_key": (248, 217), "keyctl": (250, 219), "unshare": (272, 97),
    "setns": (308, 268), "clone": (56, 220), "clone3": (435, 435), "mount": (165, 40), "chroot": (161, 51),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "rt_sigqueueinfo": (129, 138),
    "tgkill": (234, 131), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "mq_open": (240, 180),
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "fsopen": (430, 430), "open_tree": (428, 428),
    "process_madvise": (440, 440), "tkill": (200, 130), "fanotify_init": (300, 262), "linkat": (265, 37),
    "fchmodat2": (452, 452), "fchownat": (260, 54), "move_pages": (279, 239), "ioprio_set": (251, 30),
    "quotactl_fd": (443, 443),
}  # fmt: skip


def attempt(*marks):
    """Note an attempt. Marks: root (an ordinary user cannot anyway), maybe (not every machine lets it happen)."""

    def note(function):
        ATTEMPTS[function.__name__] = (function, marks)
        return function

    return note


def call(name, *args):
    number = CALLS[name][0 if X86 else 1]
    wide = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    result = libc.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def out(name):
    return os.path.join(F["outside"], name)


def read(path):
    with open(path) as file:
        return file.read() == "treasure"
