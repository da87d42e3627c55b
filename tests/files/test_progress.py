"""What is told to whoever waits."""

import pytest

from tl_steer.files.progress import bar

KNOBS = {"label": "9 vectors", "text": "step {done} of {total}, objective {said}", "shown": True}


def test_where_no_bar_can_move_plain_lines_go_to_standard_error(capsys):
    with bar(**KNOBS, total=None) as show:
        show(said="about 12.5")
        show(completed=3, total=12, said="[7] {0}")
    told = capsys.readouterr()
    assert told.err.splitlines() == [
        "9 vectors about 12.5",
        "9 vectors step 3 of 12, objective [7] {0}",
    ]
    assert told.out == ""


def test_ten_lines_tell_of_a_thousand_steps(capsys):
    with bar("sweep", "prompt {done} of {total}", total=1000, shown=True) as show:
        for _ in range(1000):
            show(advance=1)
    told = capsys.readouterr().err.splitlines()
    assert told == [f"sweep prompt {n} of 1000" for n in range(0, 1001, 100)]


def test_what_nobody_is_to_see_is_not_told(capsys):
    with bar(**KNOBS | {"shown": False}, total=12) as show:
        show(advance=1, said="7")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("done", [0, 5])
def test_a_terminal_gets_a_bar_that_never_counts_to_nothing(monkeypatch, capsys, done):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setenv("COLUMNS", "120")
    with bar(**KNOBS, total=None, done=done) as show:
        show(completed=done + 1, total=12, said="[7]")
    told = capsys.readouterr()
    assert f"step {done + 1} of 12, objective [7]" in told.out
    assert "None" not in told.out
    assert "0 of" not in told.out
    assert told.err == ""
