"""What can be called and with what: signatures of living objects, the call that the cursor is in.

Owns: the rule which objects may be asked for a signature. None of their own code runs.
Runs in: worker, helper thread, also while a cell runs.
"""

from __future__ import annotations

import functools
import inspect
import io
import re
import tokenize
import types

from forkpy_worker.lookup import static

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CODE = (
    *(types.FunctionType, types.MethodType, types.BuiltinFunctionType, property),
    *(type(str.join), type(object.__init__)),
)
# What a call can be made on: names, attributes, and items by a literal.
_ITEM = r"\[\s*(?:-?\d+|[bBrRuU]{0,2}(?:'[^'\\\n]*'|\"[^\"\\\n]*\"))\s*\]"
_NAME = r"[^\W\d]\w*"
CHAIN = rf"(?<![\w.\])}}\"']){_NAME}(?:\s*\.\s*{_NAME}|\s*{_ITEM})*"
_PART = re.compile(rf"{_NAME}|{_ITEM}")
_CHAIN_AT_END = re.compile(rf"({CHAIN})\s*$")
_MAX_KEYS = 100_000


def signature(value: Any) -> inspect.Signature | None:
    """Give the signature of what may be asked for one."""
    if static.is_a(value, property):
        return None
    if not (static.is_a(value, (type, *CODE)) or is_librarys(value)):
        return _of_an_object(value)
    if static.is_a(value, type) and type(value) is not type and "ABC" not in type(value).__name__:
        # A metaclass may have a `__call__` or a `__signature__` of its own, which would run.
        return None
    try:
        return inspect.signature(value)
    except Exception:
        return None


def _of_an_object(value: Any) -> inspect.Signature | None:
    """Give the signature of a partial, of a cached function, or of an object with `__call__`."""
    if type(value) is functools.partial:
        return None if signature(value.func) is None else _asked(value)
    if type(value).__name__ in ("_lru_cache_wrapper", "_SingleDispatchCallable"):
        return _asked(value)
    call = inspect.getattr_static(type(value), "__call__", None)
    if static.is_a(call, types.FunctionType):
        return _asked(types.MethodType(call, value))
    return None


def _asked(value: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(value)
    except Exception:
        return None


def is_librarys(value: Any) -> bool:
    """Whether it is a function of a kind that a library has made for itself, as numpy's are."""
    return type(value).__module__ == "numpy" and callable(value) and hasattr(value, "__name__")


def follow(chain: str) -> Any:
    """Follow `a.b["c"][0]` as far as that needs no code to run, or give MISSING."""
    parts = _PART.findall(chain)
    value = static.name(parts[0]) if parts else static.MISSING
    for part in parts[1:]:
        if value is static.MISSING:
            return value
        value = _item(value, part) if part.startswith("[") else static.attribute(value, part)
    return value


def _item(value: Any, text: str) -> Any:
    import ast

    try:
        key = ast.literal_eval(text)[0]
    except (SyntaxError, ValueError):
        return static.MISSING
    if static.is_a(value, dict):
        if type(value).__getitem__ is not dict.__getitem__ or len(dict.keys(value)) > _MAX_KEYS:
            return static.MISSING
        # Not by hash: a key of the session's that has the same one would be asked.
        for known, item in list(dict.items(value)):
            if type(known) is type(key) and known == key:
                return item
        return static.MISSING
    if type(value) in (list, tuple, str, bytes) and type(key) is int:
        return value[key] if -len(value) <= key < len(value) else static.MISSING
    if type(value).__module__.partition(".")[0] in ("numpy", "pandas", "polars"):
        return _item_of_a_librarys(value, key)
    return static.MISSING


def _item_of_a_librarys(value: Any, key: Any) -> Any:
    """Take a column of a table, a field or an element of an array."""
    kind = type(value).__name__
    try:
        if kind == "DataFrame":
            return value[key] if key in list(value.columns) else static.MISSING
        if kind in ("ndarray", "recarray", "void", "record"):
            return value[key]
    except Exception:
        return static.MISSING
    return static.MISSING


def chain_at(code: str, cursor: int) -> str:
    """Give the chain with an item at the cursor, as far as the part where the cursor is."""
    for found in re.finditer(CHAIN, code):
        if found.start() <= cursor <= found.end() and "[" in found[0]:
            for part in _PART.finditer(found[0]):
                end = found.start() + part.end()
                if end >= cursor:
                    chain = code[found.start() : end]
                    return chain if "[" in chain else ""
    return ""


def keywords(before: str) -> tuple[int, list[str]]:
    """List the keywords that the call around the cursor takes, and where the begun one starts."""
    begun = re.search(rf"(?<![\w.])({_NAME})?$", before)
    if begun is None:
        return len(before), []
    word = begun[0]
    head = before[: len(before) - len(word)]
    opening = _open_call(head)
    if opening is None:
        return len(before), []
    callee = _CHAIN_AT_END.search(head[:opening])
    found = None if callee is None else follow(callee[1])
    signs = None if found is None or found is static.MISSING else signature(found)
    if signs is None:
        return len(before), []
    given = set(re.findall(rf"({_NAME})\s*=(?!=)", head[opening:]))
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [
        name
        for name, parameter in signs.parameters.items()
        if parameter.kind in kinds and name.startswith(word) and name not in given
    ]
    return len(head), names


def _open_call(head: str) -> int | None:
    """Find the bracket of the call in which an argument begins at the end of the text."""
    starts = [0]
    for line in io.StringIO(head):
        starts.append(starts[-1] + len(line))
    stack: list[tuple[str, int]] = []
    last = ""
    try:
        for token in tokenize.generate_tokens(io.StringIO(head).readline):
            if token.type in (tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.ENDMARKER):
                continue
            last = token.string
            if last in ("(", "[", "{"):
                stack.append((last, starts[token.start[0] - 1] + token.start[1]))
            elif last in (")", "]", "}") and stack:
                stack.pop()
    except (tokenize.TokenError, SyntaxError):
        # The code ends in the middle of the call.
        pass
    if not stack or stack[-1][0] != "(" or last not in ("(", ","):
        return None
    return stack[-1][1]
