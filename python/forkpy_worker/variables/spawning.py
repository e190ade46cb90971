"""Processes of `multiprocessing`, and the functions of cells that they are to run.

A process that is spawned runs the main file of its parent again, to find its functions there. A
session has no main file, so the function was not found; a `Pool` then starts new workers for ever.
Here such a process gets what cells have defined, by cloudpickle, as its main file. And what a
process was started too early to know goes to it by value, with the task.

Owns: a method of `ForkingPickler`, the preparation data of `spawn`, the file of definitions.
Runs in: zygote (fitted), worker main thread and the threads of pools. Children of the worker leave
everything to `multiprocessing`.
"""

from __future__ import annotations

import os
import pickle
import sys
from types import CodeType, FunctionType, ModuleType

from forkpy_worker.base import place
from forkpy_worker.base.place import namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# More data than that is not sent to each process that starts.
MAX_BYTES = 256 << 20
NO_CLOUDPICKLE = (
    "{kind} {name!r} was defined in a cell, and a process that is {how} does not know what cells "
    "define. Install cloudpickle (tool install_dependencies, packages ['cloudpickle']) and forkpy "
    "sends it along; or use multiprocessing.get_context('fork'); or put it in a .py file of the "
    "workspace and import it from there."
)
_MAIN_FILE = """\
import pickle
with open({path!r}, "rb") as file:
    for size in {sizes!r}:
        try:
            globals().update(pickle.loads(file.read(size)))
        except Exception as error:
            import sys
            print("a definition of the session did not arrive:", repr(error), file=sys.stderr)
del pickle, file
"""

# Process -> what cells had defined when it started, by name.
_known: Any = None
# What the process that is being started gets.
_starting: dict[str, Any] | None = None


def fit(module: ModuleType) -> None:
    """Change a module of `multiprocessing` as soon as it is imported."""
    if module.__name__ == "multiprocessing.process":
        _watch_starts(module.BaseProcess)
    elif module.__name__ == "multiprocessing.spawn":
        _give_a_main_file(module)
    elif module.__name__ == "multiprocessing.reduction":
        module.ForkingPickler.reducer_override = _reduce


def _is_ours() -> bool:
    """Whether this is the session's own process and not a child of its."""
    return os.getpid() == place.pid and sys.modules.get("__main__") is place.main


def _watch_starts(process: Any) -> None:
    start = process.start

    def noting_start(self: Any) -> None:
        """Start child process."""
        global _known, _starting
        if not _is_ours():
            start(self)
            return
        _starting = _definitions()
        try:
            start(self)
        finally:
            started, _starting = _starting, None
        if _known is None:
            from weakref import WeakKeyDictionary

            _known = WeakKeyDictionary()
        _known[self] = started

    process.start = noting_start


def _definitions() -> dict[str, Any]:
    """Give the functions and classes that cells have defined."""
    return {
        name: value
        for name, value in list(namespace.items())
        if isinstance(value, (FunctionType, type))
        and getattr(value, "__module__", None) == "__main__"
    }


def _reduce(_pickler: Any, value: Any) -> Any:
    """Pickle a cell's function by name where every living process knows it, else by value."""
    if not isinstance(value, (FunctionType, type)):
        return NotImplemented
    if getattr(value, "__module__", None) != "__main__" or not _is_ours():
        return NotImplemented
    name = value.__qualname__
    root = name.partition(".")[0]
    if _resolved(name) is not value:
        # A lambda, or one that was defined within another: multiprocessing has its words for it.
        return NotImplemented
    tables = [_starting] if _starting is not None else _tables()
    if all(table.get(root) is namespace.get(root) for table in tables):
        return NotImplemented
    from forkpy_worker.variables import statepickle

    cloudpickle = statepickle._cloudpickle()
    if cloudpickle is None:
        kind = "the class" if isinstance(value, type) else "the function"
        how = "spawned" if _starting is not None else "there already"
        raise pickle.PicklingError(NO_CLOUDPICKLE.format(kind=kind, name=name, how=how))
    return pickle.loads, (cloudpickle.dumps(value),)


def _resolved(name: str) -> Any:
    """Follow `Class.method` from the session's variables."""
    first, *rest = name.split(".")
    value = namespace.get(first)
    for part in rest:
        value = None if part == "<locals>" else getattr(value, part, None)
    return value


def _tables() -> list[dict[str, Any]]:
    """List what the living processes of this session know."""
    if _known is None:
        return []
    return [table for process, table in list(_known.items()) if _lives(process)]


def _lives(process: Any) -> bool:
    # Not `is_alive()`, which reaps: pools do that in a thread of theirs.
    popen = getattr(process, "_popen", None)
    return popen is not None and popen.returncode is None


