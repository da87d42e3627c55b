"""Figures and tables as files, from the page and from Python, hold what is shown."""

import csv
import io
import math
import shutil
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from browsing import in_a_browser, settle
from conftest import bank_of
from PIL import Image
from test_views import ATTACKS, inspection

import tl_steer as ts
from tl_steer.errors import SettingError

pytestmark = in_a_browser

ROWS = [["name", "value"], ["a", 0.25], ["=1+1", -0.5], ['two\nlines, "quoted"', None]]
DRAWN = """(root, data, T) => {
  const bars = data.rows.slice(1).map(([name, value]) => ({ name, value }));
  T.add(root, T.figure(data.name, T.bars(bars, { signed: true }), () => data.rows));
}"""


def figure(name="A figure", rows=ROWS):
    return ts.views.own_view("Own", {"name": name, "rows": rows}, script=DRAWN)


def saved(page, kind, where=None):
    with page.expect_download() as found:
        (where or page).get_by_role("button", name=kind, exact=True).click()
    return found.value


def said(file):
    return file.path().read_bytes().decode()


def parsed(text):
    return list(csv.reader(io.StringIO(text, newline="")))


def words(svg):
    root = ElementTree.fromstring(svg)
    return " ".join(node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text"))


def colours(path):
    image = Image.open(path).convert("RGB")
    return image.size, {colour for _, colour in image.getcolors(1 << 24)}


def alerts(names):
    """An alert for each name of a vector."""
    common = {
        "kind": "known perturbation",
        "vector": 7,
        "p_value": 0.01,
        "statistic": 9.0,
        "threshold": 4.0,
        "at": 1e9,
        "trace": [1.0, 9.0],
        "explained": 0.5,
        "alpha": 0.05,
        "tokens": [{"position": 1, "text": " ok"}],
        "alternatives": [],
        "request": "r1",
    }
    return ts.views.alerts_view([common | {"label": name} for name in names])


@pytest.mark.parametrize("label", ["short", "a label that is far too long for a column of its own"])
def test_what_a_cell_has_no_room_for_is_cut_in_the_picture(opened, label):
    page = opened(alerts([label]).html())
    drawn = ElementTree.fromstring(page.evaluate("() => TlSteer.exported.svg()"))
    said = [node.text or "" for node in drawn.iter("{http://www.w3.org/2000/svg}text")]
    (cell,) = (text for text in said if text.startswith("#7"))
    assert cell.endswith("…") == (label != "short")
    assert f"#7 {label}".startswith(cell.removesuffix("…"))


def test_the_numbers_of_a_figure_come_back_from_its_csv(opened):
    file = saved(opened(figure().html()), "CSV")
    assert file.suggested_filename == "A-figure.csv"
    found = parsed(said(file))
    assert found[0] == ["name", "value"]
    assert [row[1] for row in found[1:]] == ["0.25", "-0.5", "NaN"]
    assert found[3][0] == ROWS[3][0]


def test_a_cell_is_no_formula_of_a_spreadsheet(opened):
    cells = ["=1", "+1", "-1", "@x", "\t=1", "  =1", "＝1", "plain", "a=1", "−1"]
    rows = [["text"], *[[text] for text in cells], [-1], ["inf"]]
    found = parsed(said(saved(opened(figure(rows=rows).html()), "CSV")))
    assert [row[0] for row in found[1:8]] == ["'" + text for text in cells[:7]]
    assert [row[0] for row in found[8:]] == ["plain", "a=1", "−1", "-1", "inf"]


def test_the_svg_is_well_formed_and_has_the_texts_and_numbers(opened):
    svg = said(saved(opened(figure().html()), "SVG"))
    for text in ("a", "=1+1", "+0.25", "−0.50", "–"):
        assert text in words(svg)
    assert "foreignObject" not in svg
    assert "<script" not in svg


def test_attacks_stay_text_in_the_svg(opened):
    rows = [["name", "value"], *[[attack, 1.0] for attack in ATTACKS], ["a\x00b\ufffe", 1.0]]
    svg = said(saved(opened(figure(rows=rows).html()), "SVG"))
    assert "</script><script>window.HIT = 1</script>" in words(svg)
    kinds = {node.tag.split("}")[1] for node in ElementTree.fromstring(svg).iter()}
    assert kinds <= {"svg", "title", "defs", "rect", "text", "pattern", "linearGradient", "stop"}


def test_what_xml_forbids_is_replaced(opened):
    script = """(root, data, T) => T.figure("F",
      T.el("p", {}, "a" + String.fromCharCode(1, 0xfffe, 0xd800) + "b"))"""
    page = opened(ts.views.own_view("Own", script=script).html())
    assert "b" in words(said(saved(page, "SVG")))


def test_the_png_is_a_picture_twice_as_fine_on_paper(opened):
    page = opened(figure().html())
    (width, _), seen = colours(saved(page, "PNG").path())
    inside = page.locator(".figure-body").bounding_box()["width"]
    assert width == pytest.approx(2 * (inside + 24), abs=4)
    assert {(255, 255, 255), (11, 114, 133)} <= seen
    assert len(seen) > 10


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("../../etc/passwd", "etc-passwd.svg"),
        ("a/b\\c:d*?.exe\x00", "a-b-c-d-exe-x00.svg"),
        ("Größe 12", "Größe-12.svg"),
        ("\u202egnp", "u202egnp.svg"),
        ("…", "figure.svg"),
        ("x" * 900, "x" * 60 + ".svg"),
    ],
)
def test_files_have_safe_names(opened, name, file):
    assert saved(opened(figure(name).html()), "SVG").suggested_filename == file


