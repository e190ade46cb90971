"""From text to code objects."""

import __future__

import pytest

from forkpy_worker.cell import run as cell
from forkpy_worker.code import compiling


def test_the_future_bits_are_those_of_the_future_module() -> None:
    features = [getattr(__future__, name) for name in __future__.all_feature_names]
    known = 0
    for feature in features:
        known |= feature.compiler_flag
    # `nested_scopes` and `generators` have shared bits outside the range for thirty years.
    assert known & ~compiling.FUTURES <= 0x30
    assert __future__.annotations.compiler_flag & compiling.FUTURES


def test_a_future_import_holds_for_later_cells() -> None:
    assert cell.run_cell(101, "from __future__ import annotations")[0] == "ok"
    code = "def f(x: NoSuchName) -> AnotherOne: ...\nf.__annotations__['x']"
    assert cell.run_cell(102, code)[1] == ["'NoSuchName'"]


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        ("1 + 1", (False, True)),
        ("x = 1", (True, False)),
        ("x = 1\nx", (True, True)),
        ("# only a comment", (False, False)),
        ("if True:\n    1", (True, False)),
    ],
)
def test_a_last_expression_is_told_from_statements(code: str, parts: tuple[bool, bool]) -> None:
    statements, last = compiling.compile_cell(code, "<test>")
    assert (statements is not None, last is not None) == parts


def test_a_syntax_error_shows_the_line_and_a_caret() -> None:
    status, _, error, *_ = cell.run_cell(103, "x = 1\nif x\n    pass")
    assert status == "error"
    assert error[0] == "SyntaxError" and error[2] == 2
    assert "if x\n" in error[3] and "^" in error[3]


def test_deep_expressions_compile_as_in_a_script() -> None:
    assert cell.run_cell(104, "+".join(["1"] * 2000))[1] == ["2000"]


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("5;", False),
        ("x = 1; 5 ;  # five", False),
        ("(5\n);", False),
        ("(5 # ;\n)", True),
        ("'ä;'", True),
        ("'ä' ;", False),
        ("5 # a; b;", True),
        ("a = 1; 5", True),
        ("5\r\n;", None),
    ],
)
def test_a_semicolon_hides_the_last_value(code: str, shown: bool | None) -> None:
    if shown is None:
        with pytest.raises(SyntaxError):
            compiling.compile_cell(code, "<cell 1>")
        return
    assert (compiling.compile_cell(code, "<cell 1>")[1] is not None) is shown


def test_a_longer_cell_that_comes_again_is_not_compiled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = (
        "def outer():\n    def inner():\n        return [x for x in (1, 2)]\n    return inner\n"
        + "# padding\n" * 30
        + "outer"
    )
    statements, last = compiling.compile_cell(code, "<cell 1>")
    monkeypatch.setattr(compiling, "compile", None, raising=False)
    again = compiling.compile_cell(code, "<cell 2>")
    assert statements is not None and last is not None
    names: list[str] = []

    def collect(part: object) -> None:
        if isinstance(part, type(collect.__code__)):
            names.append(part.co_filename)
            for const in part.co_consts:
                collect(const)

    collect(again[0])
    collect(again[1])
    assert len(names) >= 4
    assert set(names) == {"<cell 2>"}
    # What the first cell defined still says where it came from.
    assert statements.co_filename == last.co_filename == "<cell 1>"


def test_an_error_in_a_cell_that_comes_again_names_the_new_cell() -> None:
    code = "def fails():\n    return 1 / 0\n" + "# padding\n" * 30 + "fails()"
    for number in (201, 202):
        status, _results, error, *_ = cell.run_cell(number, code)
        assert status == "error"
        assert error is not None
        assert f"<cell {number}>" in error[3]
        assert "return 1 / 0" in error[3]


def test_few_cells_are_kept_compiled() -> None:
    for number in range(100):
        compiling.compile_cell(f"x = {number}\n" + "# padding\n" * 30, "<test>")
    assert len(compiling._known) <= 32
