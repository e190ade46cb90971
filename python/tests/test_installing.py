"""What an install has to know of the indexes: read from the settings that pip and uv have."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from forkpy_worker.session import installing


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a home directory without settings, and an environment without them."""
    import os

    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "xdg"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    real = installing._settings_of_pip
    monkeypatch.setattr(
        installing, "_settings_of_pip", lambda: [path for path in real() if path != "/etc/pip.conf"]
    )
    return tmp_path


def found(home: Path) -> tuple[list[list[object]], list[str]]:
    answer = home / "answer"
    installing.indexes(str(answer))
    told = json.loads(answer.read_text())
    return told["hosts"], told["read"]


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_without_settings_it_is_the_usual_index(home: Path) -> None:
    hosts, read = found(home)
    assert hosts == [["pypi.org", 443], ["files.pythonhosted.org", 443]]
    assert not [path for path in read if path.startswith(str(home))]


def test_settings_of_pip_name_hosts_and_files(home: Path) -> None:
    user = write(
        home / ".config/pip/pip.conf",
        "[global]\nindex-url = https://me:word@index.corp/simple\nfind_links =\n    /srv/wheels\n    http://links.corp:8080/\n"
        "cert = /etc/corp.pem\n[install]\nextra-index-url = https://a.corp:444/x https://b.corp/y\n[freeze]\nindex-url=https://no.corp\n",
    )
    old = write(home / ".pip/pip.conf", "[global]\ntimeout = 5\n")
    hosts, read = found(home)
    assert sorted(map(tuple, hosts)) == [
        ("a.corp", 444),
        ("b.corp", 443),
        ("index.corp", 443),
        ("links.corp", 8080),
    ]
    assert {user, old, "/srv/wheels", "/etc/corp.pem"} <= set(read)


def test_variables_count_too_and_the_usual_index_stays_beside_an_extra_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "http://[::1]:3141/root/")
    monkeypatch.setenv("UV_INDEX", "mine=https://uv.corp/simple,https://two.corp/simple")
    monkeypatch.setenv("PIP_CERT", "/etc/other.pem")
    hosts, read = found(home)
    names = {str(host[0]) for host in hosts}
    assert names == {"::1", "uv.corp", "two.corp", "pypi.org", "files.pythonhosted.org"}
    assert ["::1", 3141] in hosts
    assert "/etc/other.pem" in read


def test_settings_of_uv_name_hosts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(
        home / ".config/uv/uv.toml",
        '[[index]]\nname = "x"\nurl = "https://toml.corp:8443/simple"\n',
    )
    assert found(home) == ([["toml.corp", 8443]], [path])
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://variable.corp/simple")
    assert ["variable.corp", 443] in found(home)[0]


def test_settings_that_are_none_are_no_trouble(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / ".config/pip/pip.conf", "not an ini file\n= =\n")
    monkeypatch.setenv("PIP_INDEX_URL", "http://[broken")
    hosts, _ = found(home)
    assert hosts == []
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_INDEX_URL")
    assert found(home)[0] == [["pypi.org", 443], ["files.pythonhosted.org", 443]]
