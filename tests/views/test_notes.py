"""Notes written into a report's page, read from its file and brought into the bank."""

import dataclasses
import json
import sys

import pytest
import torch
from conftest import bank_of
from typer.testing import CliRunner

import tl_steer as ts
from tl_steer import cli
from tl_steer.banks.file import BANK_FILE
from tl_steer.errors import ReportFileError, RowError, SettingError
from tl_steer.views.notes import block
from tl_steer.views.page import document, embedded


def note(flag="", label="", comment=""):
    return {"flag": flag, "label": label, "comment": comment}


def page_of(held, **given):
    """A page as `Save copy` leaves it; `given` is what `document` takes besides."""
    return document("Report", {"overview": {}, "notes": held}, start="", circuitsvis=False, **given)


@pytest.fixture
def copy(tmp_path):
    """The file of a report about a bank, with notes in it."""

    def write(bank, notes, **given):
        path = tmp_path / "report-notes.html"
        path.write_text(page_of(block(bank) | {"notes": notes}, **given), encoding="utf-8")
        return path

    return write


@pytest.fixture
def bank(one):
    return bank_of(one)


# --- into the bank


def test_flags_and_labels_come_back_as_marks_and_comments_as_comments(bank, copy):
    path = copy(
        bank,
        {
            "2": note("benign", comment="two\nlines"),
            "1": note("dangerous", "leaks the prompt", "é 🙂"),
            "0": note(label="French"),
        },
    )
    notes = ts.views.notes(path)
    assert notes.numbers == (0, 1, 2)
    assert (notes.bank, notes.model) == (bank.digest(), bank.provenance.model)
    noted = notes.onto(bank)
    marked = ts.mark(bank, 1, "dangerous", note="leaks the prompt")
    assert noted.labels == ts.mark(marked, 2, "benign").label(0, "French").labels
    assert noted.comments == ("", "é 🙂", "two\nlines", "")
    assert torch.equal(noted.vectors, bank.vectors)
    assert noted.digest() == bank.digest()
    assert ts.banks.marked(noted, "dangerous").numbers == (1,)


def test_vectors_are_found_by_their_numbers_not_by_their_rows(bank, copy):
    turned = bank[[3, 1]]
    noted = ts.views.notes(copy(turned, {"3": note(label="the third")})).onto(turned)
    assert noted.labels == ("the third", "")


def test_what_nobody_touched_stays(bank, copy):
    long = "dangerous: " + "x" * 300
    before = dataclasses.replace(
        bank, labels=(long, "Benign : yes", "kept", ""), comments=("c" * 5000, "", "", "")
    )
    shown = block(before)["marks"]
    assert len(shown["0"]["label"]) == 200
    assert len(shown["0"]["comment"]) == 4000
    assert shown["1"] == note("benign", "yes")
    assert "3" not in shown
    flagged = shown["0"] | {"flag": "unclear"}
    commented = shown["1"] | {"comment": "new"}
    after = ts.views.notes(copy(before, {"0": flagged, "1": commented})).onto(before)
    assert after.labels == ("unclear: " + "x" * 300, "Benign : yes", "kept", "")
    assert after.comments == ("c" * 5000, "new", "", "")


def test_what_was_emptied_is_emptied(bank, copy):
    before = ts.mark(bank, 1, "dangerous", note="no")
    assert ts.views.notes(copy(before, {"1": note()})).onto(before).labels == ("",) * 4


def test_two_readers_notes_come_into_one_bank(bank, copy):
    before = bank.label(0, "old")
    first = ts.views.notes(copy(before, {"0": note("benign", "old")}))
    second = ts.views.notes(copy(before, {"1": note(label="mine")}))
    assert second.onto(first.onto(before)).labels == ("benign: old", "mine", "", "")


def test_the_next_report_shows_what_the_bank_says(bank, copy):
    noted = ts.views.notes(copy(bank, {"1": note("unclear", "?", "c")})).onto(bank)
    assert block(noted) == {
        "bank": bank.digest(),
        "model": bank.provenance.model,
        "marks": {"1": note("unclear", "?", "c")},
        "notes": {},
    }


