"""Texts without a bound do not become pages without one; numbers stay whole; words are found."""

import dataclasses

import pytest
from browsing import drawn, in_a_browser, settle
from conftest import bank_of
from test_views import inspection, poisoned_generations

import tl_steer as ts
from tl_steer.files.text import capped

pytestmark = in_a_browser
LONG = "x" * 10_000


def hostile(one):
    """An inspection in which every token and label has 10,000 characters."""
    seen = inspection(one)
    return dataclasses.replace(
        seen,
        tokens=(LONG,) * len(seen.tokens),
        labels=(LONG,) * len(seen),
        words=dict.fromkeys(seen.words, LONG),
    )


def test_a_capped_text_says_how_long_it_was():
    assert capped("x" * 64) == "x" * 64
    assert capped(LONG) == "x" * 64 + "…(10,000)"
    assert capped(LONG, 3) == "xxx…(10,000)"


@pytest.mark.parametrize(
    "name",
    [
        "attention_change",
        "logit_change",
        "likelihood",
        "logit_attribution",
        "residual_response",
        "steered_tokens",
    ],
)
def test_pages_of_hostile_tokens_are_as_small_as_others(one, opened, name):
    view = getattr(ts.views, name)
    made = view(hostile(one), 0)
    assert LONG[:100] not in made.html()
    assert len(made.html()) < len(view(inspection(one), 0).html()) + 200_000
    page = opened(made.html())
    assert page.evaluate("() => document.documentElement.scrollHeight") < 9000
    shown = page.locator("#root").inner_text()
    assert "…(10,000)" in shown or name == "attention_change"
    drawn(page)


def test_titles_and_labels_are_bounded_too(one, opened):
    labels = dataclasses.replace(poisoned_generations(2), labels=(LONG, LONG))
    sweep = [{"vector": i, "label": LONG, "prevalence": 0.1 * i} for i in range(3)]
    for view in (
        ts.views.generations(labels, title=LONG),
        ts.views.sweep_view(sweep, title=LONG),
        ts.views.bank_map(bank_of(one), title=LONG),
    ):
        page = opened(view.html())
        assert len(page.locator("h1").inner_text()) < 200
        assert page.evaluate("() => document.documentElement.scrollHeight") < 3000
        assert len(page.title()) < 200
        drawn(page)


def test_what_comes_from_elsewhere_is_cut_where_it_is_drawn(opened):
    script = "(root, data, T) => T.add(root, T.word(data), T.tokens([data], { says: () => data }))"
    page = opened(ts.views.own_view("Own", LONG, script=script).html())
    assert page.locator(".word").inner_text() == "x" * 64 + "…(10,000)"
    page.locator(".token").hover()
    assert len(page.locator(".tip").inner_text()) < 2100


def test_marks_piled_on_a_letter_stay_in_their_line(opened):
    pile = "a" + "\u0301\u0316\u0321" * 200
    script = "(root, data, T) => T.add(root, T.el('p', { class: 'said' }, data))"
    page = opened(ts.views.own_view("Own", f"below {pile} it", script=script).html())
    assert len(page.locator(".said").inner_text()) < 20
    page.evaluate("() => { document.querySelector('h1').style.marginBottom = '80px'; }")
    box = page.locator(".said").bounding_box()
    blank = """([top, height]) => document.elementsFromPoint(60, top + height).length"""
    assert page.evaluate(blank, [box["y"], box["height"]]) >= 1
    above = page.screenshot(clip={"x": 24, "y": box["y"] - 60, "width": 200, "height": 54})
    plain = page.screenshot(clip={"x": 400, "y": box["y"] - 60, "width": 200, "height": 54})
    assert above == plain, "nothing is drawn over what stands above"


def test_letters_of_real_scripts_keep_all_their_marks(opened):
    words = [
        "tiếng Việt",
        "nguye\u0302\u0303n",
        "שָׁלוֹם",
        "हिन्दी",
        "ภาษาไทย",
        "བོད་ཡིག",
        "❤️‍🔥",
        "👩‍👩‍👧‍👦",
    ]
    script = "(root, data, T) => T.add(root, data.map((text) => T.el('p', {}, text)))"
    page = opened(ts.views.own_view("Own", words, script=script).html())
    assert page.locator("p").all_inner_texts() == words


@pytest.mark.parametrize("width", [720, 390, 794])
def test_numbers_and_their_units_stay_on_one_line(one, opened, width):
    for view in (ts.views.logit_change, ts.views.logit_attribution, ts.views.residual_response):
        page = opened(view(inspection(one), 0).html())
        page.set_viewport_size({"width": width, "height": 900})
        settle(page)
        lines = page.locator(".num").evaluate_all(
            """(nodes) => nodes.map((node) => {
              const range = document.createRange(); range.selectNodeContents(node);
              const lines = [...range.getClientRects()].map((box) => Math.round(box.top / 6));
              return new Set(lines).size;
            })"""
        )
        assert lines
        assert max(lines) <= 1
        drawn(page)


def test_a_number_is_not_broken_where_there_is_no_room(opened):
    script = """(root, data, T) => T.el("div",
      { style: { width: "20px", overflowWrap: "anywhere" } },
      T.el("b", { class: "num" }, T.num(6.01) + " nats"))"""
    page = opened(ts.views.own_view("Own", script=script).html())
    assert page.locator("b").evaluate("(node) => node.getClientRects().length") == 1


def test_a_percentage_is_not_parted_from_its_sign(opened):
    script = "(root, data, T) => T.el('p', {}, [0.45, 0.0001, 0.99999].map(T.percent).join(' '))"
    page = opened(ts.views.own_view("Own", script=script).html())
    assert page.locator("p").text_content() == "45\u00a0% <0.1\u00a0% >99.9\u00a0%"


@pytest.mark.parametrize("pick", ["null", "() => {}"])
def test_the_browsers_search_finds_words_across_tokens(opened, pick):
    script = f"(root, data, T) => T.tokens(data, {{ pick: {pick} }})"
    page = opened(ts.views.own_view("Own", ["How", " do", " I", " ma", "ke"], script=script).html())
    assert page.evaluate("() => find('do I make')")
    assert not page.evaluate("() => find('do I unmake')")


def test_tokens_are_picked_with_the_mouse_and_the_keys(opened):
    script = """(root, data, T) => T.add(root,
      T.tokens(data, { picked: 1, pick: (i) => { said.textContent = i; } }),
      T.el("p", { id: "said" }))"""
    page = opened(ts.views.own_view("Own", ["a", " b", " c"], script=script).html())
    said = page.locator("#said")
    page.locator(".token").nth(2).click()
    assert said.inner_text() == "2"
    page.keyboard.press("ArrowLeft")
    assert said.inner_text() == "1"
    assert page.locator(".token[aria-pressed=true]").inner_text().strip() == "b"
    page.locator(".token").nth(0).focus()
    page.keyboard.press("Enter")
    assert said.inner_text() == "0"
    assert page.locator(".token[tabindex='0']").count() == 1
