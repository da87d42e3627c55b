"""Views in a notebook's page: whole without scrolling, in the notebook's colours, words without
scripts."""

import pytest
from browsing import in_a_browser, settle

import tl_steer as ts

pytestmark = in_a_browser

TALL = "(root, data, T) => data.map((i) => T.add(root, T.el('p', {}, 'line ' + i)))"
# One whose height comes later, as of charts that are drawn by others.
LATE = "(root, data, T) => { setTimeout(() => { (" + TALL + ")(root, data, T); }, 300); }"
# One that grows without a new node.
GROWS = """(root, data, T) => {
  setTimeout(() => { root.style.height = data.length * 40 + "px"; }, 300); }"""
FAR = "<div style='height:3000px'></div>"
PAPER = "() => getComputedStyle(document.body).backgroundColor"
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(18, 23, 26)"


def tall(lines, script=TALL):
    return ts.views.own_view("Tall", list(range(lines)), script=script, height=150)


def notebook(*views, body="", html=""):
    """A page that has views far below what is seen of it."""
    cells = FAR.join(view._repr_html_() for view in views)
    return f"<!doctype html><html {html}><body {body}>{FAR}{cells}{FAR}</body></html>"


def waited(page):
    """Until the clock of a frame out of sight has measured it; no frame is scrolled to."""
    page.wait_for_function(
        """() => [...document.querySelectorAll("iframe")].every((frame) =>
          frame.style.getPropertyValue("--printed"))"""
    )
    settle(page)


def turned(page, paper):
    """Page and frame tell each other by messages, which take their time."""
    page.frames[1].wait_for_function(f"(paper) => ({PAPER})() === paper", arg=paper)
    settle(page)
    assert page.frames[1].evaluate(PAPER) == paper


@pytest.mark.parametrize("script", [TALL, LATE, GROWS], ids=["at once", "later", "grows"])
def test_frames_out_of_sight_are_as_high_as_what_is_in_them(opened, script):
    page = opened(notebook(tall(2, script), tall(30, script), tall(60, script)))
    waited(page)
    page.wait_for_function(
        "() => parseFloat([...document.querySelectorAll('iframe')][2].style.height) > 1000"
    )
    heights = [frame.frame_element().bounding_box()["height"] for frame in page.frames[1:]]
    inside = [
        frame.evaluate("() => document.getElementById('root').getBoundingClientRect().height")
        for frame in page.frames[1:]
    ]
    assert inside == sorted(inside)
    assert inside[2] > 1000
    assert heights == pytest.approx([height + 2 for height in inside], abs=2)


def test_a_frame_that_has_not_measured_keeps_pythons_estimate(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(notebook(tall(30)))
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator("iframe").bounding_box()["height"] == 150
    context.close()


def test_frames_are_whole_in_print(opened):
    page = opened(notebook(tall(40)))
    waited(page)
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 680, "height": 900})
    height = page.locator("iframe").bounding_box()["height"]
    inside = page.frames[1].evaluate(
        "() => document.getElementById('root').getBoundingClientRect().height"
    )
    assert height >= inside > 900


@pytest.mark.parametrize(
    ("body", "html", "paper"),
    [
        ("data-jp-theme-light='true'", "", LIGHT),
        ("data-jp-theme-light='false'", "", DARK),
        ("class='vscode-light' data-vscode-theme-kind='vscode-light'", "", LIGHT),
        ("class='vscode-dark' data-vscode-theme-kind='vscode-dark'", "", DARK),
        ("data-vscode-theme-kind='vscode-high-contrast'", "", DARK),
        ("data-vscode-theme-kind='vscode-high-contrast-light'", "", LIGHT),
        ("", "theme='dark'", DARK),
        ("", "theme='light'", LIGHT),
        ("style='background:#111'", "", DARK),
        ("style='background:#eee'", "", LIGHT),
    ],
)
@pytest.mark.parametrize("system", ["light", "dark"])
def test_the_theme_is_the_notebooks_and_not_the_systems(opened, body, html, paper, system):
    page = opened(notebook(tall(2), body=body, html=html))
    page.emulate_media(color_scheme=system)
    turned(page, paper)


def test_the_theme_follows_when_the_notebook_turns_dark(opened):
    page = opened(notebook(tall(2), body="data-jp-theme-light='true'"))
    assert page.frames[1].evaluate(PAPER) == LIGHT
    page.evaluate("() => { document.body.dataset.jpThemeLight = 'false'; }")
    turned(page, DARK)


def test_a_notebook_that_says_nothing_leaves_it_to_the_system(opened):
    page = opened(notebook(tall(2)))
    page.emulate_media(color_scheme="dark")
    assert page.frames[1].evaluate(PAPER) == DARK


def test_messages_of_others_and_of_other_kinds_change_nothing(opened):
    page = opened(notebook(tall(2), tall(3), body="data-jp-theme-light='true'"))
    waited(page)
    heights = page.locator("iframe").evaluate_all("(all) => all.map((one) => one.style.height)")
    page.evaluate(
        "() => { for (const said of [{ tlSteerHeight: 999 }, null, 'x']) postMessage(said); }"
    )
    # One frame cannot speak for the other.
    page.frames[1].evaluate(
        """() => { parent.frames[1].postMessage({ tlSteerDark: true }, "*");
          for (const height of ["9999", NaN, { a: 1 }, null])
            parent.postMessage({ tlSteerHeight: height }, "*"); }"""
    )
    page.evaluate(
        """() => { for (const said of [null, "dark", { tlSteerDark: "url(x)" }, 3])
          document.querySelector("iframe").contentWindow.postMessage(said, "*"); }"""
    )
    settle(page)
    assert heights == page.locator("iframe").evaluate_all(
        "(all) => all.map((one) => one.style.height)"
    )
    assert page.frames[2].evaluate(PAPER) == LIGHT


def test_where_no_script_runs_the_words_are_there(opened, browser, tmp_path):
    view = ts.views.own_view("Title", script=TALL, data=[], lines=["<b>first</b>", "second"])
    page = opened(notebook(view))
    assert page.locator("pre").count() == 0
    path = tmp_path / "still.html"
    path.write_text(notebook(view))
    context = browser.new_context(java_script_enabled=False)
    still = context.new_page()
    still.goto(path.as_uri())
    assert still.locator("pre").inner_text() == "Title\n  <b>first</b>\n  second"
    context.close()


def test_a_page_of_its_own_has_one_heading_of_the_first_rank(opened):
    page = opened(tall(2).html())
    assert page.locator("h1").all_inner_texts() == ["Tall"]
