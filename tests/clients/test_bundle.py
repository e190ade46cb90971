"""The single file of a bundle: where there is no Python, as a Python, and when its cache is not as it should be.

Environment: FORKPY_BUNDLE, the single file that `forkpy bundle` made. Without it, these tests are not run.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastmcp
import pytest
from fastmcp.client.transports import StdioTransport

import bare_root
import health_document as document

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastmcp import Client

BUNDLE = Path(os.environ.get("FORKPY_BUNDLE", "/nonexistent"))
needs_root = pytest.mark.skipif(not bare_root.can_be_made(), reason="NOT TESTED: a bare root takes root to be made")
pytestmark = pytest.mark.skipif(not BUNDLE.exists(), reason="NOT TESTED: FORKPY_BUNDLE names no bundle")

EVERYTHING = """
import ctypes, lzma, bz2, zlib, hashlib, uuid, decimal, sqlite3, ssl, subprocess, sys, multiprocessing
said = subprocess.run([sys.executable, '-c', 'print(6 * 7)'], capture_output=True, text=True).stdout.strip()
with multiprocessing.get_context('fork').Pool(2) as pool:
    squares = pool.map(abs, [-1, -2, 3])
data = sqlite3.connect(':memory:').execute('select sqlite_version() > 3').fetchone()[0]
[said, squares, data, len(ssl.create_default_context().get_ca_certs()) > 50, lzma.decompress(lzma.compress(b'x'))]
"""

PROCESSES = """
import multiprocessing, sys
def work(n):
    return n * n
if __name__ == '__main__':
    for way in ('fork', 'spawn', 'forkserver'):
        with multiprocessing.get_context(way).Pool(2) as pool:
            print(way, pool.map(work, [2, 3]))
"""


FLOCK = 73
# close_range, openat2, faccessat2, process_madvise, epoll_pwait2, Landlock's three, clone3, statx.
OF_NEWER_KERNELS = (436, 437, 439, 440, 441, 444, 445, 446, 435, 332)


def lacking(*calls: int, errno_of_it: int = errno.ENOSYS) -> Callable[[], object]:
    """For a process that is to be started: a filter by which these system calls fail, in it and all that it starts."""
    allow, fail = (0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050000 | errno_of_it)
    statements = [(0x20, 0, 0, 0)]
    for call in calls:
        statements += [(0x15, 0, 1, call), fail]
    code = b"".join(struct.pack("<HBBI", *statement) for statement in (*statements, allow))
    program = ctypes.create_string_buffer(code, len(code))
    table = ctypes.create_string_buffer(struct.pack("<H6xQ", len(code) // 8, ctypes.addressof(program)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def apply() -> None:
        # No new privileges; then the filter.
        if prctl(38, 1, 0, 0, 0) or prctl(22, 2, ctypes.c_void_p(ctypes.addressof(table)), 0, 0):
            raise OSError(ctypes.get_errno(), f"no filter with {len(program)} bytes")

    return apply


def another_version(single: Path) -> Path:
    """The same as another version would be: its launcher is longer, and so its hash is another."""
    content = BUNDLE.read_bytes()
    body, trailer = content[:-88], content[-88:]
    launcher, *lengths = struct.unpack("<6Q", trailer[8:56])
    body = body[:launcher] + b"another" + body[launcher:]
    trailer = trailer[:8] + struct.pack("<6Q", launcher + 7, *lengths) + hashlib.sha256(body).digest()
    single.write_bytes(body + trailer)
    single.chmod(0o755)
    return single


def run(*command: str | Path, cache: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(cache), "XDG_CACHE_HOME": str(cache)}
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env=environment, timeout=120, **options
    )


def client_in(root: Path, *options: str) -> Client:
    words = bare_root.command(root, "--workspace", "/work/workspace", *options)
    transport = StdioTransport(words[0], words[1:], env=bare_root.ENVIRONMENT, keep_alive=False)
    return fastmcp.Client(transport)


async def cell(client: Client, code: str) -> dict[str, Any]:
    reply = (await client.call_tool("run_python_code", {"code": code})).data
    assert reply["status"] == "ok", reply
    return reply


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that has been unpacked into."""
    place = tmp_path_factory.mktemp("cache")
    assert run(BUNDLE, "--version", cache=place).returncode == 0
    return place


