"""Runs typescript_sdk.mjs against a server over HTTP and servers that it starts itself over stdio."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from support import binary, node, passed_on

if TYPE_CHECKING:
    from support import Forkpy

SCRIPT = Path(__file__).with_name("typescript_sdk.mjs")


def test_typescript_clients(forkpy_http: Forkpy, tmp_path: Path) -> None:
    path, directory = node()
    workspace = tmp_path / "stdio"
    workspace.mkdir()
    done = subprocess.run(
        [path, str(SCRIPT)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={
            **os.environ,
            "FORKPY_BIN": binary(),
            "FORKPY_NODE_DIR": str(directory),
            "FORKPY_WORKSPACE": str(workspace),
            "FORKPY_URL": forkpy_http.url,
            "FORKPY_SERVER_ENV": json.dumps(passed_on()),
        },
    )
    print(done.stdout)
    print(done.stderr)
    assert done.returncode == 0
    assert "not ok" not in done.stdout
    assert "all checks passed" in done.stdout