def test_a_frame_in_a_notebook_saves_too(opened):
    page = opened(f"<!doctype html><body>{figure()._repr_html_()}</body>")
    settle(page)
    file = saved(page, "PNG", page.frames[1])
    assert len(colours(file.path())[1]) > 10


def test_a_table_has_buttons_without_being_told_its_rows(opened):
    script = """(root, data, T) => T.figure("T", T.el("table", {}, T.el("tbody", {},
      data.map((row) => T.el("tr", {}, row.map((cell) => T.el("td", {}, cell)))))))"""
    rows = [["a", "b"], ["1", "=2"]]
    page = opened(ts.views.own_view("Own", rows, script=script).html())
    assert parsed(said(saved(page, "CSV"))) == [["a", "b"], ["1", "'=2"]]
    page = opened(
        ts.views.own_view("Own", script="(r, d, T) => T.figure('F', T.svg('svg'))").html()
    )
    assert page.locator(".exports button").all_inner_texts() == ["PNG", "SVG"]


def test_buttons_are_large_enough_and_are_not_printed(opened):
    page = opened(figure().html())
    for button in page.locator(".exports button").all():
        assert button.bounding_box()["height"] >= 24
        assert button.bounding_box()["width"] >= 24
    page.emulate_media(media="print")
    assert not page.locator(".exports").is_visible()


def test_views_are_saved_from_python_as_what_the_path_says(one, tmp_path):
    seen = inspection(one)
    view = ts.views.logit_change(seen, 0)
    svg = view.save(tmp_path / "view.svg").read_text(encoding="utf-8")
    assert view.title in " ".join(words(svg).split())
    assert seen.word(int(seen.gained[0, -1, 0])).strip() in words(svg)
    (width, height), drawn = colours(view.save(tmp_path / "view.PNG"))
    assert width > 1000
    assert height > 400
    assert len(drawn) > 50
    assert view.save(tmp_path / "view.html").read_text() == view.html()


def test_a_view_that_is_drawn_late_is_saved_as_it_ends(tmp_path):
    script = """(root, data, T) => { let left = 5;
      const more = () => {
        T.add(root, T.el("p", {}, `part ${left}`));
        if (--left) setTimeout(more, 150); };
      more(); }"""
    view = ts.views.own_view("Own", script=script)
    assert "part 1" in words(view.save(tmp_path / "view.svg").read_text(encoding="utf-8"))


def test_a_report_is_saved_as_a_page_alone(one, tmp_path):
    with pytest.raises(SettingError, match=r"'report.png' should end with .html"):
        ts.report(bank_of(one)).save(tmp_path / "report.png")


def test_the_csv_of_a_view_has_its_numbers(tmp_path):
    found = parsed(figure().save(tmp_path / "view.csv").read_text(encoding="utf-8"))
    assert [row[1] for row in found[1:3]] == ["0.25", "-0.5"]
    assert math.isnan(float(found[3][1]))
    script = DRAWN.replace("T.add(root,", "for (const _ of [1, 2]) T.add(root,")
    two = ts.views.own_view("Own", {"name": "One", "rows": ROWS}, script=script)
    found = parsed(two.save(tmp_path / "two.csv").read_text(encoding="utf-8"))
    assert [row for row in found if row in (["One"], [])] == [["One"], [], ["One"]]


def test_what_cannot_be_saved_says_what_to_do(tmp_path, monkeypatch):
    plain = ts.views.own_view("Own", script="(root, data, T) => T.el('p', {}, 'text')")
    with pytest.raises(SettingError, match=r"should end with .html or .svg or .png or .csv"):
        plain.save(tmp_path / "view.pdf")
    with pytest.raises(SettingError, match=r"no table; save it as .html, .svg or .png"):
        plain.save(tmp_path / "view.csv")
    monkeypatch.setattr(shutil, "which", lambda _: "/nowhere/chromium")
    with pytest.raises(SettingError, match="playwright install chromium"):
        plain.save(tmp_path / "view.png")
    monkeypatch.setitem(sys.modules, "playwright", None)
    with pytest.raises(SettingError, match=r'pip install "tl_steer\[browser\]"'):
        plain.save(tmp_path / "view.png")
    assert list(tmp_path.iterdir()) == []