def test_notes_of_another_bank_are_refused(bank, copy):
    notes = ts.views.notes(copy(bank, {"1": note("benign")}))
    with pytest.raises(SettingError, match=rf"bank {bank.digest()} of .*expected the bank that"):
        notes.onto(bank[:2])
    with pytest.raises(SettingError, match="about bank"):
        notes.onto(bank * 2)
    assert notes.onto(ts.mark(bank, 0, "dangerous").with_score("s", bank.objective)).labels == (
        "dangerous",
        "benign",
        "",
        "",
    )


def test_a_vector_that_the_bank_does_not_hold_is_refused(bank, copy):
    notes = ts.views.notes(copy(bank, {"9": note("benign")}))
    with pytest.raises(RowError, match="no vector of number 9"):
        notes.onto(bank)


# --- comments in banks


def test_comments_go_where_their_vectors_go(bank, tmp_path):
    some = dataclasses.replace(bank, comments=("a", "b\nb", "", "d"))
    loaded = ts.load_bank(some.save(tmp_path / "b.safetensors"))
    assert loaded.comments == some.comments
    assert loaded[[3, 0]].comments == ("d", "a")
    assert loaded[1:].comments == ("b\nb", "", "d")
    order = some.objective.argsort(descending=True).tolist()
    assert some.sort().comments == tuple(some.comments[i] for i in order)
    assert some.merge(bank).comments == (*some.comments, *("",) * 4)
    assert (some * 2).comments == some.comments
    assert (some + some).comments == ("",) * 4
    assert ts.random_bank(some, n=7).comments == ("",) * 7


def test_a_bank_without_comments_has_the_file_and_the_table_that_it_had(bank):
    assert "comments" not in bank.contents()[0]
    assert "comment" not in bank.table().columns
    assert "comment" not in bank.to_pandas()


def test_comments_are_in_the_table_and_in_data_frames(bank):
    some = dataclasses.replace(bank, comments=("\x1b[31mred\nnext", "y" * 300, "", ""))
    assert some.table().columns[-1] == "comment"
    cells = [row[-1] for row in some.table().rows]
    assert cells[0] == "\\x1b[31mred⏎next"
    assert cells[1] == "y" * 79 + "…"
    assert list(some.to_pandas()["comment"]) == list(some.comments)


@pytest.mark.parametrize("comments", [["a"], [1, 2, 3, 4], "abcd", {"a": 1}, None])
def test_files_with_odd_comments_are_refused(bank, tmp_path, comments):
    path = tmp_path / "b.safetensors"
    meta, tensors = bank.contents()
    BANK_FILE.write(path, meta | {"comments": comments}, tensors)
    with pytest.raises(ts.errors.BankFileError):
        ts.load_bank(path)


def test_every_vector_has_one_comment(bank):
    with pytest.raises(SettingError, match=r"4 labels and 3 comments"):
        dataclasses.replace(bank, comments=("a", "b", "c"))


# --- the file


@pytest.mark.parametrize(
    ("notes", "told"),
    [
        ([], "no mapping"),
        ({"-1": note()}, "'-1' is no number"),
        ({"01": note()}, "no number"),
        ({"1e3": note()}, "no number"),
        ({"٣": note()}, "no number"),
        ({"1" * 11: note()}, "no number"),
        ({"1": "dangerous"}, "expected comment, flag, label"),
        ({"1": {"flag": "benign"}}, "expected comment, flag, label"),
        ({"1": note() | {"more": ""}}, "expected comment, flag, label"),
        ({"1": note(flag="fine")}, "a flag is 'fine'"),
        ({"1": note(label=3)}, "expected a text"),
        ({"1": note(comment=None)}, "expected a text"),
        ({"1": note(label="x" * 201)}, "a label has more than 200"),
        ({"1": note(comment="x" * 4001)}, "a comment has more than 4000"),
        ({"1": {"flag": ["benign"], "label": "", "comment": ""}}, "expected a text"),
    ],
)
def test_odd_notes_are_refused(bank, copy, notes, told):
    with pytest.raises(ReportFileError, match=told):
        ts.views.notes(copy(bank, notes))


def held(**changed):
    return embedded({"bank": "0" * 16, "model": "m", "marks": {}, "notes": {}} | changed)


