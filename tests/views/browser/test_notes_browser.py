"""Notes in the page: written, kept, saved as a copy, and read from it."""

import dataclasses
import json
import re

import pytest
from browsing import FOREIGN, drawn, in_a_browser, settle
from conftest import bank_of
from test_views import inspection

import tl_steer as ts
from tl_steer.views.notes import block
from tl_steer.views.page import document

pytestmark = in_a_browser

START = """(() => {
  const T = TlSteer, root = document.getElementById("root");
  T.add(root, T.notes.save, [0, 1, 2, 3].map((v) => T.el("p", {}, T.notes.badge(v))),
    T.notes.widget(1), T.notes.widget(2));
})();"""
ATTACK = "</script><img src=x onerror=HIT=1>{{1}}<!--<script>\u202eflip \u2028 🙂 &amp; \\u003c"


@pytest.fixture
def bank(one):
    bank = ts.mark(bank_of(one), 1, "benign", note="French")
    return dataclasses.replace(bank, comments=("", "so it seems", "", ""))


def html_of(bank, notes=None, **later):
    """A page about a bank, with notes in it already."""
    data = {"overview": {"text": ATTACK}, "notes": block(bank) | {"notes": notes or {}}}
    title = "A <title> of \"notes\" & 'more'"
    return document(title, data, start=START, circuitsvis=False, later=later)


@pytest.fixture
def page_of(opened):
    """Such a page, opened."""
    return lambda *what, **given: opened(html_of(*what, **given))


def saved(page, path):
    """The file that `Save copy` downloads."""
    with page.expect_download() as started:
        page.get_by_role("button", name="Save copy").click()
    started.value.save_as(path)
    return path.read_text(encoding="utf-8")


def without_notes(html):
    found, count = re.subn('(id="notes">).*?(</script>)', r"\1\2", html)
    assert count == 1
    return found


def of(page, vector):
    return page.get_by_label(f"Notes on vector {vector}")


def badges(page):
    return page.locator(".notes-badge").all_inner_texts()


def source(page):
    name = page.url.removeprefix("file://").partition("#")[0]
    with open(name, encoding="utf-8") as file:
        return file.read()


def test_what_the_bank_says_is_there_before_anybody_writes(bank, page_of):
    page = page_of(bank)
    assert badges(page) == ["", "benign French ✎", "", ""]
    assert of(page, 1).get_by_label("benign").is_checked()
    assert of(page, 1).get_by_label("Label").input_value() == "French"
    assert of(page, 1).get_by_label("Comment").input_value() == "so it seems"
    assert of(page, 2).get_by_label("none").is_checked()
    assert page.evaluate("() => TlSteer.notes.count()") == 0
    assert page.locator(".notes-save").inner_text() == "Save copy"


def test_notes_are_written_with_the_keyboard_and_kept_over_a_reload(bank, page_of):
    page = page_of(bank)
    of(page, 2).get_by_label("none").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.type("leaks")
    page.keyboard.press("Tab")
    page.keyboard.type("one")
    page.keyboard.press("Enter")
    page.keyboard.type("two")
    assert page.locator(".notes-save").inner_text() == "Save copy · 1 note"
    page.reload()
    settle(page)
    assert badges(page)[2] == "dangerous leaks ✎"
    assert of(page, 2).get_by_label("dangerous").is_checked()
    assert of(page, 2).get_by_label("Comment").input_value() == "one\ntwo"
    assert page.evaluate("() => TlSteer.notes.get(2)") == {
        "flag": "dangerous",
        "label": "leaks",
        "comment": "one\ntwo",
    }
    assert "Kept in this browser" in of(page, 2).inner_text()


def test_a_note_that_says_what_the_bank_says_is_none(bank, page_of):
    page = page_of(bank)
    label = of(page, 1).get_by_label("Label")
    label.fill("Frenc")
    assert page.evaluate("() => TlSteer.notes.count()") == 1
    label.press("End")
    label.press("h")
    assert page.evaluate("() => TlSteer.notes.count()") == 0
    label.fill("")
    of(page, 1).get_by_label("none").check()
    of(page, 1).get_by_label("Comment").fill("")
    assert badges(page) == [""] * 4
    assert page.evaluate("() => TlSteer.notes.count()") == 1


