"""What a session carries over a restart: `save` in the old worker, `load` in the new one.

Owns: which variables are carried. The file's layout is in `statefile`, the pickling in `statepickle`.
Runs in: worker main thread, between cells.

Variables that share objects are pickled together, so that `b is a` stays true; every other one is
pickled alone, so that it fails alone. A module is carried as its name and imported again.
"""

from __future__ import annotations

import sys

from forkpy_worker.place import namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    # names carried, and (name, why not) of the others
    Report: TypeAlias = tuple[list[str], list[tuple[str, str]]]

_MODULE = type(sys)


def save(path: str) -> Report:
    """Write what can be pickled to a file; raises OSError when the file cannot be written."""
    from forkpy_worker import statefile, statepickle

    variables = _variables()
    modules = {name: v.__name__ for name, v in variables.items() if isinstance(v, _MODULE)}
    values = {name: value for name, value in variables.items() if name not in modules}
    with statefile.Writer(path) as writer:
        refused = statepickle.write_groups(values, writer)
        writer.finish(modules)
    saved = [name for name in variables if name not in refused]
    return _report(saved, refused)


def load(path: str) -> Report:
    """Bring the variables of a file back; ValueError, and nothing changed, when it is not one of ours."""
    from forkpy_worker import statefile, statepickle

    with statefile.Reader(path) as reader:
        restored: dict[str, Any] = {}
        refused: dict[str, str] = {}
        for name, module in reader.modules.items():
            _collect({name: module}, _import, restored, refused)
        for names, blob in reader.groups():
            _collect(dict.fromkeys(names, blob), statepickle.read_group, restored, refused)
    namespace.update(restored)
    return _report(list(restored), refused)


def _variables() -> dict[str, Any]:
    return {
        name: value
        for name, value in list(namespace.items())
        if type(name) is str and name != "_" and not name.startswith("__")
    }


def _collect(
    group: dict[str, Any],
    bring: Callable[[Any], Any],
    restored: dict[str, Any],
    refused: dict[str, str],
) -> None:
    ...
