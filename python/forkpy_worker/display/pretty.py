"""The text of a value as notebooks write it: a long list, dict or set with one item on each line.

Owns: nothing. The layout, the forms of the types and the printer that `_repr_pretty_` methods are
given are those of IPython's `lib.pretty` (by Armin Ronacher, BSD licence), so that a value has the
same text here and in Jupyter; IPython itself would take a third of a second to import.
Runs in: worker, in the thread that shows a value. Values of a cell may do anything when they are
asked for their text; what they raise goes on to the caller.
"""

from __future__ import annotations

import types

from forkpy_worker.base import place
from forkpy_worker.display.layout import MAX_ITEMS, WIDTH, Layout, TooManyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeAlias

    Form: TypeAlias = Callable[[Any, "Printer", bool], None]

_SCALARS: frozenset[type] = frozenset((int, float, str, bool, bytes, complex, type(None)))
_FLAT = {list: "[]", tuple: "()", set: "{}"}


def text(value: Any) -> str:
    """Give the text of a value."""
    kind = type(value)
    if kind in _SCALARS:
        return repr(value)
    if kind in _FLAT and len(value) <= MAX_ITEMS and _SCALARS.issuperset(map(type, value)):
        found = repr(value)
        if len(found) <= WIDTH and kind is not set:
            return found
        if kind is list and len(found) > WIDTH:
            return "[" + ",\n ".join(map(repr, value)) + "]"
    printer = Printer(MAX_ITEMS if place.in_notebook else None)
    try:
        printer.pretty(value)
    except TooManyError:
        return repr(value)
    printer.flush()
    return "".join(printer.parts)


class Printer(Layout):
    """Lays values out; `_repr_pretty_` methods are given one."""

    def pretty(self, value: Any) -> None:
        """Add a value in its type's form."""
        kind = type(value)
        if kind in _SCALARS:
            self.text(repr(value))
            return
        cycle = id(value) in self.stack
        self.stack.append(id(value))
        self.begin_group()
        try:
            _form(value)(value, self, cycle)
        finally:
            self.end_group()
            self.stack.pop()


def _form(value: Any) -> Form:
    """Find how a value is written: by its type, its own method, or its `repr`."""
    kind = getattr(value, "__class__", None) or type(value)
    for base in getattr(kind, "__mro__", type(value).__mro__):
        found = _FORMS.get(base)
        if found is None:
            named = _NAMED.get(base.__name__)
            found = named[1] if named is not None and named[0] == base.__module__ else None
        if found is not None:
            return found
        own = base.__dict__.get("_repr_pretty_")
        if own is not None and callable(getattr(base, "_repr_pretty_", None)):
            form: Form = base._repr_pretty_  # type: ignore[union-attr]
            return form
        if (
            base is not object
            and callable(getattr(base, "__repr__", None))
            and "__repr__" in base.__dict__
        ):
            return _by_repr
    return _by_repr if kind.__repr__ is not object.__repr__ else _by_address


def _by_repr(value: Any, printer: Printer, _cycle: bool) -> None:
    lines = repr(value).splitlines()
    with printer.group():
        for number, line in enumerate(lines):
            if number:
                printer.break_()
            printer.text(line)


def _by_address(value: Any, printer: Printer, cycle: bool) -> None:
    printer.begin_group(1, "<")
    printer.pretty(type(value))
    printer.text(f" at 0x{id(value):x}")
    if cycle:
        printer.text(" ...")
    printer.end_group(1, ">")


def _sequence(open: str, close: str) -> Form:  # noqa: A002
    def form(value: Any, printer: Printer, cycle: bool) -> None:
        if cycle:
            printer.text(f"{open}...{close}")
            return
        printer.begin_group(len(open), open)
        for number, item in printer.items(value):
            if number:
                printer.text(",")
                printer.breakable()
            printer.pretty(item)
        if len(value) == 1 and isinstance(value, tuple):
            printer.text(",")
        printer.end_group(len(open), close)

    return form


def _set(open: str, close: str) -> Form:  # noqa: A002
    sequence = _sequence(open, close)

    def form(value: Any, printer: Printer, cycle: bool) -> None:
        if cycle or len(value) == 0:
            printer.text(f"{open}...{close}" if cycle else f"{type(value).__name__}()")
        else:
            sequence(
                _sorted(value) if len(value) < printer.max_seq_length else value, printer, False
            )

    return form


def _sorted(values: Iterable[Any]) -> list[Any]:
    values = list(values)
    for key in (None, str):
        try:
            return sorted(values, key=key)
        except Exception:  # noqa: PERF203
            continue
    return values


def _dict(open: str, close: str) -> Form:  # noqa: A002
    def form(value: Any, printer: Printer, cycle: bool) -> None:
        if cycle:
            printer.text("{...}")
            return
        printer.begin_group(len(open), open)
        for number, key in printer.items(value.keys()):
            if number:
                printer.text(",")
                printer.breakable()
            printer.pretty(key)
            printer.text(": ")
            printer.pretty(value[key])
        printer.end_group(len(open), close)

    return form


