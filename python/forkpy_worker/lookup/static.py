"""Looking at live objects without running any code of theirs.

Owns: nothing. No property, descriptor, `__getattr__`, `__dir__`, `__len__` or `__repr__` of a
session's object is called from here: names are looked up in the dictionaries that Python keeps.
Runs in: worker, helper thread, also while a cell runs.
"""

from __future__ import annotations

import builtins
import inspect
import types

from forkpy_worker.base.place import namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MISSING = object()
_MODULE: Any = types.ModuleType
_DICT_OF_TYPE = type.__dict__["__dict__"].__get__
_MRO_OF_TYPE = type.__dict__["__mro__"].__get__
_DICT_OF_MODULE = _MODULE.__dict__["__dict__"].__get__
# What a lookup may pass through: it gives the object behind, and nothing is computed.
_TRANSPARENT = (staticmethod, classmethod)


def is_a(value: Any, kinds: Any) -> bool:
    """Tell by the type itself: `isinstance` also asks the object for its `__class__`."""
    return issubclass(type(value), kinds)


def name(text: str) -> Any:
    """Give what a cell would find under a name, or MISSING."""
    found = namespace.get(text, MISSING)
    return builtins.__dict__.get(text, MISSING) if found is MISSING else found


def path(dotted: list[str]) -> Any:
    """Follow `a.b.c` as far as that needs no code to run, or give MISSING."""
    value = name(dotted[0])
    for part in dotted[1:]:
        if value is MISSING:
            return MISSING
        value = attribute(value, part)
    return value


def attribute(value: Any, name: str) -> Any:
    """Give an attribute as it is stored; MISSING when there is none, or only code could tell."""
    found = inspect.getattr_static(value, name, MISSING)
    if is_a(found, types.MemberDescriptorType) and not is_a(value, type):
        # A slot: C code reads it, and no code of the session's runs.
        try:
            return found.__get__(value)
        except AttributeError:
            return MISSING
    if is_a(found, _TRANSPARENT):
        return found.__func__
    if (
        is_a(found, types.FunctionType)
        and not is_a(value, (type, _MODULE))
        and is_inherited(value, name)
    ):
        return types.MethodType(found, value)
    return found


def is_inherited(value: Any, name: str) -> bool:
    """Whether an attribute comes from the object's class and not from the object itself."""
    return name not in (own_names(value) or {})


def own_names(value: Any) -> dict[str, Any] | None:
    """Give the object's own dictionary, if it has one."""
    try:
        if is_a(value, type):
            return dict(_DICT_OF_TYPE(value))
        if is_a(value, _MODULE):
            found: dict[str, Any] | None = _DICT_OF_MODULE(value)
            return found
        found = object.__getattribute__(value, "__dict__") if _has_plain_dict(value) else None
    except Exception:
        return None
    return found if type(found) is dict else None


def _has_plain_dict(value: Any) -> bool:
    """A class may define `__dict__` as a property of its own."""
    descriptor = inspect.getattr_static(type(value), "__dict__", None)
    return descriptor is None or isinstance(descriptor, types.GetSetDescriptorType)


def attributes(value: Any) -> dict[str, Any]:
    """Give all names of an object with what is stored under them."""
    found: dict[str, Any] = {}
    kinds = [type(value)]
    if is_a(value, type):
        kinds = [value, type(value)]
    for kind in kinds:
        for base in reversed(_MRO_OF_TYPE(kind)):
            if kind is type(value) and is_a(value, type) and base is object:
                continue
            found.update(dict(_DICT_OF_TYPE(base)) if kind is not type else {})
    own = own_names(value)
    if own:
        if is_a(value, _MODULE) and type(own.get("__all__")) in (list, tuple):
            # What a module makes only when it is asked for, as numpy does, is announced there.
            found.update({key: MISSING for key in own["__all__"] if type(key) is str})
        found.update({key: item for key, item in own.items() if type(key) is str})
    return found


def word(value: Any) -> str:
    """Say in a word what an object is."""
    if is_a(value, _MODULE):
        return "module"
    if is_a(value, type):
        return "class"
    if is_a(value, property):
        return "property"
    if is_a(
        value, (types.FunctionType, types.BuiltinFunctionType, types.MethodType, *_TRANSPARENT)
    ) or type(value).__name__ in ("method_descriptor", "wrapper_descriptor", "method-wrapper"):
        return "function"
    return "instance"


def is_library(value: Any) -> bool:
    """Whether an object is of a library, as far as that matters to what may be asked of it."""
    return type(value).__module__.partition(".")[0] in ("numpy", "pandas", "polars", "torch") or (
        type(value) in _HARMLESS or is_a(value, (_MODULE, types.FunctionType))
    )


_HARMLESS = frozenset((int, float, complex, bool, str, bytes, list, dict, tuple, set, frozenset))


def shown_in_completion() -> dict[str, Any]:
    """Give the part of the namespace that a completion library may ask anything it likes."""
    return {
        key: value
        for key, value in list(namespace.items())
        if type(key) is str and (is_library(value) or (is_a(value, type) and type(value) is type))
    }
