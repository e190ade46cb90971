"""What is said of a cell that did not end well."""

from forkpy_worker.cell import run as cell


def test_an_exception_whose_words_fail_is_reported_all_the_same() -> None:
    code = "class Sly(Exception):\n    def __str__(self): raise ValueError\nraise Sly"
    status, _, error, *_ = cell.run_cell(201, code)
    assert (status, error[0], error[1]) == ("error", "Sly", "<exception str() failed>")


def test_a_chain_of_exceptions_is_shown_whole() -> None:
    code = "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e"
    error = cell.run_cell(202, code)[2]
    assert error[0] == "KeyError" and error[2] == 4
    assert "ZeroDivisionError" in error[3] and "direct cause" in error[3]


def test_own_frames_are_left_out() -> None:
    error = cell.run_cell(203, "print(**{'no_such': 1})")[2]
    assert error[0] == "TypeError"
    assert "forkpy_worker" not in error[3]


def test_exit_codes_follow_pythons_rules() -> None:
    for code, expected in (("", 0), ("None", 0), ("True", 1), ("7", 7), ("'words'", 1)):
        assert cell.run_cell(204, f"raise SystemExit({code})")[3] == expected


def test_input_is_refused_in_clear_words() -> None:
    from forkpy_worker.base import streams

    assert "no standard input" in streams.NO_INPUT
