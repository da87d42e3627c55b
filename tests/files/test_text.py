"""Nothing that a file or a model says can do more than be read."""

import dataclasses
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given, settings, strategies as st

from tl_steer.errors import BankFileError, HookPointError, SettingError
from tl_steer.files.tables import Sheet, to_csv, to_html, to_text
from tl_steer.files.text import one_line, plain

HOSTILE = "\x1b]0;title\x07\x9b31m‮flip\ud800​\x00"
MARKUP = ("[/x]", "[red]", "[link=http://x]y[/link]", "[bold", "\\[x]")


# Joiners and selectors are seen only in emoji and in words of some scripts, which have tests.
JOINERS = "\u200c\u200d\ufe0e\ufe0f"


def harmless(text):
    """No character that does something, or that is there and not seen."""
    kinds = {unicodedata.category(c) for c in text if c not in "\n\t" + JOINERS}
    return not kinds & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters()))
def test_whatever_comes_can_be_printed(text):
    assert harmless(plain(text))
    assert harmless(one_line(text))
    assert not set("\n\t\r") & set(one_line(text))
    plain(text).encode("utf-8")
    assert plain(plain(text)) == plain(text)


ORDINARY = (
    "Bonjour\u00a0! Ça va\u202f? 12\u202f345,6\u00a0€",
    "a\tb\n",
    "\u2764\ufe0f\u200d\U0001f525",
    "\U0001f469\U0001f3fd\u200d\U0001f4bb",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "\U0001f3f3\ufe0f\u200d\U0001f308",
    "1\ufe0f\u20e3",
    "می\u200cخواهم",
    "ක්\u200dෂ",
    "nguye\u0302\u0303n tiếng Việt שָׁלוֹם",
)
HIDDEN = (
    "user\u200dname",
    "pass\u200cword",
    "\u200da",
    "\U0001f525\u200d",
    "a\ufe0f",
    "\ufe0f",
    "\U0001f600\U000e0101\U000e0102",
    "\U0001f600\ufe01",
    "\U000e0067\U000e0062",
    "a\u200bb",
    "\u2060",
    "\ufeff",
    "ad\u00admin",
    "\u3164",
    "\u2066x\u2069",
    "\u200fx",
    "\u2028",
    "a\rb",
    "\x9b31m",
    "\ue000",
)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_reads_as_it_is(text):
    assert plain(text) == text


@pytest.mark.parametrize("text", HIDDEN)
def test_what_is_not_seen_is_spelled(text):
    assert "\\" in plain(text)
    assert plain(text).isascii() or "\U0001f600" in text or "\U0001f525" in text


def test_selectors_cannot_carry_a_text():
    """One chooses how a sign is drawn; the rest of a row of them is spelled."""
    row = "\u2764" + "\ufe0f" * 5
    assert plain(row) == "\u2764\ufe0f" + "\\ufe0f" * 4


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
    assert to_csv([{"\ta": "\t1", "b": "＝1"}]).split() == ["'", "a,b", "'", "1,'＝1"]
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
