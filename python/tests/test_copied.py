"""What a copy says of the processes, and does with the temporary files, of the session it is a copy of."""

from __future__ import annotations

import os
import subprocess
import sys

# In a process of its own: what is replaced stays replaced.
_SCRIPT = """
import os, subprocess, sys, tempfile, time, weakref
from forkpy_worker.base import place
from forkpy_worker.session import copied

place.session_id = "one"
child = subprocess.Popen(["sleep", "300"])
gone = subprocess.Popen(["true"])
file, folder = tempfile.NamedTemporaryFile(), tempfile.TemporaryDirectory()
copied.remember()

def in_copy(session, code):
    pid = os.fork()
    if pid == 0:
        try:
            copied.arrive(session)
            place.session_id = session
            code()
        except BaseException as error:
            print(session, type(error).__name__, error)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

def says_nothing_false():
    assert child.poll() is None
    try:
        child.wait(0.05)
    except subprocess.TimeoutExpired:
        pass
    else:
        raise AssertionError("it runs")
    while True:
        try:
            assert gone.poll() is None
        except ChildProcessError as error:
            assert "not known here" in str(error)
            break
    assert gone.returncode is None
    gone.terminate()
    assert subprocess.run(["sh", "-c", "exit 3"]).returncode == 3

def removes_its_own_only():
    file.close()
    folder.cleanup()
    assert os.path.exists(file.name) and os.path.exists(folder.name)
    with tempfile.NamedTemporaryFile() as mine, tempfile.TemporaryDirectory() as here:
        assert os.path.exists(mine.name) and os.path.exists(here)
    assert not os.path.exists(mine.name) and not os.path.exists(here)

def later_copy_is_the_first_session_again():
    copied.arrive("one")
    place.session_id = "one"
    file.close()
    folder.cleanup()
    assert not os.path.exists(file.name) and not os.path.exists(folder.name)

in_copy("two", says_nothing_false)
in_copy("two", removes_its_own_only)
assert os.path.exists(file.name) and os.path.exists(folder.name)
in_copy("two", later_copy_is_the_first_session_again)
child.kill()
print("done")
"""


def test_a_copy_removes_only_its_own_files_and_invents_no_exit_status() -> None:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SCRIPT],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert run.stdout == "done\n", run