def _call(printer: Printer, name: str, *arguments: Any, **options: Any) -> None:
    """Write `name(argument, option=...)`; a `_Raw` argument stands as it is."""
    started = False

    def begin() -> None:
        nonlocal started
        if started:
            printer.text(",")
            printer.breakable()
        started = True

    with printer.group(len(name) + 1, f"{name}(", ")"):
        for argument in arguments:
            begin()
            printer.pretty(argument)
        for option, argument in options.items():
            begin()
            with printer.group(len(option) + 1, f"{option}="):
                printer.pretty(argument)


class _Raw:
    """Words among values."""

    def __init__(self, words: str) -> None:
        self._words = words

    def _repr_pretty_(self, printer: Printer, _cycle: bool) -> None:
        printer.text(self._words)


def _class(value: Any, printer: Printer, cycle: bool) -> None:
    if next(base for base in type(value).__mro__ if "__repr__" in vars(base)) is not type:
        _by_repr(value, printer, cycle)
        return
    module = getattr(value, "__module__", None)
    name = value.__qualname__ if isinstance(value.__qualname__, str) else value.__name__
    printer.text(name if module in (None, "builtins") else f"{module}.{name}")


def _function(value: Any, printer: Printer, _cycle: bool) -> None:
    from contextlib import suppress
    from inspect import signature

    name = getattr(value, "__qualname__", value.__name__)
    if value.__module__ and value.__module__ != "builtins":
        name = f"{value.__module__}.{name}"
    with suppress(ValueError):
        name += str(signature(value))
    printer.text(f"<function {name}>")


def _exception(value: Any, printer: Printer, _cycle: bool) -> None:
    name = type(value).__qualname__
    if type(value).__module__ != "builtins":
        name = f"{type(value).__module__}.{name}"
    _call(printer, name, *getattr(value, "args", ()))


def _super(value: Any, printer: Printer, _cycle: bool) -> None:
    printer.begin_group(8, "<super: ")
    printer.pretty(value.__thisclass__)
    printer.text(",")
    printer.breakable()
    printer.pretty(value.__self__)
    printer.end_group(8, ">")


_FLAGS = ("IGNORECASE", "LOCALE", "MULTILINE", "DOTALL", "UNICODE", "VERBOSE", "DEBUG")


def _pattern(value: Any, printer: Printer, _cycle: bool) -> None:
    import re

    pattern = _Raw("r" + repr(value.pattern).replace("\\\\", "\\"))
    flags = "|".join(f"re.{flag}" for flag in _FLAGS if value.flags & getattr(re, flag))
    _call(printer, "re.compile", pattern, *([_Raw(flags)] if value.flags else []))


def _namespace(value: Any, printer: Printer, cycle: bool) -> None:
    if cycle:
        _call(printer, "namespace", _Raw("..."))
    else:
        _call(printer, "namespace", **value.__dict__)


def _made_of(parts: Callable[[Any], tuple[list[Any], dict[str, Any]]]) -> Form:
    """Write as a call of the class with what it is made of."""

    def form(value: Any, printer: Printer, cycle: bool) -> None:
        arguments, options = ([_Raw("...")], {}) if cycle else parts(value)
        _call(printer, type(value).__name__, *arguments, **options)

    return form


_FORMS: dict[type, Form] = {
    **dict.fromkeys(
        (*_SCALARS, range, slice, type(...), type(NotImplemented), types.MethodType), _by_repr
    ),
    tuple: _sequence("(", ")"),
    list: _sequence("[", "]"),
    dict: _dict("{", "}"),
    set: _set("{", "}"),
    frozenset: _set("frozenset({", "})"),
    types.MappingProxyType: _dict("mappingproxy({", "})"),
    super: _super,
    type: _class,
    types.FunctionType: _function,
    types.BuiltinFunctionType: _function,
    types.SimpleNamespace: _namespace,
    BaseException: _exception,
}
# By module and name: they need not be imported for that.
_NAMED: dict[str, tuple[str, Form]] = {
    "Pattern": ("re", _pattern),
    "_Environ": ("os", _dict("environ{", "}")),
    "defaultdict": (
        "collections",
        _made_of(lambda value: ([value.default_factory, dict(value)], {})),
    ),
    "OrderedDict": (
        "collections",
        _made_of(lambda value: ([list(value.items())] if value else [], {})),
    ),
    "deque": (
        "collections",
        _made_of(
            lambda value: ([list(value)], {} if value.maxlen is None else {"maxlen": value.maxlen})
        ),
    ),
    "Counter": (
        "collections",
        _made_of(lambda value: ([dict(value.most_common())] if value else [], {})),
    ),
    "UserList": ("collections", _made_of(lambda value: ([value.data], {}))),
}