def as_page(text):
    return f'<script type="application/json" id="notes">{text}</script>'.encode()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no report"),
        (b"<html><body>hello</body></html>", "no report"),
        (b'<p id="notes" type="application/json">{}</p>', "no report"),
        (b'<script id="notes">{}</script>', "no report"),
        (as_page(held())[:-9], "breaks off"),
        (as_page("not JSON"), "Expecting value"),
        (as_page("[]"), "expected bank, marks"),
        (as_page("{}"), "expected bank, marks"),
        (as_page(held(bank="x")), "names no bank, but 'x'"),
        (as_page(held(bank=3)), "expected a text"),
        (as_page(held(model=[])), "expected a text"),
        (as_page(held(more=1)), "expected bank, marks"),
        (as_page("[" * 100_000), "deep"),
        (as_page('{"notes": 1, "notes": 2}'), "twice"),
        (as_page("1" * 10_000), "64 bits"),
        (as_page("\x00"), "Expecting value"),
        (b'<script type="application/json" id="notes">\xff</script>', "utf-8"),
        # What Python's own parser takes hours for.
        (b"<!--" * 1_000_000, "no report"),
        (b"<script" * 1_000_000, "no report"),
        (b'<script a="' * 500_000, "no report"),
        (b"<script>" * 500_000, "breaks off"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, content, told):
    path = tmp_path / "page.html"
    path.write_bytes(content)
    with pytest.raises(ReportFileError, match=told):
        ts.views.notes(path)


def test_a_page_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ReportFileError, match="No report at"):
        ts.views.notes(tmp_path / "none.html")
    with pytest.raises(ReportFileError, match="can be read"):
        ts.views.notes(tmp_path)


def test_a_page_that_is_too_large_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_bytes(as_page(held()))
    monkeypatch.setattr(sys.modules["tl_steer.views.notes"], "_LARGEST", 20)
    with pytest.raises(ReportFileError, match="more than"):
        ts.views.notes(path)


def test_what_a_script_or_a_text_says_is_not_taken_for_the_notes(bank, tmp_path):
    forged = as_page(held(bank="f" * 16)).decode().removesuffix("</script>")
    page = document(
        forged,
        {"overview": {"text": forged}, "notes": block(bank)},
        start="",
        circuitsvis=False,
        later={"words": "QUJD"},
    )
    path = tmp_path / "page.html"
    path.write_text(page.replace("<body>", f"<body><script>{forged}</script>"), encoding="utf-8")
    assert ts.views.notes(path).bank == bank.digest()


# --- shown


def test_notes_print_as_a_table_and_save_as_json(bank, copy, tmp_path):
    hostile = note("dangerous", "\x1b[31m[bold]red", "<script>alert(1)</script>\n" + "long " * 100)
    notes = ts.views.notes(copy(bank, {"1": hostile, "3": note("benign", "fine")}))
    assert len(notes) == 2
    assert "Notes on 2 vectors" in repr(notes)
    assert "\x1b" not in repr(notes)
    assert "\\x1b[31m[bold]red" in repr(notes)
    assert "<script>" not in notes._repr_html_()
    assert "1 more not shown" in notes.table(most=1).note
    assert json.loads(notes.save(tmp_path / "n.json").read_text())["flags"] == [
        "dangerous",
        "benign",
    ]
    none = ts.views.notes(copy(bank, {}))
    assert len(none) == 0
    assert none.onto(bank).labels == bank.labels


# --- on the command line


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)


def test_the_command_prints_notes_and_writes_them_into_the_bank(bank, copy, tmp_path):
    path = bank.save(tmp_path / "b.safetensors")
    report = copy(bank, {"1": note("dangerous", "leaks", "why")})
    assert "leaks" in run("notes", report).output
    assert ts.load_bank(path).labels == ("",) * 4
    other = tmp_path / "other.safetensors"
    told = json.loads(run("notes", report, path, "--out", other, "--json").output)
    assert (told["saved"], told["labels"]) == (str(other), ["leaks"])
    assert ts.load_bank(other).labels[1] == "dangerous: leaks"
    assert ts.load_bank(path).labels == ("",) * 4
    assert "Bank: " in run("notes", report, path).output
    assert ts.load_bank(path).comments[1] == "why"


def test_the_command_wants_the_bank_that_it_is_to_write(bank, copy, tmp_path):
    with pytest.raises(SettingError, match="name the bank"):
        run("notes", copy(bank, {}), "--out", tmp_path / "x")
