"""What a session carries to another process: `save` in one worker, `load` in another.

Owns: which variables are carried. The file is laid out by `statefile`, filled by `statepickle`.
Runs in: worker main thread, between cells.

Variables that share objects are pickled together, so that `b is a` stays true; every other one is
pickled alone, so that it fails alone. A module is carried as its name and imported again.
"""

from __future__ import annotations

import sys

from forkpy_worker.base.place import namespace
from forkpy_worker.code import sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from forkpy_worker.variables import keptfile, statefile

    # names carried, (name, why not) of the others, and names that stood for something else before
    Report: TypeAlias = tuple[list[str], list[tuple[str, str]], list[str]]

_MODULE = type(sys)


def save(path: str) -> Report:
    """Write what can be pickled to a file; raises OSError when the file cannot be written."""
    from forkpy_worker.variables import statefile, statepickle

    modules, values = _parted()
    with statefile.Writer(path) as writer:
        refused = statepickle.write_groups(values, writer)
        writer.finish(modules, statepickle.pickler_name())
    saved = [name for name in _variables() if name not in refused]
    return _report(saved, refused, [])


def load(path: str) -> Report:
    """Bring the variables of a file back; ValueError and no change when it is no whole one."""
    from forkpy_worker.variables import statefile

    with statefile.Reader(path) as reader:
        return _bring(reader)


def keep(folder: str, stop: int, limit: int) -> Report | None:
    """Keep what can be pickled in a folder, up to a size; None when a call came, which has precedence."""
    from forkpy_worker.variables import keptfile, statepickle

    modules, values = _parted()
    writer = keptfile.Writer(folder, stop, limit)
    try:
        refused = statepickle.write_groups(values, writer, tells=False)
        writer.finish(modules, statepickle.pickler_name())
    except keptfile.GaveWay:
        return None
    finally:
        writer.close()
    return _report([*modules, *(name for name in values if name not in refused)], refused, [])


def load_kept(folder: str) -> Report:
    """Bring back what `keep` has kept."""
    from forkpy_worker.variables import keptfile

    return _bring(keptfile.Reader(folder))


def _bring(reader: statefile.Reader | keptfile.Reader) -> Report:
    from forkpy_worker.variables import statepickle

    for name, text in reader.sources.items():
        sources.remember(name, text)
    restored: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for name, module in reader.modules.items():
        _carry([name], restored, refused, _import, name, module)
    for names, file in reader.groups():
        _carry(names, restored, refused, statepickle.read_group, file)
    replaced = [name for name in restored if name in namespace]
    namespace.update(restored)
    return _report(list(restored), refused, replaced)


def _parted() -> tuple[dict[str, str], dict[str, Any]]:
    """Give the names of modules by variable, and the other variables."""
    variables = _variables()
    modules = {name: v.__name__ for name, v in variables.items() if _is_importable(v)}
    return modules, {name: value for name, value in variables.items() if name not in modules}


def _variables() -> dict[str, Any]:
    return {
        name: value
        for name, value in list(namespace.items())
        if type(name) is str and name != "_" and not name.startswith("__")
    }


def _is_importable(value: Any) -> bool:
    return isinstance(value, _MODULE) and sys.modules.get(value.__name__) is value


def _import(name: str, module: str) -> dict[str, Any]:
    __import__(module)
    return {name: sys.modules[module]}


def _carry(
    names: list[str],
    restored: dict[str, Any],
    refused: dict[str, str],
    bring: Callable[..., dict[str, Any]],
    *given: Any,
) -> None:
    """Bring some variables back, or say of each why not."""
    from forkpy_worker.variables import statepickle

    try:
        restored.update(bring(*given))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # Also what is no Exception: a library may raise SystemExit when imported again.
        refused.update(dict.fromkeys(names, statepickle.reason(error)))


def _report(names: list[str], refused: dict[str, str], replaced: list[str]) -> Report:
    from forkpy_worker.base.text import clean

    skipped = [(clean(name), clean(why)) for name, why in refused.items()]
    return [clean(name) for name in names], skipped, [clean(name) for name in replaced]
