"""What registries read, checked by their own schemas. Nothing is published, and nothing is fetched."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVER: dict[str, Any] = json.loads((ROOT / "server.json").read_text())
SCHEMA: dict[str, Any] = json.loads((ROOT / "packaging/server.schema.json").read_text())


def faults(server: dict[str, Any]) -> list[str]:
    kind = jsonschema.validators.validator_for(SCHEMA)
    kind.check_schema(SCHEMA)
    return [f"{error.json_path}: {error.message}" for error in kind(SCHEMA).iter_errors(server)]


def test_the_registrys_entry_is_valid() -> None:
    assert SERVER["$schema"] == SCHEMA["$id"], "the kept schema is the one that server.json names"
    assert faults(SERVER) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda server: server.pop("version"),
        lambda server: server.update(description="x" * 101),
        lambda server: server.update(name="forkpy"),
        lambda server: server["packages"][0].pop("transport"),
        lambda server: server["packages"][0]["packageArguments"][0].update(type="flag"),
    ],
)
def test_a_spoiled_entry_is_found(spoil: Any) -> None:
    server = copy.deepcopy(SERVER)
    spoil(server)
    assert faults(server) != []
