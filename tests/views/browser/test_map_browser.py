"""The map of a bank in a real browser: dots, clusters, two ways of being near, and comparing."""

import dataclasses
import re

import pytest
import torch
from browsing import FOREIGN, drawn, in_a_browser, settle
from conftest import bank_of
from test_views import ATTACKS

import tl_steer as ts
from tl_steer.banks.generations import Generations

pytestmark = in_a_browser

SAID = ("how to make bread", "boats at sea", "how to make bread", "a lie")


@pytest.fixture
def bank(one):
    """Vectors 0 and 2 do the same; 1 and 3 do not."""
    rows = torch.eye(24)[[0, 1, 0, 2]] * torch.tensor([3.0, 2.0, 1.0, 4.0])[:, None]
    return dataclasses.replace(bank_of(one), responses=rows)


def said(texts=SAID):
    rows = tuple((text,) for text in texts)
    return Generations(("p",), ("nothing",), rows, ("",) * len(rows), {})


def place(page, number):
    circle = dot(page, number).locator("circle")
    return [float(circle.get_attribute(name)) for name in ("cx", "cy")]


def dot(page, number):
    return page.locator(f'.plane .dot[aria-label^="#{number}"]')


def test_what_is_alike_lies_together_and_is_a_cluster_named_by_its_text(bank, opened):
    page = opened(ts.views.bank_map(bank, generations=said()).html())
    assert place(page, 0) == pytest.approx(place(page, 2), abs=0.5)
    assert place(page, 0) != pytest.approx(place(page, 1), abs=20)
    assert page.locator(".plane .hull").count() == 1
    assert page.locator(".plane .name").text_content() == SAID[0]
    assert (
        page.locator(".clusters li").inner_text().replace("\n", " ").split(":")[1].split()
        == [
            "#2",
            "#0",
        ]
        or "#0 #2" in page.locator(".clusters li").inner_text()
    )
    drawn(page)


def test_distances_have_one_scale_in_both_directions(bank, opened):
    view = ts.views.bank_map(bank)
    page = opened(view.html())
    (points,) = (plane["points"] for plane in view.data["planes"])
    shown = [place(page, number) for number in view.data["order"]]
    apart = torch.pdist(torch.tensor(points, dtype=torch.float64))
    drawn_apart = torch.pdist(torch.tensor(shown, dtype=torch.float64))
    far = apart > 0.1
    ratios = drawn_apart[far] / apart[far]
    assert float(ratios.max() / ratios.min()) == pytest.approx(1, abs=0.01)


def test_by_text_is_another_map_with_the_unsteered_text_and_its_own_address(bank, opened):
    page = opened(ts.views.bank_map(bank, generations=said()).html())
    page.get_by_role("button", name="by text").click()
    assert "by=text" in page.evaluate("() => location.hash")
    assert page.locator(".plane rect.fill-base").count() == 1
    assert "three letters" in page.locator("#root").inner_text()
    again = opened(ts.views.bank_map(bank, generations=said()).html(), address="#?by=text&m=1")
    assert again.get_by_role("button", name="by text").get_attribute("aria-pressed") == "true"
    assert SAID[1] in again.locator(".map-card .card").inner_text()
    assert dot(again, 1).get_attribute("aria-pressed") == "true"


def test_dots_say_their_text_on_hover_and_to_the_keyboard(bank, opened):
    page = opened(ts.views.bank_map(bank, generations=said()).html())
    dot(page, 3).hover()
    assert SAID[3] in page.locator(".tip").inner_text()
    assert page.locator('.plane .dot[tabindex="0"]').count() == 1, "one stop of the Tab key"
    page.locator('.plane .dot[tabindex="0"]').focus()
    seen = []
    for _ in range(4):
        seen.append(page.evaluate("() => document.activeElement.getAttribute('aria-label')[1]"))
        page.keyboard.press("ArrowRight")
    assert sorted(seen) == ["0", "1", "2", "3"]
    page.keyboard.press("Enter")
    assert page.locator(".map-card .card").count() == 1


def test_two_clicks_show_both_and_in_a_report_compare_them(bank, opened):
    page = opened(ts.views.bank_map(bank, generations=said()).html())
    dot(page, 1).click()
    dot(page, 3).click()
    assert page.locator(".map-card .card").all_inner_texts()[0].count(SAID[1]) == 1
    assert page.locator(".map-card .card").count() == 2
    page = opened(ts.report(bank, generations=said()).html(), address="#map")
    settle(page)
    dot(page, 1).click()
    dot(page, 3).click()
    assert page.evaluate("() => location.hash") == "#v1?vs=3"


def test_a_saved_picture_has_all_colours_and_readable_names(bank, opened):
    rows = torch.eye(24)[[0, 1, 0, 1]]
    both = dataclasses.replace(bank, responses=rows)
    page = opened(ts.views.bank_map(both, generations=said()).html())
    saved = page.evaluate("() => TlSteer.exported.svg()")
    colours = page.locator(".clusters i").evaluate_all(
        "(dots) => dots.map((dot) => getComputedStyle(dot).backgroundColor)"
    )
    assert len(set(colours)) == 2
    for colour in colours:
        dots = re.findall(rf'<rect [^>]*fill="{re.escape(colour)}"', saved)
        assert dots, colour
    assert 'paint-order="stroke' in saved, "names have a halo behind them, not in front"


def test_matrices_have_names_on_their_axes_and_say_each_cell(bank, opened):
    view = ts.views.bank_map(bank)
    page = opened(view.html())
    grids = page.locator("[role=grid]")
    assert grids.count() == 2
    for number in view.data["order"]:
        assert grids.first.locator("text", has_text=str(number)).count() >= 2
    cursor = grids.nth(1).locator("[role=gridcell]")
    cursor.focus()
    page.keyboard.press("ArrowRight")
    first, second = view.data["order"][:2]
    assert cursor.get_attribute("aria-label").startswith(f"#{first} and #{second}: cosine")


def test_without_responses_there_are_directions_alone(one, opened):
    page = opened(ts.views.bank_map(ts.random_bank(bank_of(one))).html())
    assert page.locator(".plane").count() == 0
    assert page.locator("[role=grid]").count() == 1
    assert "not measured" in page.locator("#root").inner_text()
    drawn(page)


def test_hostile_texts_and_many_vectors_are_drawn_as_text(one, opened):
    bank = ts.random_bank(bank_of(one), n=210)
    bank = dataclasses.replace(
        bank, responses=torch.randn(210, 24), labels=tuple(ATTACKS[i % 10] for i in range(210))
    )
    texts = [ATTACKS[i % 10] for i in range(210)]
    page = opened(ts.views.bank_map(bank, generations=said(texts)).html())
    assert page.locator(".plane .dot").count() == 200
    page.locator(".plane .dot").first.dispatch_event("click")
    assert page.evaluate("() => window.HIT") is None
    assert page.evaluate(FOREIGN) == []
    page.set_viewport_size({"width": 390, "height": 800})
    settle(page)
    drawn(page)
