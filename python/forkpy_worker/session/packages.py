"""Packages of the session environment: what is installed, what a living interpreter knows of it.

Owns: nothing. `refresh` runs beside a cell, so it may import nothing and must not fail.
Runs in: worker pinger thread and zygote (`refresh`); a script's process (`survey`).
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.metadata import Distribution
    from typing import Any


def refresh(modules: list[str]) -> list[str]:
    """Forget what the import system keeps of directories; say which of the modules are imported.

    Not `importlib.invalidate_caches()`: that imports `importlib.metadata`, which takes long.
    """
    finders: dict[str, Any] = sys.path_importer_cache
    for path, finder in list(finders.items()):
        try:
            if finder is None:
                # A directory that was not there when it was looked for.
                finders.pop(path, None)
            else:
                finder.invalidate_caches()
        except Exception:  # noqa: PERF203
            # A finder of another library, with methods of its own.
            continue
    metadata = sys.modules.get("importlib.metadata")
    if metadata is not None:
        # An instance, because up to 3.11 the method is none of the class.
        metadata.MetadataPathFinder().invalidate_caches()
    return [name for name in modules if name in sys.modules]


def survey(file: str, with_modules: bool, own: str = "") -> None:
    """Write what is installed, as JSON: name, version and, if asked, modules of each package.

    What lies in an environment of its own comes first.
    """
    import json
    from importlib.metadata import distributions

    from forkpy_worker.session.own import packages

    known = set(sys.modules)
    found: dict[str, dict[str, Any]] = {}
    searched = [packages(own), *sys.path] if own else sys.path
    for distribution in distributions(path=searched):
        name = distribution.metadata["Name"]
        # The first on sys.path is the one that is imported; a broken one has no name.
        if name and normal(name) not in found:
            modules = sorted(_modules(distribution)) if with_modules else []
            version = str(distribution.version)
            found[normal(name)] = {"name": str(name), "version": version, "modules": modules}
    preloaded = sorted({name for entry in found.values() for name in entry["modules"]} & known)
    with open(file, "w", encoding="utf-8") as out:
        json.dump({"packages": list(found.values()), "preloaded": preloaded}, out)


def normal(name: str) -> str:
    """Give the form of a name under which all its spellings are one."""
    return name.lower().replace("_", "-").replace(".", "-")


def _modules(distribution: Distribution) -> set[str]:
    """Top-level modules, from the list of its files or, in older packages, a file of names."""
    record = distribution.read_text("RECORD")
    if record is None:
        return set((distribution.read_text("top_level.txt") or "").split())
    names = set()
    for line in record.splitlines():
        first, slash, _rest = line.partition(",")[0].strip('"').partition("/")
        name = first if slash else first.partition(".")[0]
        if name.isidentifier() and (slash or first.endswith((".py", ".so"))):
            names.add(name)
    return names - {"__pycache__"}
