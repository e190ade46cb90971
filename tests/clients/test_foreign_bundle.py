"""A bundle for another machine, run by qemu-user as far as that goes.

qemu-user has no seccomp filters, no Landlock and no tracing of its programs. What of forkpy stands on those
(`--sandbox`, sleeping sessions, stacks of threads in C code) is NOT TESTED here: it takes such a machine.

Environment: FORKPY_FOREIGN_BUNDLE, the single file that `forkpy bundle --target aarch64` made, and
FORKPY_FOREIGN_LIBRARIES, the other machine's C library, which is `target/bundle/glibc-2.28-aarch64/old-libraries`.
Without them, these tests are not run.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import fastmcp
import pytest
from fastmcp.client.transports import StdioTransport

import foreign_root

BUNDLE = Path(os.environ.get("FORKPY_FOREIGN_BUNDLE", "/nonexistent"))
LIBRARIES = Path(os.environ.get("FORKPY_FOREIGN_LIBRARIES", "/nonexistent"))
REASON = (
    foreign_root.reason_against()
    if BUNDLE.exists() and LIBRARIES.exists()
    else "FORKPY_FOREIGN_BUNDLE and FORKPY_FOREIGN_LIBRARIES name no bundle"
)
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"NOT TESTED: {REASON}")

MODULES = """
import bz2, ctypes, decimal, hashlib, lzma, platform, sqlite3, ssl, subprocess, sys, uuid, zlib
import cloudpickle, jedi, psutil
said = subprocess.run([sys.executable, '-c', 'print(6 * 7)'], capture_output=True, text=True).stdout.strip()
data = sqlite3.connect(':memory:').execute('select sqlite_version() > 3').fetchone()[0]
seen = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda n: n + 1)(41)
unpacked = lzma.decompress(lzma.compress(b"x"))
[platform.machine(), said, data, seen, unpacked, ssl.OPENSSL_VERSION[:7], psutil.Process().pid > 0]
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("foreign") / "root"
    foreign_root.make(place, LIBRARIES, BUNDLE)
    return place


def run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        foreign_root.command(root, "/forkpy", *words),
        capture_output=True,
        text=True,
        env=foreign_root.ENVIRONMENT,
        timeout=300,
    )


def test_it_is_a_python_of_the_other_machine(root: Path) -> None:
    ran = run(root, "python", "-c", "import platform, ssl, psutil; print(platform.machine())")
    assert ran.stdout == "aarch64\n", ran
    assert run(root, "python", "-m", "pip", "--version").stdout.startswith("pip ")


def test_doctor_finds_what_qemu_has(root: Path) -> None:
    found = run(root, "--env-dir", "/tmp/envs", "doctor", "--json")
    checks = {finding["check"]: finding for finding in json.loads(found.stdout)}
    print(found.stdout)
    assert checks["build"]["grade"] == checks["session"]["grade"] == "ok", checks


async def test_a_session_over_mcp(root: Path) -> None:
    words = foreign_root.command(root, "/forkpy", "--workspace", "/work")
    transport = StdioTransport(words[0], words[1:], env=foreign_root.ENVIRONMENT, keep_alive=False)
    async with fastmcp.Client(transport, timeout=120) as client:
        reply = (await client.call_tool("run_python_code", {"code": MODULES})).data
        assert reply["status"] == "ok", reply
        assert reply["results"] == ["['aarch64', '42', 1, 42, b'x', 'OpenSSL', True]"], reply
        await client.call_tool("run_python_code", {"code": "kept = 20"})
        died = await client.call_tool("run_python_code", {"code": "import os; os._exit(1)"}, raise_on_error=False)
        assert died.is_error, died
        reply = (await client.call_tool("run_python_code", {"code": "1 + 1"})).data
        assert reply["results"] == ["2"], reply
