"""Nothing that a file or a model says can do more than be read."""

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given, settings, strategies as st

from tl_steer.errors import BankFileError, HookPointError, SettingError
from tl_steer.files.tables import Sheet, to_csv, to_html, to_text
from tl_steer.files.text import one_line, plain

HOSTILE = "\x1b]0;title\x07\x9b31m‮flip\ud800​\x00"
MARKUP = ("[/x]", "[red]", "[link=http://x]y[/link]", "[bold", "\\[x]")


def harmless(text):
    return all(c.isprintable() or c == "\n" for c in text)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters()))
def test_whatever_comes_can_be_printed(text):
    assert harmless(plain(text))
    assert one_line(text).isprintable()
    plain(text).encode("utf-8")
    if text.isprintable():
        assert plain(text) == text


@pytest.mark.parametrize("kind", [SettingError, BankFileError, HookPointError])
def test_errors_say_what_a_file_said_harmlessly(kind):
    assert harmless(str(kind(f"no field {HOSTILE}")))


@pytest.mark.parametrize("place", ["title", "columns", "rows", "note"])
@pytest.mark.parametrize("text", [HOSTILE, *MARKUP])
def test_every_part_of_a_table_is_shown_as_text(place, text):
    value = {"title": text, "note": text, "columns": (text,), "rows": ((text,),)}[place]
    sheet = dataclasses.replace(Sheet("t", ("c",), (("r",),), "n"), **{place: value})
    for shown in (to_text(sheet), to_html(sheet)):
        assert harmless(shown)
    assert plain(text) in to_text(sheet).replace("\n", "")


def test_a_cell_cannot_make_a_row_of_its_own():
    sheet = Sheet("t", ("c", "d"), (("a\nb", "x"),))
    assert "a⏎b" in to_text(sheet)


def test_csv_has_neither_escapes_nor_formulas_in_heading_or_cells():
    text = to_csv([{HOSTILE: HOSTILE, "=a": "=1+1", "n": -1.5, "l": ["\x1b"], "s": " =1"}])
    assert harmless(text.replace("\r\n", "\n"))
    assert "'=a" in text
    assert "'=1+1" in text
    assert "' =1" in text
    assert "-1.5" in text


def test_a_commands_error_is_one_line_without_escapes(tmp_path):
    path = tmp_path / "\x1b]0;evil\x07[red].safetensors"
    path.write_bytes(b"no")
    for line in (["show", str(path)], ["report", str(tmp_path), "--out", "x.html"]):
        done = subprocess.run(
            [sys.executable, "-m", "tl_steer", *line], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert harmless(done.stderr)
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("Error: ")
