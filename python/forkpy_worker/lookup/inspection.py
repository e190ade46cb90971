"""What an object is: signature, documentation, source, type, value in short.

Owns: nothing. Living objects are looked at by `static`; none of their own code runs.
Runs in: worker, helper thread, also while a cell runs.
"""

from __future__ import annotations

import inspect
import io
import json
import tokenize
import types

from forkpy_worker.base.text import clean, cut
from forkpy_worker.lookup import calls, static

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_DOC = 20_000
MAX_SOURCE = 40_000


def inspect_object(code: str, cursor: int, detail: int) -> str:
    """Answer a request for inspection, as JSON."""
    chain = calls.chain_at(code, cursor)
    value = calls.follow(chain) if chain else static.MISSING
    dotted = [chain] if value is not static.MISSING else at_cursor(code, cursor)
    facts: dict[str, str] = {}
    if value is static.MISSING and dotted:
        value = static.path(dotted)
    if value is not static.MISSING:
        facts = _facts(value, detail, dotted[-1])
    elif dotted:
        facts = _by_jedi(code, cursor, detail)
    data = {"text/plain": _text(facts)} if facts else {}
    metadata = {"name": ".".join(dotted), **{k: v for k, v in facts.items() if k in ("type",)}}
    return json.dumps({"found": bool(facts), "data": data, "metadata": metadata})


def at_cursor(code: str, cursor: int) -> list[str]:
    """Find the dotted name at the cursor, or the function whose call the cursor is in."""
    starts = _line_starts(code)
    calls: list[list[str]] = []
    enclosing: list[str] = []
    chain: list[str] = []
    begin, dot = 0, False
    for token in _tokens(code):
        start = starts[token.start[0] - 1] + token.start[1]
        end = starts[token.end[0] - 1] + token.end[1]
        if token.type == tokenize.NAME:
            chain, begin = ([*chain, token.string], begin) if dot else ([token.string], start)
            if begin <= cursor <= end:
                # `a.b` with the cursor on `a` is about `a`.
                return chain
        else:
            _open_or_close(calls, token.string, chain)
        if end <= cursor:
            enclosing = next((call for call in reversed(calls) if call), [])
        dot = token.string == "." and bool(chain)
        if token.type != tokenize.NAME and not dot:
            chain = []
    return enclosing


def _open_or_close(calls: list[list[str]], bracket: str, callee: list[str]) -> None:
    if bracket == "(":
        calls.append(callee)
    elif bracket == ")" and calls:
        calls.pop()


def _tokens(code: str) -> list[tokenize.TokenInfo]:
    found: list[tokenize.TokenInfo] = []
    try:
        found.extend(tokenize.generate_tokens(io.StringIO(code.replace("?", " ")).readline))
    except (tokenize.TokenError, SyntaxError):
        # Code that is being written; what came until here is what there is, or was lost with it.
        return found or _simple_tokens(code)
    return found


def _simple_tokens(code: str) -> list[tokenize.TokenInfo]:
    import re

    tokens = []
    for row, line in enumerate(code.split("\n"), 1):
        for word in re.finditer(r"[^\W\d]\w*|[^\w\s]", line):
            kind = tokenize.NAME if word[0][0].isidentifier() else tokenize.OP
            where = (row, word.start()), (row, word.end())
            tokens.append(tokenize.TokenInfo(kind, word[0], *where, line))
    return tokens


def _line_starts(code: str) -> list[int]:
    starts, place = [0], 0
    for line in io.StringIO(code):
        place += len(line)
        starts.append(place)
    return [*starts, place]


def _facts(value: Any, detail: int, called: str) -> dict[str, str]:
    kind = type(value)
    facts = {"type": kind.__name__}
    target = value.fget if static.is_a(value, property) and value.fget is not None else value
    signature = _signature(value, called)
    if signature:
        facts["signature"] = signature
    document = _document(target)
    if document:
        facts["docstring"] = cut(document, MAX_DOC)
    if not static.is_a(value, (type, types.ModuleType, *_CODE)) and not calls.is_librarys(value):
        facts["value"] = _short(value)
    file = _file(target)
    if file:
        facts["file"] = file
    if detail > 0:
        source = _source(target)
        if source:
            facts["source"] = cut(source, MAX_SOURCE)
    return facts


_CODE = calls.CODE


def _signature(value: Any, called: str) -> str:
    found = calls.signature(value)
    if found is None:
        return ""
    name = getattr(value, "__name__", None) if static.is_a(value, (type, *_CODE)) else None
    if name is None:
        name = getattr(value, "__name__", "") if calls.is_librarys(value) else called
    return f"{name}{found}"


def _document(value: Any) -> str:
    """The object's own words, or its class's."""
    found = inspect.getattr_static(value, "__doc__", None)
    if static.is_a(value, (type, types.ModuleType, *_CODE)):
        found = getattr(value, "__doc__", None)
        if found is None:
            try:
                found = inspect.getdoc(value)
            except Exception:
                found = None
    if type(found) is not str:
        return ""
    return clean(inspect.cleandoc(found))


def _file(value: Any) -> str:
    try:
        if static.is_a(value, types.MethodType):
            value = value.__func__
        if static.is_a(value, (type, types.ModuleType, types.FunctionType)):
            return clean(inspect.getfile(value))
    except (TypeError, OSError):
        pass
    return ""


def _source(value: Any) -> str:
    target = value
    if not static.is_a(value, (type, types.ModuleType, types.FunctionType, types.MethodType)):
        target = type(value)
    try:
        return clean(inspect.getsource(target))
    except Exception:
        return ""


def _short(value: Any) -> str:
    from forkpy_worker.variables import summaries

    return summaries.Quiet().summary(value).partition(": ")[2]


def _by_jedi(code: str, cursor: int, detail: int) -> dict[str, str]:
    """Tell about names that the code itself defines or imports: they do not live yet."""
    from forkpy_worker.lookup import completion

    view = completion.interpreter(code)
    if view is None:
        return {}
    try:
        found = view.help(*completion.position(code, cursor))
    except Exception:
        return {}
    for item in found[:1]:
        facts = {"type": item.type}
        signatures = item.get_signatures()
        if signatures:
            facts["signature"] = signatures[0].to_string()
        document = item.docstring(raw=True)
        if document:
            facts["docstring"] = cut(clean(document), MAX_DOC)
        if item.module_path:
            facts["file"] = str(item.module_path)
        if detail > 0:
            facts["source"] = cut(clean(item.get_line_code()), MAX_SOURCE)
        return facts
    return {}


_TITLES = (
    ("signature", "Signature"),
    ("type", "Type"),
    ("value", "Value"),
    ("docstring", "Docstring"),
    ("source", "Source"),
    ("file", "File"),
)


def _text(facts: dict[str, str]) -> str:
    lines = []
    for key, title in _TITLES:
        words = facts.get(key)
        if words:
            lines.append(f"{title}:\n{words}" if "\n" in words else f"{title}: {words}")
    return "\n".join(lines)
