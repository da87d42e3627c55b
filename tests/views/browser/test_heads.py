"""The head explorer and grids in a real browser: what they announce, by mouse and by keyboard."""

import dataclasses
import re

import pytest
import torch
from browsing import drawn, in_a_browser, location, settle
from conftest import HEADS as ACROSS, LAYERS, PROMPTS, bank_of

import tl_steer as ts

pytestmark = in_a_browser
FOCUSED = "() => document.activeElement.getAttribute('aria-label') || ''"
GRID = ".heads-split .grid"


def inspection(one, **changes):
    seen = ts.inspect(one, bank_of(one), PROMPTS[2])
    return dataclasses.replace(seen, **changes)


def explorer(one, opened, seen=None, *, vector=1, heads=2, address="", **more):
    seen = seen or inspection(one)
    view = ts.views.attention_change(seen, vector, heads=heads, **more)
    return seen, opened(view.html(), address=address)


def numbers(text):
    """Numbers in a sentence, with the page's minus sign."""
    return [float(x) for x in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", text.replace("−", "-"))]


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def tab_to(page, selector):
    """Press Tab until such an element has the focus; how often."""
    for times in range(1, 30):
        press(page, "Tab")
        if page.evaluate("(wanted) => document.activeElement.matches(wanted)", selector):
            return times
    raise AssertionError(f"no way to {selector}")


def close(shown, true):
    """Equal to what is printed: two or three digits."""
    return shown == pytest.approx(true, rel=6e-2, abs=6e-3)


def pick(page, layer, head):
    page.locator(f"[data-head='{layer}.{head}']").click()


def test_every_cell_announces_its_head_s_change_and_attribution(one, opened):
    seen, page = explorer(one, opened)
    toward = seen.heads[1, ..., 0] - seen.heads[1, ..., 4]
    press(page, "Tab", "Home", "PageUp")
    for layer in range(LAYERS):
        for head in range(ACROSS):
            said = page.evaluate(FOCUSED)
            assert said.startswith(f"head {layer}.{head}: "), said
            moved, mattered = numbers(said)[1:3]
            assert close(moved, float(seen.attention_change[1, layer, head])), said
            assert close(mattered, float(toward[layer, head])), said
            assert page.locator(f"{GRID} [aria-live]").inner_text() == said
            press(page, "ArrowDown")
        press(page, "PageUp", "ArrowRight")


def test_a_grid_is_one_stop_of_the_tab_key_and_picking_keeps_the_focus(one, opened):
    _, page = explorer(one, opened)
    press(page, "Tab", "PageUp", "Home", "ArrowRight", "ArrowDown", "Enter")
    assert page.evaluate(FOCUSED).startswith("head 1.1: ")
    assert location(page).endswith("#?h=1.1")
    assert page.locator("h3.heads-title").inner_text() == "Head 1.1"
    cell = page.locator(f"{GRID} [role=gridcell]")
    assert cell.get_attribute("aria-selected") == "true"
    assert (
        cell.get_attribute("aria-colindex"),
        cell.locator("..").get_attribute("aria-rowindex"),
    ) == ("2", "2")
    press(page, "Tab")
    assert page.evaluate("() => !document.activeElement.closest('svg')"), "behind the grid"
    press(page, "Shift+Tab", "ArrowUp")
    assert page.evaluate(FOCUSED).startswith("head 1.0: ")


def test_the_whole_explorer_is_worked_with_the_keyboard(one, opened):
    _, page = explorer(one, opened)
    tab_to(page, "[role=gridcell]")
    tab_to(page, "[data-head]")
    press(page, "Home", "ArrowDown", "Enter")
    second = page.evaluate("() => document.activeElement.dataset.head")
    assert page.locator("h3.heads-title").inner_text() == f"Head {second}", "the focus stays"
    assert tab_to(page, ".heads-switch button") == 1, "the list is one stop of the Tab key"
    press(page, "Tab", "Enter")
    assert page.evaluate("() => document.activeElement.textContent") == "steered"
    tab_to(page, "[role=gridcell]")
    tab_to(page, ".token")
    press(page, "ArrowLeft", "Enter")
    assert page.evaluate("() => document.activeElement.getAttribute('aria-pressed')") == "true"
    n = len(inspection(one).tokens)
    assert location(page).endswith(f"#?h={second}&w=steered&t={n - 2}")
    press(page, "Escape")
    assert location(page).endswith(f"#?h={second}&w=steered"), "the token is let go"
    press(page, "Escape")
    assert page.evaluate(FOCUSED).startswith(f"head {second}: "), "back in the grid"


def test_every_head_opens_and_shows_what_the_last_token_looks_at(one, opened):
    seen, page = explorer(one, opened, heads=2)
    whole = [tuple(place) for place in seen.kept[1, :2].tolist()]
    last, n = seen.last_rows[1].float(), len(seen.tokens)
    for layer in range(LAYERS):
        for head in range(ACROSS):
            pick(page, layer, head)
            assert page.locator("h3.heads-title").inner_text() == f"Head {layer}.{head}"
            grid = page.locator(".heads-panel [role=grid]")
            assert grid.get_attribute("aria-rowcount") == str(n if (layer, head) in whole else 1)
            grid.locator("[role=gridcell]").focus()
            press(page, "Home", "PageDown", "ArrowRight", "ArrowRight")
            before, after, moved = numbers(page.evaluate(FOCUSED).split(": ")[-1])
            true = last[layer, head, :, 2].tolist()
            assert close(before, true[0])
            assert close(after, true[1])
            assert close(moved, true[1] - true[0])


def test_what_was_not_kept_is_said_to_be_missing(one, opened):
    seen, page = explorer(one, opened, inspection(one, last_rows=None), heads=2)
    assert "of the others nothing was kept" in page.locator("#root").inner_text()
    assert page.locator(".heads-panel").is_visible()
    kept = seen.kept[1, :2].tolist()
    other = next(h for h in range(ACROSS) if [3, h] not in kept)
    pick(page, 3, other)
    assert "An inspection made anew" in page.locator("#root").inner_text()
    assert not page.locator(".heads-panel").is_visible()
    assert not page.get_by_role("button", name="steered", exact=True).is_visible()


def test_patterns_equal_the_inspection_and_the_switch_shows_all_three(one, opened):
    seen, page = explorer(one, opened, heads="all", address="#?h=3.1&w=steered")
    k = seen.kept[1].tolist().index([3, 1])
    before, after = seen.patterns[1, k].float()
    assert (
        page.get_by_role("button", name="steered", exact=True).get_attribute("aria-pressed")
        == "true"
    )
    for name, true in (("unsteered", before), ("steered", after), ("difference", after - before)):
        page.get_by_role("button", name=name, exact=True).click()
        grid = page.locator(".heads-panel [role=grid]")
        assert f", {name}: " in grid.get_attribute("aria-label")
        top = page.locator(".heads-panel figure .scale").inner_text().split()[-1]
        assert close(numbers(top)[0], float(true.abs().max()))
        grid.locator("[role=gridcell]").focus()
        press(page, "Home", "PageUp", *["ArrowDown"] * 5, *["ArrowRight"] * 4)
        shown = numbers(page.evaluate(FOCUSED).split(": ")[-1])
        assert close(shown[0], float(before[5, 4]))
        assert close(shown[1], float(after[5, 4]))
        press(page, "ArrowRight", "ArrowRight")
        assert "(6)" not in page.evaluate(FOCUSED), "what lies ahead is not there"


def test_a_token_tints_where_it_looks_and_who_looks_at_it(one, opened):
    seen, page = explorer(one, opened, heads="all", address="#?h=3.0&w=steered&t=4")
    pattern = seen.patterns[1, seen.kept[1].tolist().index([3, 0]), 1].float()
    told = page.locator(".heads-panel > div > p")
    nodes = page.locator(".heads-panel .token")
    look = """nodes => nodes.map((node) => [
      Number((node.style.backgroundColor.match(/[\\d.]+(?=\\)$)/) || ["0"])[0]),
      node.style.boxShadow !== ""])"""

    def painted(t):
        said = told.inner_text().split(" looks most at ")[1]
        named = int(re.search(r"[(](\d+)[)]", said).group(1))
        assert float(pattern[t, named]) >= float(pattern[t].max()) - 1 / 255, said
        depth, under = zip(*nodes.evaluate_all(look), strict=True)
        top = torch.cat([pattern[t], pattern[:, t]]).max()
        wanted = page.evaluate("() => TlSteer.UNDER_TEXT") * (pattern[t] / top).sqrt()
        torch.testing.assert_close(torch.tensor(depth), wanted, rtol=0, atol=0.06)
        assert all(under[i] == (i > t and float(pattern[i, t]) > 2e-3) for i in range(len(under)))

    painted(4)
    assert nodes.nth(4).get_attribute("aria-pressed") == "true"
    nodes.nth(2).hover()
    painted(2)
    page.locator("h3").hover()
    painted(4)
    nodes.nth(5).focus()
    painted(5)


def test_the_list_sorts_by_layer_change_and_attribution(one, opened):
    seen, page = explorer(one, opened)
    toward = (seen.heads[1, ..., 0] - seen.heads[1, ..., 4]).abs().flatten()
    change = seen.attention_change[1].flatten()
    names = [f"{i // ACROSS}.{i % ACROSS}" for i in range(LAYERS * ACROSS)]
    # Heads in front of the source do not move at all, and keep their order.
    for button, order in (
        ("change", change.argsort(descending=True, stable=True)),
        ("attribution", toward.argsort(descending=True, stable=True)),
        ("head", torch.arange(LAYERS * ACROSS)),
    ):
        page.locator("th button").get_by_text(button, exact=True).click()
        assert page.locator("th[aria-sort]").inner_text().split()[0] == button
        shown = page.locator("[data-head]").evaluate_all(
            "nodes => nodes.map((n) => n.dataset.head)"
        )
        assert shown == [names[i] for i in order.tolist()]


def test_hovering_a_head_shows_a_thumbnail(one, opened):
    _, page = explorer(one, opened)
    box = page.locator(f"{GRID} .grid-paper").bounding_box()
    cell = box["width"] / LAYERS
    page.mouse.move(box["x"] + 2.5 * cell, box["y"] + 1.5 * cell)
    card = page.locator(".grid-peek")
    assert card.inner_text().startswith("head 2.1: ")
    assert card.locator("svg.thumbnail path").count() > 0
    page.mouse.move(box["x"], box["y"] + 600)
    assert not card.is_visible()
    page.mouse.click(box["x"] + 2.5 * cell, box["y"] + 1.5 * cell)
    assert page.locator("h3.heads-title").inner_text() == "Head 2.1"


def test_heads_within_the_random_vectors_band_are_drawn_grey(one, opened):
    control = ts.inspect(one, ts.random_bank(bank_of(one), n=6), PROMPTS[2])
    seen, page = explorer(one, opened, control=control)
    change, random = seen.attention_change[1], control.attention_change
    within = (change <= random.amax(0)) & (change > 0)
    squares = page.locator(f"{GRID} .grid-room path.fill-base").evaluate_all(
        "nodes => nodes.reduce((sum, n) => sum + n.getAttribute('d').split('M').length - 1, 0)"
    )
    assert squares == int(within.sum())
    quiet = page.locator(".heads-list .heads-bar.within").count()
    assert quiet == int((change <= random.amax(0)).sum())
    assert (
        "no further than random (lowest to highest of 6 random vectors)"
        in page.locator(GRID).inner_text()
    )
    press(page, "Tab")
    low, high = numbers(page.evaluate(FOCUSED))[2:4]
    layer, head = seen.kept[1, 0].tolist()
    assert close(low, float(random[:, layer, head].min()))
    assert close(high, float(random[:, layer, head].max()))


def test_layers_without_attention_are_hatched_and_say_so(one, opened):
    seen = inspection(one)
    change, rows = seen.attention_change.clone(), seen.last_rows.clone()
    change[:, 2], rows[:, 2] = torch.nan, torch.nan
    _, page = explorer(
        one, opened, dataclasses.replace(seen, attention_change=change, last_rows=rows), heads=0
    )
    assert "no number" in page.locator(GRID).inner_text()
    assert page.locator(f"{GRID} .grid-room path[fill^='url(#grid-hatch']").count() == 1
    pick(page, 2, 1)
    assert "Layer 2 shows no attention" in page.locator("#root").inner_text()
    pick(page, 1, 1)
    assert page.locator(".heads-panel").is_visible()


def test_what_is_picked_is_read_from_the_address_and_nonsense_is_not(one, opened):
    seen = inspection(one)
    first = "Head {}.{}".format(*seen.kept[1, 0].tolist())
    for address, title in (("#?h=2.2", "Head 2.2"), ("#?h=9.9&t=99&w=x", first), ("#?h=2", first)):
        _, page = explorer(one, opened, seen, address=address)
        assert page.locator("h3.heads-title").inner_text() == title
        drawn(page)


def test_a_pattern_that_looks_ahead_is_shown_whole(one, opened):
    seen = inspection(one)
    patterns = seen.patterns.clone()
    patterns[1, 0, :, 0, 3] = 0.5
    _, page = explorer(one, opened, dataclasses.replace(seen, patterns=patterns))
    page.locator(".heads-panel [role=gridcell]").focus()
    press(page, "Home", "PageUp", "ArrowRight", "ArrowRight", "ArrowRight")
    assert numbers(page.evaluate(FOCUSED).split(": ")[-1])[:2] == [0.5, 0.5]


def test_heads_attribution_is_walked_and_opens_what_the_head_looks_at(one, opened):
    seen = inspection(one)
    report = ts.report(bank_of(one), inspections=[seen])
    page = opened(report.html(), address="#v1/attribution")
    page.locator(".heads-attribution [role=gridcell]").focus()
    press(page, "Home", "PageUp", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown")
    said = page.evaluate(FOCUSED)
    toward = seen.heads[1, 3, 1, 0] - seen.heads[1, 3, 1, 4]
    assert said.startswith("head 3.1: ")
    assert close(numbers(said)[1], float(toward)), said
    drawn(page)
    press(page, "Enter")
    settle(page)
    assert location(page).endswith("#v1/attention?h=3.1")
    assert page.locator("h3.heads-title").inner_text() == "Head 3.1"
    single = opened(ts.views.logit_attribution(seen, 1).html())
    single.locator(".heads-attribution [role=gridcell]").focus()
    press(single, "Enter")
    assert "#" not in location(single), "there is nothing to open"


def test_heads_side_by_side_show_the_same_place(one, opened):
    report = ts.report(bank_of(one), inspections=[inspection(one)])
    page = opened(report.html(), address="#v0?vs=1")
    grids = page.get_by_role("grid")
    assert grids.count() == 3
    grids.nth(0).locator("[role=gridcell]").focus()
    press(page, "Home", "PageUp", "ArrowRight", "ArrowDown")
    assert page.evaluate(FOCUSED).startswith("head 1.1: ")
    for other in (1, 2):
        column, row = grids.nth(other).locator(".grid-line").all()
        cells = grids.nth(other).locator(".grid-paper").bounding_box()
        assert column.bounding_box()["x"] == pytest.approx(cells["x"] + cells["width"] / 4, abs=3)
        assert row.bounding_box()["y"] == pytest.approx(cells["y"] + cells["height"] / 3, abs=3)
    assert not grids.nth(0).locator(".grid-line").first.is_visible()


CELLS = """(root, data, T) => {
  const pick = (x, y) => root.setAttribute("data-at", x + "," + y);
  const grid = T.grid(data, { label: "Cells", limit: 2, pick });
  return T.figure("cells", grid.node);
}"""


def test_a_grid_marks_what_is_infinite_missing_or_negative(opened):
    view = ts.views.own_view("Cells", [[2, "inf"], [None, -1.0]], script=CELLS)
    page = opened(view.html())
    assert page.locator(".grid-room text.grid-infinite").text_content() == "∞"
    legend = page.locator(".grid-legend").inner_text()
    assert all(word in legend for word in ("−2.00", "+2.00", "no number", "infinite"))
    shown = page.locator(".grid-room path[fill-opacity]").evaluate_all(
        "nodes => nodes.map((n) => [n.getAttribute('class'), n.getAttribute('fill-opacity')])"
    )
    assert ["fill-less", "0.703"] in shown, "the root of a half"
    full = page.locator(".grid-room path.fill-more[fill-opacity='1.000']").get_attribute("d")
    assert full.count("M") == 2, "infinity has the deepest colour"
    assert page.locator(".grid-room path.grid-less").count() == 1, "a line across what is less"
    press(page, "Tab", "Home", "PageUp")
    said = []
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"):
        press(page, key)
        said.append(page.evaluate(FOCUSED))
    assert said == ["∞", "−1.00", "–", "2.00"]
    press(page, "ArrowDown", " ")
    assert page.locator("[data-at]").get_attribute("data-at") == "0,1"


def test_a_large_grid_is_a_few_elements_and_scrolls_on_a_phone(opened):
    rows = torch.rand(120, 120).tolist()
    page = opened(ts.views.own_view("Cells", rows, script=CELLS).html())
    page.set_viewport_size({"width": 390, "height": 800})
    settle(page)
    assert page.locator(".grid *").count() < 200
    drawn(page)
    press(page, "Tab", "End")
    assert page.locator("[role=gridcell]").get_attribute("aria-colindex") == "120"
    box = page.locator("[role=gridcell]").bounding_box()
    assert 0 <= box["x"] <= 390, "the cursor is scrolled to"
