"""Pickling variables in groups that share objects, and refusing what a new process cannot know.

Owns: the decision what counts as shared and what is refused. Runs cells' code (`__reduce__` and the
like), so nothing here may fail for what that raises.
Runs in: worker main thread, between cells.

Each variable is pickled alone first. That shows whether it can be, and the pickler's memo shows
which objects it reaches; variables that reach a common one are a group and are pickled again,
together.

cloudpickle, where the environment has it, pickles functions and classes of cells by value; with
pickle alone they are refused. A function of a cell gets the session that it is loaded in for its
globals, as it had the one that it was defined in.
"""

from __future__ import annotations

import pickle
import sys
from types import CodeType, FunctionType

from forkpy_worker.base import place
from forkpy_worker.base.place import namespace
from forkpy_worker.code import class_sources, sources
from forkpy_worker.variables import reducers
from forkpy_worker.variables.keptfile import GaveWay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO, TypeAlias

    from forkpy_worker.variables import keptfile, statefile

    Writer: TypeAlias = statefile.Writer | keptfile.Writer

_PROTOCOL = 5
_by_value: Any = None
# A memo of more bytes than this (about two million objects) is not looked into.
_MAX_MEMO = 64_000_000


class _Refusing(pickle.Pickler):
    """A pickler that refuses at once what would only fail when loaded."""

    def reducer_override(self, obj: Any) -> Any:
        """Refuse functions and classes of `__main__`: a new process has none of them."""
        if _is_of_a_cell(obj):
            raise pickle.PicklingError(_refusal(obj))
        return reducers.reduce(obj)


def pickler_name() -> str:
    """Name what pickles here, for the file's head."""
    cloudpickle = _cloudpickle()
    return "pickle" if cloudpickle is None else f"cloudpickle {cloudpickle.__version__}"


def _cloudpickle() -> Any:
    try:
        import cloudpickle
    except ImportError:
        return None
    return cloudpickle


def session_globals() -> dict[str, Any]:
    """Give what a function of a cell has for its globals; pickles name this."""
    return namespace


class _Globals(dict):  # type: ignore[type-arg]
    """Stands in a pickle for the globals of the session that it is loaded in."""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return session_globals, ()


def _carry(filename: str, carried: dict[str, str]) -> str | None:
    """Take a cell's text along, and give the name that it will have; None where it is no cell's."""
    text = sources.text_of(filename)
    if not text:
        return None
    name = sources.saved_name(filename)
    carried[name] = text
    return name


def _named_code(pickler: Any, obj: Any) -> Any:
    """Pickle a cell's code under a name that tells its text apart; None for what is no code."""
    if isinstance(obj, type) and obj.__module__ == "__main__":
        found = class_sources.locate(obj)
        if found is not None:
            _carry(found[0], pickler.sources)
    name = _carry(obj.co_filename, pickler.sources) if type(obj) is CodeType else None
    if name is None:
        return None
    make, arguments = pickler.dispatch_table[CodeType](obj)
    # Newer versions of cloudpickle leave the file's name out.
    known = ("<dynamic-code>", obj.co_filename)
    return make, tuple(name if argument in known else argument for argument in arguments)


def _pickler_class() -> type[pickle.Pickler]:
    global _by_value
    cloudpickle = _cloudpickle()
    if cloudpickle is None:
        return _Refusing
    if _by_value is None:

        class ByValue(cloudpickle.Pickler):  # type: ignore[misc, name-defined]
            """cloudpickle's, but for what a cell's function takes along of its session: nothing."""

            def __init__(self, *given: Any, **named: Any) -> None:
                super().__init__(*given, **named)
                # The cells whose code is in the pickle: name there -> text.
                self.sources: dict[str, str] = {}

            def reducer_override(self, obj: Any) -> Any:
                found = reducers.reduce(obj)
                if found is not NotImplemented:
                    return found
                named = _named_code(self, obj)
                return super().reducer_override(obj) if named is None else named

            def _dynamic_function_reduce(self, func: Any) -> Any:
                reduced = super()._dynamic_function_reduce(func)
                if func.__globals__ is not namespace:
                    return reduced
                make, arguments, (state, slots), *rest = reduced
                # Variables of the session are saved as such, and not once more with each function.
                slots = {**slots, "__globals__": {}}
                return (make, (arguments[0], _Globals(), *arguments[2:]), (state, slots), *rest)

        _by_value = ByValue
    found: type[pickle.Pickler] = _by_value
    return found


