"""Libraries that are preloaded are exercised before the forks, and nothing of it is seen in a session."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LOOK = """\
import gc, importlib.util, os, random, sys, warnings
if importlib.util.find_spec(sys.argv[2].partition(".")[0]) is None:
    print("absent")
    sys.exit()
sys.path.insert(0, sys.argv[1])
from forkpy_worker.session import warm

def seen():
    numpy = sys.modules.get("numpy")
    return (
        sorted(os.listdir("/proc/self/fd")),
        len(os.listdir("/proc/self/task")),
        random.getstate(),
        str(numpy.random.get_state()) if numpy else "",
        list(warnings.filters),
    )

from forkpy_worker.libraries import exercise
real, exercise.loaded = exercise.loaded, lambda: None
assert warm.preload(sys.argv[2]) is None
before, modules = seen(), len(sys.modules)
called = []
plain, exercise.EXERCISES = exercise.EXERCISES, {
    name: lambda name=name, do=do: (called.append(name), do(), called.append("well"))
    for name, do in exercise.EXERCISES.items()
}
real()
assert seen() == before, (before, seen())
gc.collect()
left = [one for one in gc.get_objects() if type(one).__name__ in ("DataFrame", "Figure", "Axes")]
real()
print(*called, len(left))
"""


@pytest.mark.parametrize("module", ["pandas", "matplotlib.pyplot"])
def test_an_exercise_leaves_nothing_behind(module: str) -> None:
    # `cargo test` names an environment that has them.
    environment = os.environ.get("FORKPY_TEST_VENV")
    python = Path(environment, "bin", "python") if environment else sys.executable
    command = [python, "-I", "-c", LOOK, str(ROOT / "python"), module]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    if told == ["absent"]:
        pytest.skip(f"{python} has no {module}")
    assert told == [
        {"pandas": "pandas", "matplotlib.pyplot": "matplotlib.figure"}[module],
        "well",
        "0",
    ]


FAILS = """\
import sys
sys.path.insert(0, sys.argv[1])
from forkpy_worker.libraries import exercise

def broken():
    raise SystemExit("of another age")

sys.modules["old"] = sys
exercise.EXERCISES = {"old": broken}
exercise.loaded()
print("goes on")
"""


def test_a_library_of_another_age_is_as_slow_as_it_was() -> None:
    command = [sys.executable, "-I", "-S", "-c", FAILS, str(ROOT / "python")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "goes on\n"