def test_typing_inside_a_text_leaves_the_cursor_where_it_is(bank, page_of):
    page = page_of(bank)
    label = of(page, 1).get_by_label("Label")
    label.press("Home")
    label.press_sequentially("ab")
    assert label.input_value() == "abFrench"


def test_a_copy_is_the_page_with_other_notes_and_so_is_its_copy(bank, page_of, opened, tmp_path):
    page = page_of(bank, words="QUJD" * 100)
    of(page, 2).get_by_label("unclear").check()
    of(page, 2).get_by_label("Label").fill(ATTACK)
    of(page, 1).get_by_label("Comment").fill(ATTACK + "\nnext")
    # What a page gathers while it is used stays out of the file.
    page.evaluate("""() => {
      document.title = "Vector 7"; document.documentElement.dataset.theme = "dark";
      document.body.append(document.createElement("aside"), "a text");
      document.head.append(document.createElement("link"));
    }""")
    copy = saved(page, tmp_path / "copy.html")
    assert without_notes(copy) == without_notes(source(page))
    notes = ts.views.notes(tmp_path / "copy.html")
    assert (notes.numbers, notes.flags) == ((1, 2), ("benign", "unclear"))
    assert notes.labels == ("French", ATTACK)
    assert notes.comments == (ATTACK + "\nnext", "")
    assert notes.onto(bank).labels == ("", "benign: French", "unclear: " + ATTACK, "")

    second = opened(copy)
    assert badges(second)[2] == "unclear " + ATTACK
    assert second.locator(".notes-save").inner_text() == "Save copy · 2 notes"
    assert second.evaluate("() => window.HIT") is None
    assert second.evaluate(FOREIGN) == []
    assert saved(second, tmp_path / "again.html") == copy
    of(second, 2).get_by_label("Label").fill("other")
    assert without_notes(saved(second, tmp_path / "third.html")) == without_notes(copy)
    assert ts.views.notes(tmp_path / "third.html").labels == ("French", "other")


def test_python_and_the_page_write_the_same_block(bank, page_of, tmp_path):
    said = dataclasses.replace(bank.label(0, ATTACK), comments=("é\n", "", "", "\ud800"))
    page = page_of(said)
    assert saved(page, tmp_path / "copy.html") == source(page)


def test_a_copy_is_named_after_its_page(bank, page_of, opened, tmp_path):
    page = page_of(bank)
    with page.expect_download() as started:
        page.get_by_role("button", name="Save copy").click()
    assert started.value.suggested_filename == "page-1-notes.html"
    started.value.save_as(tmp_path / "page-1-notes (3).html")
    page.goto((tmp_path / "page-1-notes (3).html").as_uri())
    with page.expect_download() as started:
        page.get_by_role("button", name="Save copy").click()
    assert started.value.suggested_filename == "page-1-notes.html"


def test_a_copy_with_other_notes_keeps_its_own_drafts(bank, page_of, tmp_path):
    page = page_of(bank)
    of(page, 2).get_by_label("Label").fill("mine")
    page.reload()
    assert badges(page)[2] == "mine"
    theirs = {"0": {"flag": "", "label": "theirs", "comment": ""}}
    (tmp_path / "theirs.html").write_text(html_of(bank, theirs), encoding="utf-8")
    page.goto((tmp_path / "theirs.html").as_uri())
    assert badges(page)[::2] == ["theirs", ""]


HOSTILE = [
    "no JSON",
    "null",
    "7",
    '{"notes": null}',
    '{"notes": [1, 2]}',
    '{"notes": {"1": null, "2": 3, "x": {"label": "a"}, "-1": {"label": "b"}}}',
    '{"notes": {"2": {"flag": "fine", "label": {"a": 1}, "comment": ["x"]}}}',
    '{"notes": {"__proto__": {"label": "c"}, "constructor": {"label": "d"}}}',
    '{"notes": {"2": {"toString": 1, "flag": "toString"}}}',
]


