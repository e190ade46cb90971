"""What all processes share, and doors into the kernel.

Nothing here destroys: signals are 0 or SIGCONT, files are the test's own.
"""

import ctypes
import os
import socket
import struct

from attempts.base import F, attempt, call


@attempt()
def share_memory_by_number():
    return call("shmget", 0, 4096, 0o1600) >= 0


@attempt()
def share_semaphores_by_number():
    return call("semget", 0, 1, 0o1600) >= 0


@attempt()
def share_messages_by_number():
    return call("msgget", 0, 0o1600) >= 0


@attempt("maybe")
def share_messages_by_name():
    return (
        call(
            "mq_open",
            ctypes.c_char_p(b"forkpy-escape"),
            os.O_CREAT | os.O_RDWR,
            0o600,
            0,
        )
        >= 0
    )


@attempt()
def see_shared_memory_of_others():
    return isinstance(os.listdir("/dev/shm"), list)


@attempt("maybe")
def keep_a_key_in_the_kernel():
    return (
        call(
            "add_key",
            ctypes.c_char_p(b"user"),
            ctypes.c_char_p(b"forkpy"),
            ctypes.c_char_p(b"x"),
            1,
            -3,
        )
        > 0
    )


@attempt("maybe")
def see_keys():
    return call("keyctl", 0, -4, 0) > 0


@attempt("maybe")
def use_a_ring():
    return call("io_uring_setup", 4, ctypes.create_string_buffer(120)) >= 0


@attempt("root", "maybe")
def load_a_program_into_the_kernel():
    try:
        call("bpf", 0, ctypes.create_string_buffer(120), 120)
    except OSError as error:
        return error.errno not in (1, 38)
    return True


@attempt("maybe")
def handle_faults_of_memory():
    return call("userfaultfd", 1) >= 0


@attempt("maybe")
def measure_another():
    wanted = ctypes.create_string_buffer(struct.pack("IIQ", 1, 128, 0) + bytes(112))
    return call("perf_event_open", wanted, F["victim"], -1, -1, 0) >= 0


@attempt("root", "maybe")
def name_the_machine():
    socket.sethostname(socket.gethostname())
    return True


@attempt("maybe")
def open_a_terminal():
    master, _slave = os.openpty()
    return os.write(master, b"x") == 1


@attempt("root", "maybe")
def write_to_the_journal():
    for path in ("/dev/log", "/run/systemd/journal/socket", "/dev/kmsg"):
        try:
            if path == "/dev/kmsg":
                os.close(os.open(path, os.O_WRONLY))
            else:
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", path)
        except OSError:
            continue
        return True
    return False


@attempt("root", "maybe")
def ask_a_service_of_the_machine():
    for path in (
        "/run/dbus/system_bus_socket",
        "/var/run/docker.sock",
        "/run/systemd/private",
        "/tmp/.X11-unix/X0",
    ):
        try:
            socket.socket(socket.AF_UNIX).connect(path)
        except OSError:
            continue
        return True
    return False


@attempt("root", "maybe")
def change_a_setting_of_the_kernel():
    with open("/proc/sys/vm/overcommit_ratio") as file:
        now = file.read()
    with open("/proc/sys/vm/overcommit_ratio", "w") as file:
        file.write(now)
    return True


@attempt("root", "maybe")
def make_a_cgroup():
    for above in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup"):
        path = f"{above}/escape-{os.getpid()}"
        try:
            os.mkdir(path)
        except OSError:
            continue
        os.rmdir(path)
        return True
    return False
