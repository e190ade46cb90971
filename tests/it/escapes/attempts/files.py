"""Files outside: read, written, named, removed.

Nothing here destroys: signals are 0 or SIGCONT, files are the test's own.
"""

import contextlib
import ctypes
import mmap
import os
import socket
import sqlite3
import struct
import subprocess
import sys
import sysconfig

from attempts.base import F, attempt, call, out, read


@attempt()
def read_a_file():
    return read(out("secret"))


@attempt()
def list_a_directory():
    return "secret" in os.listdir(F["outside"])


@attempt()
def scan_a_directory():
    return any(entry.name == "secret" for entry in os.scandir(F["outside"]))


@attempt()
def write_a_file():
    with open(out("new"), "w") as file:
        file.write("x")
    return True


@attempt()
def append_to_a_file():
    with open(out("victim"), "a") as file:
        file.write("x")
    return True


@attempt()
def empty_a_file():
    os.truncate(out("full"), 0)
    return True


@attempt()
def remove_a_file():
    os.unlink(out("to-remove"))
    return True


@attempt()
def fetch_a_file_by_renaming_it():
    os.rename(out("to-fetch"), "fetched")
    return read("fetched")


@attempt()
def put_a_file_out_by_renaming_it():
    with open("mine", "w") as file:
        file.write("x")
    os.rename("mine", out("put"))
    return True


@attempt()
def read_through_a_symbolic_link():
    os.symlink(out("secret"), "link")
    return read("link")


@attempt()
def write_through_a_symbolic_link():
    os.symlink(out("through"), "link-to-write")
    with open("link-to-write", "w") as file:
        file.write("x")
    return True


@attempt()
def list_through_a_linked_directory():
    os.symlink(F["outside"], "folder")
    return "secret" in os.listdir("folder")


@attempt()
def read_through_a_chain_of_links():
    os.symlink("chain-2", "chain-1")
    os.symlink(out("secret"), "chain-2")
    return read("chain-1")


@attempt()
def read_through_a_hard_link():
    os.link(out("secret"), "hard")
    return read("hard")


@attempt()
def put_a_hard_link_out():
    with open("own", "w") as file:
        file.write("x")
    os.link("own", out("linked"))
    return True


@attempt()
def read_through_proc_self_root():
    return read("/proc/self/root" + out("secret"))


@attempt()
def read_through_proc_self_cwd():
    return read("/proc/self/cwd/../outside/secret")


@attempt()
def read_through_proc_thread_self_root():
    return read("/proc/thread-self/root" + out("secret"))


@attempt()
def read_by_a_relative_path():
    return read("../outside/secret")


@attempt()
def read_from_a_handle_on_the_root():
    root = os.open("/", os.O_PATH)
    file = os.open(out("secret").lstrip("/"), os.O_RDONLY, dir_fd=root)
    return os.read(file, 99) == b"treasure"


@attempt()
def read_after_a_change_of_directory():
    os.chdir(F["outside"])
    return read("secret")


@attempt()
def open_again_what_was_opened_by_path():
    handle = os.open(out("secret"), os.O_PATH)
    return read(f"/proc/self/fd/{handle}")


@attempt()
def map_a_file_into_memory():
    file = os.open(out("secret"), os.O_RDONLY)
    return mmap.mmap(file, 8, prot=mmap.PROT_READ)[:8] == b"treasure"


@attempt()
def make_a_directory():
    os.mkdir(out("made"))
    return True


@attempt()
def remove_a_directory():
    os.rmdir(out("empty"))
    return True


@attempt()
def make_a_pipe():
    os.mkfifo(out("pipe"))
    return True


@attempt()
def make_a_link():
    os.symlink("secret", out("made-link"))
    return True


@attempt()
def make_a_database():
    sqlite3.connect(out("database")).execute("create table a(b)")
    return True


@attempt()
def have_a_program_read():
    return (
        subprocess.run(["cat", out("secret")], capture_output=True, check=False).stdout
        == b"treasure"
    )


@attempt()
def have_a_shell_write():
    return (
        subprocess.run(
            ["sh", "-c", f"echo x > {out('by-shell')}"],
            capture_output=True,
            check=False,
        ).returncode
        == 0
    )


@attempt()
def have_python_read():
    code = f"print(open({out('secret')!r}).read())"
    return (
        b"treasure"
        in subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=False
        ).stdout
    )