def unpacked(cache: Path) -> Path:
    """The directory, when what comes behind the first start is there too."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        found = list((cache / "forkpy").glob("*/lib/COMPLETE"))
        if found:
            return found[0].parents[1]
        time.sleep(0.05)
    raise AssertionError(f"not all of it came: {list((cache / 'forkpy').iterdir())}")


# -- where there is no Python


@needs_root
async def test_the_health_document_where_there_is_nothing_but_libc(tmp_path: Path) -> None:
    bare_root.make(tmp_path / "root", BUNDLE)
    lines: list[str] = []
    async with client_in(tmp_path / "root") as client:
        reply = await cell(client, EVERYTHING)
        assert reply["results"] == ["['42', [1, 2, 3], 1, True, b'x']"]
        await document.show_metrics(client, lines.append)
        await document.show_responsiveness(client, lines.append)
        assert await document.smart_recovery(client, lines.append) == "healthy"
        await client.call_tool("run_python_code", {"code": "import os; os._exit(1)"}, raise_on_error=False)
        assert await document.progressive_recovery(client, say=lines.append, metric=document.or_zero) is True
        await document.optimize_memory_usage(client, lines.append)
        report = await document.monitor_all_sessions(client, lines.append, metric=document.or_zero)
        assert report
        completed = (
            await client.call_tool("code_completion", {"code": "import json; json.dum", "cursor_pos": 21})
        ).data
        assert "dumps" in completed["matches"], completed
        reply = await cell(client, "import os, sys; (os.getuid(), sys.executable)")
        assert reply["results"][0].startswith(f"({bare_root.USER}, '/tmp/forkpy-{bare_root.USER}/"), reply


@needs_root
async def test_packages_that_were_put_in(tmp_path: Path, cache: Path) -> None:
    made = run(BUNDLE, "bundle", "--with", "numpy,pandas", "--level", "3", "--output", tmp_path / "dist", cache=cache)
    assert made.returncode == 0, made.stderr
    single = tmp_path / "dist" / BUNDLE.name
    bare_root.make(tmp_path / "root", single)
    async with client_in(tmp_path / "root", "--preload", "numpy,pandas") as client:
        reply = await cell(client, "import numpy as np, pandas as pd; int(pd.DataFrame({'a': np.arange(5)}).a.sum())")
        assert reply["results"] == ["10"]
    shutil.rmtree(tmp_path / "dist")


def test_it_needs_libc_and_no_more(cache: Path) -> None:
    said = subprocess.run(["ldd", unpacked(cache) / "bin/forkpy"], capture_output=True, text=True, check=True).stdout
    needed = {Path(line.split()[0]).name for line in said.splitlines()} - {"linux-vdso.so.1"}
    # For an older system also by the names that libc had before glibc 2.34.
    assert "libc.so.6" in needed
    assert needed <= {*bare_root.LIBC_FAMILY, *bare_root.OLD_NAMES}


# -- as a Python


def test_it_is_a_python(tmp_path: Path, cache: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PROCESSES)
    ran = run(BUNDLE, "python", script, cache=cache)
    assert ran.stdout.split("\n")[:3] == ["fork [4, 9]", "spawn [4, 9]", "forkserver [4, 9]"], ran
    named = tmp_path / "python3"
    named.symlink_to(BUNDLE)
    assert run(named, "-c", "import sys; print(sys.argv)", "a b", cache=cache).stdout == "['-c', 'a b']\n"
    assert run(BUNDLE, "python", "-c", "raise SystemExit(7)", cache=cache).returncode == 7


def test_virtual_environments_are_made_and_used(tmp_path: Path, cache: Path) -> None:
    made = run(BUNDLE, "python", "-m", "venv", tmp_path / "venv", cache=cache)
    assert made.returncode == 0, made.stderr
    python = tmp_path / "venv/bin/python"
    installed = run(python, "-m", "pip", "install", "--quiet", "joblib==1.6.0", cache=cache)
    assert installed.returncode == 0, installed.stderr
    code = "import joblib, sys; print(joblib.Parallel(2)(joblib.delayed(abs)(-n) for n in range(3)), sys.prefix)"
    assert run(python, "-c", code, cache=cache).stdout == f"[0, 1, 2] {tmp_path / 'venv'}\n"


def test_sessions_have_an_environment_that_can_be_installed_into(tmp_path: Path, cache: Path) -> None:
    found = run(BUNDLE, "--env-dir", tmp_path / "envs", "doctor", "--json", cache=cache)
    checks = {finding["check"]: finding for finding in json.loads(found.stdout)}
    assert found.returncode == 0, checks
    assert checks["build"]["grade"] == checks["session"]["grade"] == "ok", checks
    assert "a bundle in" in checks["build"]["seen"]
    [environment] = [path for path in (tmp_path / "envs").iterdir() if path.is_dir()]
    marker = json.loads((environment / "forkpy.json").read_text())
    assert marker["missing"] == [], marker


# -- its cache


def test_two_first_starts_at_once(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "XDG_CACHE_HOME": str(tmp_path)}
    starts = [
        subprocess.Popen([BUNDLE, "python", "-c", "import ssl; print('up')"], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    assert [start.communicate(timeout=60)[0] for start in starts] == [b"up\n", b"up\n"]
    unpacked(tmp_path)
    assert [path.suffix for path in sorted((tmp_path / "forkpy").iterdir())] == ["", ".lock"]


def test_two_versions_at_once(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "XDG_CACHE_HOME": str(tmp_path / "cache")}
    code = "import sys; print(sys.prefix)"
    starts = [
        subprocess.Popen([single, "python", "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for single in (BUNDLE, another_version(tmp_path / "forkpy"))
    ]
    places = {start.communicate(timeout=60)[0].strip() for start in starts}
    assert len(places) == 2
    assert {Path(place).parent for place in places} == {tmp_path / "cache/forkpy"}


def test_without_a_home_and_on_an_older_kernel_sessions_run(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
    command = [BUNDLE, "--env-dir", tmp_path / "envs", "doctor", "--json"]
    found = subprocess.run(
        command, env=environment, capture_output=True, text=True, preexec_fn=lacking(*OF_NEWER_KERNELS)
    )
    checks = {finding["check"]: finding for finding in json.loads(found.stdout)}
    assert checks["session"]["grade"] == "ok", checks
    assert list(tmp_path.glob("forkpy-*/*/lib/MANIFEST"))


def test_a_disk_without_locks_is_passed_over_and_named(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    refuse = lacking(FLOCK, errno_of_it=errno.ENOLCK)
    ran = subprocess.run([BUNDLE, "--version"], env=environment, capture_output=True, text=True, preexec_fn=refuse)
    assert ran.returncode == 1
    assert f"{tmp_path}/.cache/forkpy: its disk has no locks" in ran.stderr, ran.stderr
    assert "set XDG_CACHE_HOME" in ran.stderr


def test_what_is_damaged_is_unpacked_again(tmp_path: Path) -> None:
    def start() -> subprocess.CompletedProcess[str]:
        return run(BUNDLE, "python", "-c", "import json, ssl; print(json.dumps([1]))", cache=tmp_path)

    assert start().stdout == "[1]\n"
    place = unpacked(tmp_path)
    library = next(place.glob("lib/python3.*"))
    source = library / "json/__init__.py"
    whole = source.read_bytes()
    for damage in (b"", whole.replace(b"dumps", b"dumpz"), None):
        source.unlink() if damage is None else source.write_bytes(damage)
        assert start().stdout == "[1]\n"
        assert source.read_bytes() == whole
    before = place.stat().st_ino
    assert start().stdout == "[1]\n"
    assert place.stat().st_ino == before, "what is whole is not unpacked again"


def test_pip_waits_for_what_comes_behind_the_first_start(tmp_path: Path) -> None:
    ran = run(BUNDLE, "python", "-m", "pip", "--version", cache=tmp_path)
    assert ran.stdout.startswith("pip "), ran
    place = unpacked(tmp_path)
    assert next(place.glob("lib/python3.*/site-packages/jedi/third_party/typeshed/stdlib")).is_dir()
    # A process that unpacks was ended halfway: the next start does it again.
    (place / "lib/COMPLETE").unlink()
    shutil.rmtree(next(place.glob("lib/python3.*/site-packages/pip")))
    assert run(BUNDLE, "python", "-m", "pip", "--version", cache=tmp_path).stdout == ran.stdout


def test_the_licences_of_what_is_inside_are_shown(cache: Path) -> None:
    said = run(BUNDLE, "licences", cache=cache).stdout
    for name in ("\nforkpy ", "\nCPython (PSF-2.0)", "\ntokio ", "\npsutil ", "\njedi ", "Apache License"):
        assert name in said, name


def test_a_download_that_was_cut_short_says_so(tmp_path: Path) -> None:
    content = BUNDLE.read_bytes()
    for length in (len(content) - 1, len(content) // 2):
        cut = tmp_path / f"forkpy-{length}"
        cut.write_bytes(content[:length])
        cut.chmod(0o755)
        ran = run(cut, "--version", cache=tmp_path)
        assert ran.returncode == 1
        assert "its end is missing" in ran.stderr, ran.stderr
    assert not (tmp_path / "forkpy").exists()


@needs_root
def test_a_disk_that_runs_nothing_is_passed_over_and_named(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir(mode=0o700)
    script = (
        'mount -t tmpfs -o noexec,size=1m tmpfs "$1" && mkdir -m 700 "$1/c" && '
        'XDG_CACHE_HOME="$1/c" HOME="$1" TMPDIR="$2" "$3" python -c "import sys; print(sys.prefix)"'
    )
    (tmp_path / "m").mkdir()
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", tmp_path / "m", tmp_path / "t"]
    ran = run(*words, BUNDLE, cache=tmp_path)
    assert ran.stdout.startswith(str(tmp_path / "t/forkpy-")), ran
    assert "mounted with noexec" in ran.stderr, ran


def test_what_only_completion_reads_is_looked_at_by_doctor(tmp_path: Path) -> None:
    assert run(BUNDLE, "--version", cache=tmp_path).returncode == 0
    jedi = next(unpacked(tmp_path).glob("lib/python3.*/site-packages/jedi"))
    stub = next(jedi.glob("third_party/typeshed/stdlib/**/builtins.pyi"))
    stub.write_bytes(b"")
    found = run(BUNDLE, "--env-dir", tmp_path / "envs", "doctor", cache=tmp_path)
    assert found.returncode == 1
    assert "1 of its files are damaged" in found.stdout, found.stdout
    assert "the single file unpacks it again" in found.stdout


def test_a_damaged_file_says_so(tmp_path: Path) -> None:
    damaged = tmp_path / "forkpy"
    content = bytearray(BUNDLE.read_bytes())
    content[-(1 << 20)] ^= 1
    damaged.write_bytes(content)
    damaged.chmod(0o755)
    (tmp_path / "cache").mkdir()
    ran = run(damaged, "--version", cache=tmp_path / "cache")
    assert ran.returncode == 1
    assert "is damaged" in ran.stderr, ran.stderr
    assert [path.suffix for path in (tmp_path / "cache/forkpy").iterdir()] == [".lock"]


@needs_root
def test_a_full_disk_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    script = (
        'mount -t tmpfs -o size=20m tmpfs "$1" && mkdir -m 700 "$1/c" && XDG_CACHE_HOME="$1/c" "$2" --version; '
        'echo "status $?"; find "$1/c/forkpy"'
    )
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", tmp_path, BUNDLE]
    ran = run(*words, cache=tmp_path)
    assert "not enough space" in ran.stderr, ran.stderr
    assert "MB" in ran.stderr
    assert "status 1" in ran.stdout
    assert [line for line in ran.stdout.splitlines() if "/c/forkpy/" in line and not line.endswith(".lock")] == []


@needs_root
def test_a_disk_that_is_full_behind_the_first_start_is_told_where_pip_is_asked(tmp_path: Path, cache: Path) -> None:
    place = unpacked(cache)
    for_later = ("/jedi/third_party/", "/site-packages/pip/", "/lib/launcher")
    files = [path for path in place.rglob("*") if path.is_file() and not any(part in str(path) for part in for_later)]
    pages = sum(-(-path.stat().st_size // 4096) for path in files if not path.is_symlink())
    script = (
        'mount -t tmpfs -o size="$3"k tmpfs "$1" && mkdir -m 700 "$1/c" && export XDG_CACHE_HOME="$1/c" && '
        '"$2" python -c "import ssl; print(7)" && "$2" python -m pip --version'
    )
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    ran = run(*words, tmp_path, BUNDLE, str(pages * 4 + 2048), cache=tmp_path)
    assert ran.stdout == "7\n", ran
    assert "are not unpacked in" in ran.stderr, ran.stderr
    assert "MB are free there" in ran.stderr


QEMU = shutil.which("qemu-x86_64-static")


@pytest.mark.skipif(QEMU is None, reason="NOT TESTED: qemu-x86_64-static is not here (Debian: qemu-user-static)")
def test_a_processor_of_2008_runs_it(tmp_path: Path, cache: Path) -> None:
    """It has no AVX and no BMI: code for a newer one would end by SIGILL. What qemu starts is not in it."""
    old = (str(QEMU), "-cpu", "Nehalem")
    assert run(*old, BUNDLE, "--version", cache=tmp_path).stdout.startswith("forkpy ")
    code = (
        "import hashlib, json, lzma, psutil, sqlite3, ssl, zlib; data = b'x' * 99999; "
        "print(lzma.decompress(lzma.compress(data)) == data, len(zlib.compress(data)) < 999, "
        "hashlib.sha256(data).digest_size)"
    )
    ran = run(*old, unpacked(cache) / "bin/forkpy", "python", "-c", code, cache=tmp_path)
    assert ran.stdout == "True True 32\n", ran
    served = run(*old, unpacked(cache) / "bin/forkpy", "guide", "bundle", cache=tmp_path)
    assert served.stdout.startswith("# Bundle"), served


def test_a_place_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "forkpy").mkdir(mode=0o777)
    (tmp_path / "forkpy").chmod(0o777)
    began = time.monotonic()
    environment = {"PATH": os.environ["PATH"], "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path / "t")}
    (tmp_path / "t").mkdir()
    ran = subprocess.run(
        [BUNDLE, "python", "-c", "import sys; print(sys.prefix)"], env=environment, capture_output=True, text=True
    )
    assert ran.stdout.startswith(str(tmp_path / "t/forkpy-")), ran
    assert list((tmp_path / "forkpy").iterdir()) == []
    assert time.monotonic() - began < 60
