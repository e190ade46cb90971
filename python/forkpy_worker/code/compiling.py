"""From a cell's text to code objects, `__future__` flags carried from cell to cell.

Owns: the session's compiler flags, and what longer cells were compiled to: agents send the same
cell again and again. May not run anything.
Runs in: worker main thread. Uses `compile` alone: importing `ast` would cost the first cell 2 ms.
"""

from __future__ import annotations

from _ast import (
    AnnAssign,
    Assign,
    AugAssign,
    Expr,
    Expression,
    Interactive,
    Load,
    Name,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any

CO_COROUTINE = 0x80
ONLY_AST = 0x400
TOP_LEVEL_AWAIT = 0x2000
# The bits of co_flags that stand for __future__ features, the same from 3.10 to 3.14 (a test
# compares them with the `__future__` module).
FUTURES = 0x1FE0000

# Longer code is never a bare expression worth a guess.
_GLANCE = 200
# Cells that are kept compiled, and how long each may be. Shorter ones than a glance are compiled as
# quickly as their code objects get another name.
_KEPT = 32
_LONGEST = 100_000

_flags = TOP_LEVEL_AWAIT
# Says which expressions show their values; there once IPython is imported, which can be told.
interactivity: Callable[[], str] | None = None
# By text and flags; the newest last.
_known: dict[tuple[str, int], tuple[CodeType | None, CodeType | None]] = {}


def compile_cell(code: str, filename: str) -> tuple[CodeType | None, CodeType | None]:
    """Compile a cell into (statements, last expression), either None when there is none."""
    if interactivity is not None:
        wanted = interactivity()
        if wanted != "last_expr":
            return _as_wanted(code, filename, wanted)
    if len(code) < _GLANCE and not ("\n" in code or "=" in code or "\\" in code):
        expression = as_expression(code, filename)
        if expression is not None:
            return None, expression
    if not _GLANCE <= len(code) <= _LONGEST:
        return _afresh(code, filename)
    key = code, _flags
    known = _known.pop(key, None)
    if known is None:
        known = _afresh(code, filename)
        while len(_known) >= _KEPT:
            del _known[next(iter(_known))]
        _known[key] = known
        return known
    _known[key] = known
    statements, last = (None if part is None else _renamed(part, filename) for part in known)
    return statements, last


def _renamed(code: CodeType, filename: str) -> CodeType:
    """Give compiled code, and all that is defined in it, the name of another cell."""
    consts = code.co_consts
    for place, const in enumerate(consts):
        if type(const) is type(code):
            consts = (*consts[:place], _renamed(const, filename), *consts[place + 1 :])
    return code.replace(co_filename=filename, co_consts=consts)


def _afresh(code: str, filename: str) -> tuple[CodeType | None, CodeType | None]:
    try:
        return _split(code, filename)
    except RecursionError:
        # Up to 3.12 the way over Python's own tree objects bears less depth than the compiler:
        # a sum of 2000 terms compiles, its tree does not.
        return _unsplit(code, filename)


def as_expression(code: str, filename: str) -> CodeType | None:
    """Compile a one-line expression in half the time that the way over the tree takes."""
    try:
        made: CodeType = compile(code, filename, "eval", _flags, True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # Not an expression, or not Python: the full way finds out, and has the better words.
        return None
    return made


def _split(code: str, filename: str) -> tuple[CodeType | None, CodeType | None]:
    tree = compile(code, filename, "exec", _flags | ONLY_AST, True)
    last = None
    if tree.body and type(tree.body[-1]) is Expr and not _is_hidden(tree.body[-1], code):
        last = Expression(tree.body.pop().value)
    statements = _compile(tree, filename, "exec") if tree.body else None
    # After the statements: a `from __future__` among them holds for the expression too.
    return statements, None if last is None else _compile(last, filename, "eval")


def _as_wanted(code: str, filename: str, wanted: str) -> tuple[CodeType | None, CodeType | None]:
    """Compile a cell whose expressions show their values in another way than usual.

    In code for mode "single" the expressions show theirs by `sys.displayhook`.
    """
    tree = compile(code, filename, "exec", _flags | ONLY_AST, True)
    body = tree.body
    hidden = bool(body) and type(body[-1]) is Expr and _is_hidden(body[-1], code)
    if not body or hidden or wanted == "none":
        return _compile(tree, filename, "exec"), None
    if wanted == "last_expr_or_assign":
        name = None if code.rstrip().endswith(";") else _assigned(body[-1])
        if name is None:
            return _split(code, filename)
        return _compile(tree, filename, "exec"), _compile(name, filename, "eval")
    shown = body if wanted == "all" else body[-1:]
    last = _compile(Interactive(shown), filename, "single")
    tree.body = body[: len(body) - len(shown)]
    return (_compile(tree, filename, "exec") if tree.body else None), last


def _assigned(statement: Any) -> Expression | None:
    """Give the variable that a statement assigns to, as an expression."""
    targets = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
    if type(statement) not in (Assign, AnnAssign, AugAssign) or len(targets) != 1:
        return None
    target = targets[0]
    if type(target) is not Name:
        return None
    return Expression(_at_the_place_of(Name(target.id, Load()), target))


def _at_the_place_of(new: Name, old: Name) -> Name:
    """Give a new part of a tree the place of an old one."""
    for name in ("lineno", "col_offset", "end_lineno", "end_col_offset"):
        setattr(new, name, getattr(old, name))
    return new


def _is_hidden(last: Expr, code: str) -> bool:
    """Whether a semicolon follows the last expression: its value is not to be shown."""
    if ";" not in code:
        return False
    # As the parser counts lines; columns are bytes of UTF-8.
    lines = code.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    rest = lines[(last.end_lineno or 1) - 1].encode()[last.end_col_offset or 0 :].decode()
    rest = "\n".join((rest, *lines[last.end_lineno or 1 :]))
    while rest:
        rest = rest.lstrip(" \t\f\n)\\")
        if not rest.startswith("#"):
            break
        rest = rest.partition("\n")[2]
    return rest.startswith(";")


def _unsplit(code: str, filename: str) -> tuple[CodeType | None, CodeType | None]:
    try:
        return None, _compile(code, filename, "eval")
    except SyntaxError:
        return _compile(code, filename, "exec"), None


def _compile(source: object, filename: str, mode: str) -> CodeType:
    global _flags
    code: CodeType = compile(source, filename, mode, _flags, True)  # type: ignore[call-overload]
    _flags |= code.co_flags & FUTURES
    return code