def _is_of_a_cell(obj: Any) -> bool:
    """Tell whether pickle would store a name in `__main__`, which will not be defined there again.

    An instance of a cell's class is let through: what counts is whether its pickle names the class.
    """
    if getattr(obj, "__module__", None) != "__main__":
        return False
    return isinstance(obj, (type, FunctionType)) or type(obj).__module__ != "__main__"


def _refusal(obj: Any) -> str:
    kind = "class" if isinstance(obj, type) else "function" if callable(obj) else "object"
    name = getattr(obj, "__qualname__", None) or getattr(obj, "__name__", "?")
    return f"needs the {kind} {name!r}, which was defined in a cell; run that cell again"


def write_groups(values: dict[str, Any], writer: Writer, tells: bool = True) -> dict[str, str]:
    """Write every variable that can be pickled; give the reasons for the others by name."""
    refused: dict[str, str] = {}
    reached: dict[str, list[Any]] = {}
    copies = reducers.look(values)
    try:
        for name, value in values.items():
            try:
                reached[name] = _write(writer, {name: value})
            except _UnpicklableError as error:  # noqa: PERF203
                refused[name] = str(error)
        for group in _groups(reached):
            _regroup(group, values, writer)
    finally:
        reducers.forget()
    copies = [name for name in copies if name not in refused]
    if copies and tells:
        words = "share memory with other variables and are saved as copies of their own"
        place.notices.append(f"{', '.join(copies[:20])}: {words}.")
    return refused


def _regroup(names: list[str], values: dict[str, Any], writer: Writer) -> None:
    try:
        _write(writer, {name: values[name] for name in names})
    except _UnpicklableError:
        # Each could be pickled a moment ago; then each stays alone, and is carried all the same.
        return
    for name in names:
        writer.drop([name])


class _UnpicklableError(Exception):
    """A group could not be pickled; the words say why."""


def _write(writer: Writer, group: dict[str, Any]) -> list[Any]:
    """Append a group to the file; give the objects in it that others may share."""
    start = writer.file.tell()
    sink = _Sink(writer.file)
    pickler = _pickler_class()(sink, _PROTOCOL)
    try:
        pickler.dump(group)
    except (KeyboardInterrupt, GaveWay):
        raise
    except BaseException as error:
        writer.rewind(start)
        if sink.failure is not None:
            # The disk's fault, not the variable's.
            raise sink.failure from None
        raise _UnpicklableError(reason(error)) from None
    writer.add(list(group), start)
    writer.sources.update(getattr(pickler, "sources", {}))
    return _shareable(pickler, group)


def _shareable(pickler: pickle.Pickler, group: dict[str, Any]) -> list[Any]:
    """List what the pickler met and what it would matter to find twice.

    The objects, not their ids: some live for the pickle only, and their ids would be used again.
    """
    if sys.getsizeof(pickler) > _MAX_MEMO:
        return [value for value in group.values() if _has_identity(value)]
    memo = pickler.memo.copy()
    return [obj for _, obj in memo.values() if obj is not group and _has_identity(obj)]


def _has_identity(obj: Any) -> bool:
    """Tell values (numbers, strings, dtypes, enum members) from things by their own hash."""
    if isinstance(obj, (type, FunctionType)):
        return False
    own_hash: object = type(obj).__hash__
    return own_hash is None or own_hash is object.__hash__


class _Sink:
    """The file as the pickler sees it; remembers that writing failed."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            written: int = self._file.write(data)
        except OSError as error:
            self.failure = error
            raise
        return written


def _groups(reached: dict[str, list[Any]]) -> list[list[str]]:
    """Join variables that reach a common object, directly or by way of others."""
    leader: dict[str, str] = {name: name for name in reached}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    owner: dict[int, str] = {}
    for name, objects in reached.items():
        for obj in objects:
            other = owner.setdefault(id(obj), name)
            if other is not name:
                leader[find(name)] = find(other)
    joined: dict[str, list[str]] = {}
    for name in reached:
        joined.setdefault(find(name), []).append(name)
    return [names for names in joined.values() if len(names) > 1]


def read_group(file: BinaryIO) -> dict[str, Any]:
    """Unpickle a group from where the file stands."""
    group = pickle.Unpickler(file).load()
    if type(group) is not dict:
        raise pickle.UnpicklingError("not a group of variables")
    return group


def reason(error: BaseException) -> str:
    """Say in one line why something could not be carried."""
    try:
        text = str(error).strip().partition("\n")[0]
    except Exception:
        text = ""
    name = type(error).__name__
    if not text or isinstance(error, pickle.PicklingError):
        return text or name
    return f"{name}: {text}"