def _give_a_main_file(spawn: ModuleType) -> None:
    get_preparation_data = spawn.get_preparation_data

    def with_main_file(name: str) -> dict[str, Any]:
        """Return info about parent needed by child to unpickle process object"""
        global _starting
        data: dict[str, Any] = get_preparation_data(name)
        if _is_ours() and "init_main_from_path" not in data and "init_main_from_name" not in data:
            # Until now it holds what a fork would know.
            sent = _send(_starting if _starting is not None else _definitions())
            _starting = {} if sent is None else sent[1]
            if sent is not None:
                data["init_main_from_path"] = sent[0]
        return data

    spawn.get_preparation_data = with_main_file  # type: ignore[attr-defined]


# The last file, and what was put into it: many processes get the same.
_sent: tuple[str, dict[str, Any], int] | None = None


def _send(definitions: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Write a main file that defines what cells have; None where there is nothing, or no way."""
    global _sent
    from forkpy_worker.variables import statepickle

    if not definitions or statepickle._cloudpickle() is None:
        return None
    wanted = _with_globals(definitions)
    if (
        _sent is not None
        and _sent[2] == place.cell
        and _sent[1].keys() == wanted.keys()
        and all(_sent[1][name] is value for name, value in wanted.items())
        and os.path.exists(_sent[0])
    ):
        return _sent[0], _sent[1]
    parts, sent = _pickled(wanted)
    _sent = _write(parts), sent, place.cell
    return _sent[0], sent


def _with_globals(definitions: dict[str, Any]) -> dict[str, Any]:
    """Add what the definitions use of the session's variables, and what those use."""
    wanted: dict[str, Any] = {}
    open_names = list(definitions)
    while open_names:
        name = open_names.pop()
        if name in wanted or name not in namespace or name.startswith("__"):
            continue
        value = wanted[name] = namespace[name]
        if isinstance(value, (FunctionType, type)) and value.__module__ == "__main__":
            open_names.extend(_used_names(value))
    return wanted


def _used_names(value: Any) -> set[str]:
    names: set[str] = set()
    if isinstance(value, FunctionType):
        codes = [value.__code__]
        wrapped = value.__dict__.get("__wrapped__")
        if isinstance(wrapped, FunctionType):
            codes.append(wrapped.__code__)
        for code in codes:
            names.update(code.co_names)
            codes.extend(const for const in code.co_consts if isinstance(const, CodeType))
        return names
    for item in dict(vars(value)).values():
        function = getattr(item, "fget", None) or getattr(item, "__func__", item)
        if isinstance(function, FunctionType):
            names |= _used_names(function)
    return names


def _pickled(wanted: dict[str, Any]) -> tuple[list[bytes], dict[str, Any]]:
    """Pickle all together, or one by one and leave out what cannot be."""
    try:
        return [_dump(wanted)], wanted
    except Exception:
        parts, sent, left = [], {}, MAX_BYTES
        for name, value in wanted.items():
            try:
                part = _dump({name: value})
            except Exception:
                continue
            if len(part) <= left:
                left -= len(part)
                parts.append(part)
                sent[name] = value
        return parts, sent


class _Main:
    """Stands in a pickle for the globals of the module that the process reads it in."""

    def __reduce__(self) -> Any:
        from importlib import import_module

        return import_module, ("__mp_main__",)


class _MainGlobals(dict):  # type: ignore[type-arg]
    def __reduce__(self) -> Any:
        return vars, (_Main(),)


def _dump(values: dict[str, Any]) -> bytes:
    from io import BytesIO

    from forkpy_worker.variables import statepickle

    by_value = statepickle._pickler_class()

    class ForProcess(by_value):  # type: ignore[misc, valid-type]
        def _dynamic_function_reduce(self, func: Any) -> Any:
            make, arguments, *rest = super()._dynamic_function_reduce(func)
            if func.__globals__ is namespace:
                arguments = (arguments[0], _MainGlobals(), *arguments[2:])
            return (make, arguments, *rest)

    class Limited(BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() + len(data) > MAX_BYTES:
                raise ValueError("more than a process is sent")
            return super().write(data)

    file = Limited()
    ForProcess(file, pickle.HIGHEST_PROTOCOL).dump(values)
    return file.getvalue()


def _write(parts: list[bytes]) -> str:
    """Write definitions and the main file that reads them; multiprocessing removes the folder."""
    from multiprocessing import util
    from tempfile import mkstemp

    folder = util.get_temp_dir()
    descriptor, path = mkstemp(".pickle", "definitions-", folder)
    with open(descriptor, "wb") as file:
        file.writelines(parts)
    main = f"{path[: -len('.pickle')]}.py"
    with open(main, "w", encoding="utf-8") as text:
        text.write(_MAIN_FILE.format(path=path, sizes=[len(part) for part in parts]))
    return main