@pytest.mark.parametrize("content", HOSTILE)
def test_what_storage_holds_is_not_trusted(bank, page_of, content):
    page = page_of(bank)
    key = drafts(page)
    page.evaluate("([key, content]) => localStorage.setItem(key, content)", [key, content])
    page.reload()
    settle(page)
    assert badges(page) == ["", "benign French ✎", "", ""]
    of(page, 2).get_by_label("Label").fill("works")
    assert badges(page)[2] == "works"


def drafts(page):
    """The key that a page's drafts are kept under."""
    of(page, 2).get_by_label("Label").fill("draft")
    page.evaluate("() => dispatchEvent(new Event('pagehide'))")
    (key,) = page.evaluate("() => Object.keys(localStorage)")
    assert key.startswith("tl_steer notes ")
    return key


def test_texts_from_storage_are_bounded_and_shown_as_texts(bank, page_of):
    page = page_of(bank)
    draft = {"2": {"flag": "dangerous", "label": ATTACK + "x" * 300, "comment": "🙂" * 5000}}
    page.evaluate(
        "([key, content]) => localStorage.setItem(key, content)",
        [drafts(page), json.dumps({"notes": draft})],
    )
    page.reload()
    settle(page)
    found = page.evaluate("() => TlSteer.notes.get(2)")
    assert found["label"] == (ATTACK + "x" * 300)[:200]
    assert found["comment"] == "🙂" * 4000
    assert page.evaluate("() => window.HIT") is None
    assert page.evaluate(FOREIGN) == []
    drawn(page)


def test_no_more_can_be_typed_than_can_be_read(bank, page_of, tmp_path):
    page = page_of(bank)
    of(page, 2).get_by_label("Label").focus()
    page.keyboard.insert_text("x" * 300)
    of(page, 2).get_by_label("Comment").focus()
    page.keyboard.insert_text("y" * 5000)
    saved(page, tmp_path / "copy.html")
    notes = ts.views.notes(tmp_path / "copy.html")
    assert (len(notes.labels[0]), len(notes.comments[0])) == (200, 4000)


def test_leaving_warns_until_the_notes_are_in_a_copy(bank, page_of, tmp_path):
    page = page_of(bank)
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    of(page, 2).get_by_label("Label").fill("x")
    page.reload()
    assert asked == ["beforeunload"]
    assert badges(page)[2] == "x"
    saved(page, tmp_path / "copy.html")
    page.reload()
    assert asked == ["beforeunload"]
    assert badges(page)[2] == "x"


def test_a_browser_that_keeps_nothing_says_so(bank, page_of):
    page = page_of(bank)
    page.evaluate("() => { Storage.prototype.setItem = () => { throw new Error('full'); }; }")
    of(page, 2).get_by_label("Label").fill("x")
    page.evaluate("() => dispatchEvent(new Event('pagehide'))")
    assert "This browser keeps nothing" in of(page, 2).inner_text()


def test_changes_are_told_and_shown_wherever_the_vector_is(bank, page_of):
    page = page_of(bank)
    page.evaluate("""() => {
      const T = TlSteer;
      T.add(document.getElementById("root"), T.notes.widget(2));
      window.told = [];
      window.off = T.notes.onchange((vector) => told.push([vector, T.notes.get(vector).label]));
    }""")
    of(page, 2).nth(0).get_by_label("Label").fill("x")
    assert of(page, 2).nth(1).get_by_label("Label").input_value() == "x"
    assert page.evaluate("() => told") == [[2, "x"]]
    page.evaluate("() => off()")
    of(page, 2).nth(1).get_by_label("unclear").check()
    assert page.evaluate("() => told") == [[2, "x"]]
    assert of(page, 2).nth(0).get_by_label("unclear").is_checked()


def test_what_is_shown_again_later_has_followed(bank, page_of):
    page = page_of(bank)
    page.evaluate("() => { window.row = TlSteer.notes.badge('2'); }")
    of(page, 2).get_by_label("Label").fill("x")
    assert page.evaluate("() => row.textContent.trim()") == "x"


