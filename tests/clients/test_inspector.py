"""The MCP Inspector's command line: no schema that a model provider may refuse, and skills that are what they say."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from support import binary, node, passed_on

if TYPE_CHECKING:
    from pathlib import Path


def inspect(workspace: Path, *arguments: str, tools: str = "standard") -> subprocess.CompletedProcess[str]:
    path, directory = node()
    inspector = directory / "node_modules" / ".bin" / "mcp-inspector"
    command = [binary(), "--workspace", str(workspace), "--transport", "stdio", "--tools", tools]
    done = subprocess.run(
        [path, str(inspector), "--cli", *arguments, "--", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=workspace,
        # What it would write about itself stays here.
        env={**os.environ, **passed_on(), "HOME": str(workspace), "RUST_LOG": "off"},
    )
    print(done.stderr[-8000:])
    return done


@pytest.mark.parametrize("tools", ["core", "all"])
def test_strict_has_nothing_to_say(tmp_path: Path, tools: str) -> None:
    done = inspect(tmp_path, "--method", "tools/list", "--strict", tools=tools)
    assert done.returncode == 0
    assert len(json.loads(done.stdout)["tools"]) > 5
    assert "Warning" not in done.stderr
    assert "Error" not in done.stderr


def test_skills_are_verified(tmp_path: Path) -> None:
    done = inspect(tmp_path, "--method", "skills/list", "--verify")
    assert done.returncode == 0
    assert "no conformance errors" in done.stdout + done.stderr
