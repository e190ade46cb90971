"""Installing packages in a sandbox: what the tool needs to know of its indexes, and the tool itself.

Owns: the list of settings in which pip and uv look for indexes, and how the tool is run and its end
told. May not import what an environment may lack.
Runs in: processes that the zygote forks for forkpy's own lines: `indexes` is not confined and runs
nothing of a package, `run` is confined.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from urllib.parse import urlsplit

from forkpy_worker.session import confined

# Where the tools look when nothing else is said.
_USUAL = [["pypi.org", 443], ["files.pythonhosted.org", 443]]
_PORTS = {"http": 80, "https": 443}
# Options of pip that name an index, or packages beside it.
_INDEXES = ("index_url", "extra_index_url", "find_links")
_FILES = ("cert", "client_cert")
_OF_UV = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS")


class _Found:
    """What the settings name."""

    def __init__(self) -> None:
        self.hosts: list[list[object]] = []
        self.read: list[str] = []
        # An index is named, so that the usual one is not asked.
        self.is_named = False

    def place(self, text: str) -> None:
        """Note a place for packages: a URL, or a path."""
        # uv gives an index a name.
        name, _, url = text.partition("=")
        text = url if "://" in url and "://" not in name else text
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            return
        if parts.scheme in _PORTS and host:
            self.hosts.append([host, port or _PORTS[parts.scheme]])
        elif parts.scheme in ("", "file") and os.path.isabs(parts.path):
            self.read.append(parts.path)

    def option(self, name: str, value: str) -> None:
        """Note what an option of pip names."""
        name = name.lower().replace("-", "_")
        if name in _INDEXES:
            self.is_named = self.is_named or name == "index_url"
            for text in value.split():
                self.place(text)
        elif name in _FILES and os.path.isabs(value):
            self.read.append(value)


def _settings_of_pip() -> list[str]:
    named = os.environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return []
    home = os.path.expanduser("~")
    above = os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    own = os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    paths = [os.path.join(folder, "pip/pip.conf") for folder in above.split(":") if folder]
    paths += [
        "/etc/pip.conf",
        os.path.join(home, ".pip/pip.conf"),
        os.path.join(own, "pip/pip.conf"),
    ]
    paths.append(os.path.join(sys.prefix, "pip.conf"))
    return [*paths, named] if named else paths


def _settings_of_uv() -> list[str]:
    own = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    above = os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    paths = [os.path.join(folder, "uv/uv.toml") for folder in above.split(":") if folder]
    paths += ["/etc/uv/uv.toml", os.path.join(own, "uv/uv.toml")]
    named = os.environ.get("UV_CONFIG_FILE")
    return [*paths, named] if named else paths


def _options_of_pip(path: str) -> list[tuple[str, str]]:
    import configparser

    settings = configparser.RawConfigParser()
    try:
        settings.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        # pip will say so.
        return []
    sections = (
        section for section in ("global", "install", "download") if settings.has_section(section)
    )
    return [option for section in sections for option in settings.items(section)]


def _look_into_pips(found: _Found) -> None:
    for path in filter(os.path.isfile, _settings_of_pip()):
        found.read.append(path)
        for name, value in _options_of_pip(path):
            found.option(name, value)
    for name, value in os.environ.items():
        if name.startswith("PIP_"):
            found.option(name[len("PIP_") :], value)


def _look_into_uvs(found: _Found) -> None:
    for path in _settings_of_uv():
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        found.read.append(path)
        # Whatever option it is: a URL between quotes is where something comes from.
        for quoted in text.replace("'", '"').split('"')[1::2]:
            if "://" in quoted:
                found.is_named = True
                found.place(quoted)
    for name in _OF_UV:
        for text in os.environ.get(name, "").replace(",", " ").split():
            found.is_named = found.is_named or name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL")
            found.place(text)


def indexes(answer: str) -> None:
    """Write into a file which hosts the tools ask for packages, what they read for it, and where they install to."""
    found = _Found()
    _look_into_pips(found)
    _look_into_uvs(found)
    if not found.is_named:
        found.hosts += _USUAL
    with open(answer, "w") as file:
        places = {"hosts": found.hosts, "read": found.read, "write": confined.environment()}
        json.dump(places, file)


def run(order: str) -> None:
    """Run the tool to its end, and end as it did."""
    wanted = json.loads(order)
    for name, value in wanted["environment"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    tool = subprocess.Popen(wanted["command"], cwd=wanted["directory"], stdin=subprocess.DEVNULL)
    while True:
        try:
            code = tool.wait()
            break
        except KeyboardInterrupt:
            # The tool has heard it too.
            continue
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