def test_two_tabs_of_one_page_have_the_same_notes(bank, page_of):
    page = page_of(bank)
    other = page.context.new_page()
    other.goto(page.url)
    settle(other)
    of(other, 1).get_by_label("Label").fill("of the other")
    other.evaluate("() => dispatchEvent(new Event('pagehide'))")
    page.wait_for_function("() => TlSteer.notes.get(1).label === 'of the other'")
    of(page, 2).get_by_label("Label").fill("x")
    page.evaluate("() => dispatchEvent(new Event('pagehide'))")
    other.wait_for_function("() => TlSteer.notes.count() === 2")
    assert of(other, 2).get_by_label("Label").input_value() == "x"


def test_a_live_page_is_sent_the_notes_and_need_not_be_saved(bank, page_of):
    page = page_of(bank)
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    page.evaluate(
        "() => { TlSteer.notes.send = async (notes) => { window.sent = notes; return true; }; }"
    )
    of(page, 2).get_by_label("Label").fill("x")
    page.evaluate("() => dispatchEvent(new Event('pagehide'))")
    settle(page)
    note = {"flag": "", "label": "x", "comment": ""}
    assert page.evaluate("() => sent") == {"2": note}
    page.reload()
    assert asked == []
    page.evaluate("() => { TlSteer.notes.send = async () => { throw new Error('gone'); }; }")
    of(page, 2).get_by_label("Label").fill("y")
    page.evaluate("() => dispatchEvent(new Event('pagehide'))")
    settle(page)
    assert "The server did not take" in of(page, 2).inner_text()


def test_a_page_of_fifteen_megabytes_is_saved_whole(bank, page_of, tmp_path):
    page = page_of(bank, **{f"v{i}.text.0": "QUJD" * 1000 for i in range(4000)})
    of(page, 2).get_by_label("Label").fill("x")
    copy = saved(page, tmp_path / "copy.html")
    assert len(copy) > 15_000_000
    assert without_notes(copy) == without_notes(source(page))
    assert ts.views.notes(tmp_path / "copy.html").labels == ("x",)


def test_in_a_report_notes_are_written_listed_searched_and_read(one, opened, tmp_path):
    page = opened(
        ts.report(bank_of(one), inspections=[inspection(one)]).html(), address="#v1/tokens"
    )
    page.get_by_text("Add a note").click()
    of(page, 1).get_by_label("dangerous").check()
    of(page, 1).get_by_label("Label").fill("leaks the prompt")
    assert page.locator("h1").inner_text() == "Vector 1 dangerous leaks the prompt"
    page.get_by_role("button", name="Light or dark").click()
    copy = saved(page, tmp_path / "copy.html")
    assert without_notes(copy) == without_notes(source(page))
    bank = bank_of(one)
    noted = ts.views.notes(tmp_path / "copy.html").onto(bank)
    assert noted.labels == ts.mark(bank, 1, "dangerous", note="leaks the prompt").labels

    second = opened(copy)
    row = second.locator('table.bank tr[data-vector="1"]')
    assert row.locator(".notes-badge").inner_text() == "dangerous leaks the prompt"
    second.locator("input.filter").fill("leaks DANGEROUS")
    assert second.locator("table.bank td.id").all_inner_texts() == ["1"]
    second.locator("table.bank td.id a").click()
    assert of(second, 1).get_by_label("Label").input_value() == "leaks the prompt"
    assert of(second, 1).is_visible()


def test_a_report_of_a_bank_alone_shows_its_notes(one, opened):
    page = opened(ts.report(ts.mark(bank_of(one), 2, "unclear", note="odd")).html())
    cells = page.locator("table.bank td.text").all_inner_texts()
    assert cells == ["", "", "unclear odd", ""]


def test_it_fits_a_phone_in_light_and_dark(bank, page_of):
    page = page_of(bank.label(2, "long " * 60))
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": 390, "height": 800})
        settle(page)
        drawn(page)
