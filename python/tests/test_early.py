"""What the zygote imports before it can fork: each module there makes every first result later."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# They take milliseconds each, with all that they import in their turn.
HEAVY = {
    "collections",
    "contextlib",
    "dataclasses",
    "enum",
    "functools",
    "inspect",
    "re",
    "struct",
    "typing",
}

LOOK = """\
import importlib, sys
sys.path.insert(0, sys.argv[1])
for module in sys.argv[2:]:
    importlib.import_module("forkpy_worker." + module)
print(*sorted(sys.modules))
"""


def test_nothing_heavy_is_imported_before_a_session_needs_it() -> None:
    # What the worker looks up when it starts.
    modules = re.findall(r'find\("([a-z_.]+)", ', (ROOT / "src/worker/python.rs").read_text())
    assert "cell.run" in modules
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        LOOK,
        str(ROOT / "python"),
        *modules,
        "session.startup",
    ]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert not HEAVY & set(loaded), "import it where it is used, or under TYPE_CHECKING"