@attempt()
def preload_a_library_into_a_child():
    environment = {**os.environ, "LD_PRELOAD": "libc.so.6"}
    return (
        subprocess.run(
            ["cat", out("secret")], env=environment, capture_output=True, check=False
        ).stdout
        == b"treasure"
    )


@attempt()
def have_a_daemon_read():
    code = f"setsid sh -c 'cat {out('secret')} > got' </dev/null >/dev/null 2>&1"
    subprocess.run(["sh", "-c", code], check=False)
    return read("got")


@attempt()
def add_to_the_shells_profile():
    with open(os.path.join(F["home"], ".profile"), "a") as file:
        file.write("# x\n")
    return True


@attempt()
def add_a_key_for_ssh():
    os.makedirs(os.path.join(F["home"], ".ssh"), exist_ok=True)
    with open(os.path.join(F["home"], ".ssh/authorized_keys"), "a") as file:
        file.write("x\n")
    return True


@attempt()
def read_the_home_directory():
    return "outside" in os.listdir(F["home"])


@attempt("root")
def add_to_the_environment():
    path = os.path.join(
        sysconfig.get_path("purelib"), f"forkpy-escape-{os.getpid()}.tmp"
    )
    with open(path, "w") as file:
        file.write("")
    os.unlink(path)
    return True


@attempt("root")
def add_a_pth_file():
    path = os.path.join(
        sysconfig.get_path("purelib"), f"forkpy-escape-{os.getpid()}.pth"
    )
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    os.unlink(path)
    return True


@attempt("root")
def add_a_timed_job():
    path = f"/etc/forkpy-escape-{os.getpid()}"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    os.unlink(path)
    return True


@attempt("root")
def read_the_passwords():
    with open("/etc/shadow") as file:
        return file.read() != ""


@attempt("root", "maybe")
def change_the_core_pattern():
    os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))
    return True


@attempt("root", "maybe")
def make_a_device():
    os.mknod("memory", 0o600 | 0o020000, os.makedev(1, 3))
    return True


@attempt("root", "maybe")
def open_a_file_by_its_number():
    handle = ctypes.create_string_buffer(struct.pack("II", 128, 0) + bytes(128))
    number = ctypes.c_int()
    call(
        "name_to_handle_at",
        -100,
        ctypes.c_char_p(out("secret").encode()),
        handle,
        ctypes.byref(number),
        0,
    )
    mount = os.open(F["outside"], os.O_PATH)
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    file = -1
    for near in (root, mount):
        try:
            file = call("open_by_handle_at", near, handle, os.O_RDONLY)
            break
        except OSError:
            continue
    return os.read(file, 99) == b"treasure"


@attempt()
def read_anothers_scratch():
    with open(os.path.join(F["scratch"], "own")) as file:
        return file.read() == "treasure"


@attempt()
def write_anothers_scratch():
    with open(os.path.join(F["scratch"], "new"), "w") as file:
        file.write("x")
    return True


@attempt()
def have_a_program_spawned_read():
    heard, told = os.pipe()
    os.posix_spawn(
        "/bin/cat",
        ["cat", out("secret")],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, told, 1)],
    )
    os.close(told)
    return os.read(heard, 99) == b"treasure"


@attempt()
def get_a_descriptor_from_a_program():
    # What opens it has to be able to.
    one, other = socket.socketpair(socket.AF_UNIX)
    code = (
        "import os, socket, sys\n"
        "link = socket.socket(fileno=int(sys.argv[1]))\n"
        "socket.send_fds(link, [b'x'], [os.open(sys.argv[2], os.O_RDONLY)])"
    )
    command = [sys.executable, "-c", code, str(other.fileno()), out("secret")]
    subprocess.run(command, pass_fds=[other.fileno()], capture_output=True, check=False)
    other.close()
    _data, descriptors, _flags, _address = socket.recv_fds(one, 1, 1)
    return os.read(descriptors[0], 99) == b"treasure"


@attempt()
def find_a_descriptor_that_was_left_open():
    # Of the server, the zygote or another session; the proof opens one itself.
    with contextlib.suppress(OSError):
        os.dup2(os.open(out("secret"), os.O_RDONLY), 200)
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            if os.pread(number, 99, 0) == b"treasure":
                return True
        except OSError:
            continue
    return False
