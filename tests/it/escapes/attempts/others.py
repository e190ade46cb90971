"""Other processes: signalled, read, traced, slowed down.

Nothing here destroys: signals are 0 or SIGCONT, files are the test's own.
"""

import ctypes
import os
import resource
import signal
import struct

from attempts.base import F, attempt, call, out, read


def _signals(pid):
    os.kill(pid, signal.SIGCONT)
    return True


@attempt()
def signal_the_server():
    return _signals(F["server"])


@attempt()
def signal_the_zygote():
    return _signals(F["zygote"])


@attempt()
def signal_another_session():
    return _signals(F["victim"])


@attempt()
def signal_anothers_group():
    os.killpg(os.getpgid(F["victim"]), signal.SIGCONT)
    return True


@attempt()
def signal_by_a_handle():
    signal.pidfd_send_signal(os.pidfd_open(F["victim"]), signal.SIGCONT)
    return True


@attempt()
def signal_a_thread():
    call("tgkill", F["victim"], F["victim"], signal.SIGCONT)
    return True


@attempt()
def signal_a_thread_the_old_way():
    call("tkill", F["victim"], signal.SIGCONT)
    return True


@attempt()
def signal_with_a_message():
    info = ctypes.create_string_buffer(
        struct.pack("iii", signal.SIGCONT, 0, -1) + bytes(116)
    )
    call("rt_sigqueueinfo", F["victim"], signal.SIGCONT, info)
    return True


def _opens(path, flags=os.O_RDONLY):
    os.close(os.open(path, flags))
    return True


@attempt("root")
def read_the_servers_environment():
    with open(f"/proc/{F['server']}/environ") as file:
        return file.read() != ""


@attempt("root")
def read_the_servers_memory():
    return _opens(f"/proc/{F['server']}/mem")


@attempt()
def read_anothers_environment():
    with open(f"/proc/{F['victim']}/environ") as file:
        return file.read() != ""


@attempt()
def read_anothers_memory():
    return _opens(f"/proc/{F['victim']}/mem")


@attempt()
def write_anothers_memory():
    return _opens(f"/proc/{F['victim']}/mem", os.O_RDWR)


@attempt()
def see_anothers_mappings():
    with open(f"/proc/{F['victim']}/maps") as file:
        return file.read() != ""


@attempt()
def forge_anothers_output():
    return _opens(f"/proc/{F['victim']}/fd/1", os.O_WRONLY)


@attempt()
def see_anothers_descriptors():
    return bool(os.readlink(f"/proc/{F['victim']}/fd/1"))


@attempt()
def read_through_anothers_root():
    return read(f"/proc/{F['victim']}/root" + out("secret"))


@attempt()
def read_through_anothers_directory():
    return read(f"/proc/{F['victim']}/cwd/../outside/secret")


@attempt()
def copy_anothers_memory():
    try:
        call("process_vm_readv", F["victim"], 0, 0, 0, 0, 0)
    except OSError as error:
        return error.errno not in (1, 3, 13)
    return True


@attempt()
def change_anothers_memory():
    try:
        call("process_vm_writev", F["victim"], 0, 0, 0, 0, 0)
    except OSError as error:
        return error.errno not in (1, 3, 13)
    return True


@attempt("maybe")
def trace_another():
    call("ptrace", 0x4206, F["victim"], 0, 0)
    return True


@attempt("root", "maybe")
def trace_the_server():
    call("ptrace", 0x4206, F["server"], 0, 0)
    return True


@attempt()
def trace_an_own_child():
    # What it writes there reaches nobody else; the call is refused all the same.
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        return call("ptrace", 0x4206, child, 0, 0) == 0
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@attempt("maybe")
def take_a_descriptor():
    return call("pidfd_getfd", os.pidfd_open(F["victim"]), 1, 0) >= 0


@attempt()
def change_anothers_limits():
    now = resource.prlimit(F["victim"], resource.RLIMIT_CORE)
    resource.prlimit(F["victim"], resource.RLIMIT_CORE, now)
    return True


@attempt()
def change_anothers_priority():
    os.setpriority(
        os.PRIO_PROCESS, F["victim"], os.getpriority(os.PRIO_PROCESS, F["victim"])
    )
    return True


@attempt("maybe")
def compare_with_another():
    return call("kcmp", F["victim"], F["victim"], 0, 1, 1) >= 0


@attempt("maybe")
def change_the_servers_limits():
    now = resource.prlimit(F["server"], resource.RLIMIT_CORE)
    resource.prlimit(F["server"], resource.RLIMIT_CORE, now)
    return True


@attempt("root", "maybe")
def see_where_anothers_memory_is():
    page = ctypes.c_void_p(0)
    status = ctypes.c_int()
    call(
        "move_pages", F["victim"], 1, ctypes.byref(page), None, ctypes.byref(status), 0
    )
    return True


@attempt("maybe")
def advise_on_anothers_memory():
    try:
        call("process_madvise", os.pidfd_open(F["victim"]), 0, 0, 20, 0)
    except OSError as error:
        return error.errno not in (1, 3, 13)
    return True


@attempt("maybe")
def see_anothers_wait():
    with open(f"/proc/{F['victim']}/syscall") as file:
        return file.read() != ""


@attempt("maybe")
def spare_another_from_the_want_of_memory():
    with open(f"/proc/{F['victim']}/oom_score_adj", "w") as file:
        file.write("900")
    return True
