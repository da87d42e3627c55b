"""The report's table and two vectors side by side, in a browser."""

import dataclasses

import pytest
import torch
from browsing import drawn, in_a_browser, location, settle
from conftest import PROMPTS, bank_of

import tl_steer as ts
from tl_steer.banks.generations import Generations

pytestmark = in_a_browser

LONG = "word " * 60  # more than a row of the table shows


def texts(bank, prompts=("first", "second"), **changes):
    """Row 3 acts on the second prompt alone; every second text says where the door is."""
    n = len(bank)
    return Generations(
        prompts=prompts,
        unsteered=("plain text", "another text"),
        texts=tuple(
            ("plain text" if i == 3 else f"{LONG} late{i}", f"{LONG} BACKDOOR-{i} opens")
            for i in range(n)
        ),
        labels=("",) * n,
        settings={},
        numbers=bank.numbers,
        **changes,
    )


def many(one, n):
    """A bank of so many vectors, by copies."""
    bank = bank_of(one)
    rows = [i % len(bank) for i in range(n)]
    return dataclasses.replace(bank[rows], numbers=tuple(range(n)))


def rows(page):
    return [int(text) for text in page.locator("table.bank td.id").all_inner_texts()]


def search(page, words):
    page.locator("input.filter").fill(words)
    settle(page)


@pytest.fixture
def report(one):
    bank = bank_of(one)
    seen = [ts.inspect(one, bank, prompt) for prompt in PROMPTS[:2]]
    random = ts.random_bank(bank, n=3)
    return ts.report(
        bank,
        inspections=seen,
        control_inspections=[ts.inspect(one, random, prompt) for prompt in PROMPTS[:2]],
        generations=texts(bank),
        control=dataclasses.replace(texts(random), texts=(("plain text", "x"),) * 3),
    )


def test_all_texts_are_searched_and_the_hit_is_shown(report, opened):
    page = opened(report.html())
    search(page, "backdoor")
    assert rows(page) == [0, 1, 2, 3], "it is in every vector's text on the second prompt"
    row = page.locator("table.bank tbody tr").first.inner_text()
    assert "prompt 2" in row
    assert page.locator("table.bank td.text mark").first.inner_text() == "BACKDOOR"
    search(page, "late2")
    assert rows(page) == [2], "behind what the table shows"
    search(page, "backdoor late2")
    assert rows(page) == [2]
    search(page, "nowhere")
    assert rows(page) == []
    assert "No vector has" in page.locator("table.bank").inner_text()


def test_a_number_finds_that_vector_alone(one, opened):
    bank = many(one, 40)
    page = opened(ts.report(bank, generations=texts(bank)).html())
    search(page, "#3")
    assert rows(page) == [3]
    search(page, "#33")
    assert rows(page) == [33]


def test_what_changes_on_another_prompt_alone_is_no_vector_that_does_nothing(report, opened):
    page = opened(report.html())
    row = page.locator('tr[data-vector="3"]')
    assert "1 of 2" in row.inner_text()
    assert "BACKDOOR" in row.inner_text() or "word" in row.inner_text()
    assert row.get_attribute("class") is None
    page.locator("select[aria-label=Prompt]").select_option("0")
    settle(page)
    assert "same" in page.locator('tr[data-vector="3"]').get_attribute("class")
    assert "p=0" in location(page)


def test_kl_is_that_of_the_prompt_that_was_chosen_beside_random_vectors(one, report, opened):
    page = opened(report.html())
    bank = bank_of(one)
    seen = [ts.inspect(one, bank, prompt) for prompt in PROMPTS[:2]]
    control = ts.inspect(one, ts.random_bank(bank, n=3), PROMPTS[1])
    page.locator("select[aria-label=Prompt]").select_option("3")
    settle(page)
    cell = page.locator('tr[data-vector="1"] td').nth(4).inner_text()
    kl, band = cell.split("\n")
    assert float(kl) == pytest.approx(float(seen[1].kl[1, -1]), rel=0.05)
    low, high = band.removeprefix("random ").split("–")
    assert float(low) == pytest.approx(float(control.kl[:, -1].min()), rel=0.05)
    assert float(high) == pytest.approx(float(control.kl[:, -1].max()), rel=0.05)


def test_a_link_opens_the_table_as_it_was(report, opened):
    page = opened(report.html(), address="#?q=late2%20word&s=-kl")
    settle(page)
    assert rows(page) == [2]
    assert page.locator("input.filter").input_value() == "late2 word"
    assert page.locator("th[aria-sort=descending]").inner_text() == "KL"


def test_going_back_is_where_one_was(one, opened):
    bank = many(one, 120)
    page = opened(ts.report(bank, generations=texts(bank)).html())
    page.locator("table.bank td.id a", has_text="77").scroll_into_view_if_needed()
    at = page.evaluate("() => scrollY")
    assert at > 500
    page.locator("table.bank td.id a", has_text="77").click()
    settle(page)
    assert page.evaluate("() => scrollY") == 0
    assert page.evaluate("() => document.activeElement.tagName") == "H1"
    page.keyboard.press("Escape")
    settle(page)
    assert abs(page.evaluate("() => scrollY") - at) < 50
    assert page.evaluate("() => document.activeElement.textContent") == "77"
    page.keyboard.press("j")
    assert page.evaluate("() => document.activeElement.textContent") == "78"


def test_thousands_of_rows_are_not_in_the_page_at_once_and_all_are_reached(one, opened):
    bank = many(one, 2000)
    page = opened(ts.report(bank, title="Many").html())
    assert page.locator("table.bank tr[data-vector]").count() < 200
    page.evaluate("() => scrollTo(0, document.documentElement.scrollHeight / 2)")
    settle(page)
    shown = rows(page)
    assert len(shown) < 200
    assert 900 < sum(shown) / len(shown) < 1100
    page.evaluate("() => scrollTo(0, document.documentElement.scrollHeight)")
    settle(page)
    assert rows(page)[-1] == 1999
    page.keyboard.press("j")
    settle(page)
    assert page.evaluate("() => document.activeElement.textContent") == "0", "from the top"
    drawn(page)


def test_a_vector_keeps_its_tab_and_prompt_from_one_to_the_next(report, opened):
    page = opened(report.html(), address="#v1/attention?p=3")
    page.locator("a[rel=next]").click()
    assert location(page).endswith("#v2/attention?p=3")
    page.keyboard.press("ArrowRight")
    assert location(page).endswith("#v3/attention?p=3")
    assert page.locator("nav.tabs:not(.main) [aria-current=page]").inner_text() == "Attention"


def test_a_view_that_is_not_there_is_not_another_one(one, opened):
    bank = bank_of(one)
    seen = ts.inspect(one, bank, PROMPTS[0], vectors=[0])
    page = opened(
        ts.report(bank, inspections=[seen], generations=texts(bank)).html(),
        address="#v2/attention",
    )
    assert "was not inspected" in page.locator("section[aria-label=View]").inner_text()
    assert page.locator("nav.tabs:not(.main) [aria-current=page]").count() == 0


def test_each_page_has_one_heading(report, opened):
    page = opened(report.html())
    for address in ("", "#v1/tokens", "#map", "#provenance", "#v1?vs=2"):
        page.goto(page.url.split("#")[0] + address)
        settle(page)
        assert page.locator("h1").count() == 1, address


def test_two_vectors_are_compared_token_by_token(one, report, opened):
    page = opened(report.html(), address="#v0?vs=2&p=2")
    settle(page)
    seen = ts.inspect(one, bank_of(one), PROMPTS[0])
    assert page.locator("h1").inner_text() == "Vector 0 and Vector 2"
    strips = page.locator(".strip")
    strips.nth(0).locator(".token").nth(2).click()
    for i, vector in enumerate((0, 2)):
        picked = strips.nth(i).locator(".token[aria-pressed=true]")
        assert picked.count() == 1
        said = picked.get_attribute("aria-label")
        assert float(seen.kl[vector, 2]) == pytest.approx(
            float(said.split(":")[-1].split()[0]), rel=0.06
        )
    assert "t=2" in location(page)
    words = page.locator("table.merged tbody td .word").all_inner_texts()
    gained = {seen.word(int(seen.gained[v, 2, k])) for v in (0, 2) for k in range(2)}
    assert gained & set(words)
    assert page.locator("[role=grid]").count() == 3
    assert "Norm of the response" in page.locator("svg[role=img]").last.get_attribute("aria-label")
    drawn(page)
    page.reload()
    settle(page)
    assert page.locator(".strip .token[aria-pressed=true]").count() == 2


def test_three_texts_show_what_is_gone_and_what_is_new(report, opened):
    page = opened(report.html(), address="#v0?vs=3&p=0")
    settle(page)
    cards = page.locator(".compare.three .card")
    assert cards.count() == 3
    assert cards.nth(0).locator("del.gone-a").all_inner_texts() == ["plain", "text"]
    assert "late0" in " ".join(cards.nth(1).locator("mark").all_inner_texts())
    assert "The unsteered text" in cards.nth(2).inner_text()
    assert page.locator(".strip").count() == 0, "neither was inspected on this prompt"


def test_a_vector_is_compared_with_a_random_one_and_with_itself_elsewhere(report, opened):
    page = opened(report.html(), address="#v1?p=2")
    page.locator("select[aria-label='Compare with']").select_option("r0")
    settle(page)
    assert location(page).endswith("#v1?vs=r0&p=2")
    assert page.locator("h1").inner_text() == "Vector 1 and Random vector 0"
    assert page.locator(".strip").count() == 2
    page.locator("select[aria-label='Compare with']").select_option("p3")
    settle(page)
    assert page.locator("h1").inner_text() == "Vector 1 and Vector 1 on prompt 4"
    assert page.locator(".strip").count() == 2
    page.goto(page.url.split("#")[0] + "#v1?vs=nothing")
    settle(page)
    assert "nothing called" in page.locator("#root").inner_text()


def test_an_infinite_divergence_is_larger_than_every_other_one(one, opened):
    bank = bank_of(one)
    seen = ts.inspect(one, bank, PROMPTS[0])
    kl = seen.kl.clone()
    kl[1, -1], kl[2, -1] = torch.inf, torch.nan
    seen = dataclasses.replace(seen, kl=kl)
    page = opened(ts.report(bank, inspections=[seen]).html(), address="#?s=-kl")
    shown = [row.inner_text() for row in page.locator("table.bank tbody tr").all()]
    assert rows(page)[0] == 1
    assert rows(page)[-1] == 2
    assert "∞" in shown[0]
    assert "–" in shown[-1]


def test_a_vector_is_compared_with_its_opposite(one, opened):
    bank = bank_of(one)
    seen = ts.inspect(one, bank, PROMPTS[0])
    several = ts.inspection.strengths(one, bank, PROMPTS[0], vectors=[1], max_new_tokens=3)
    found = ts.generate(one, bank, [PROMPTS[0]], max_new_tokens=3)
    page = opened(
        ts.report(bank, inspections=[seen], strengths=[several], generations=found).html(),
        address="#v1",
    )
    page.locator("select[aria-label='Compare with']").select_option("-1")
    settle(page)
    assert location(page).endswith("#v1?vs=-1")
    assert page.locator("h1").inner_text() == "Vector 1 and The opposite of vector 1"
    (opposite,) = (step for step in several.of(1) if step.scale == -1)
    text = page.locator(".compare.three .card").nth(2).inner_text()
    assert opposite.text == several.unsteered.text or opposite.text.split()[-1] in text
    said = page.locator(".strip").nth(1).locator(".token").last.get_attribute("aria-label")
    kl = float(said.split(":")[-1].split()[0])
    assert kl == pytest.approx(opposite.kl[-1], rel=0.06)
    assert ts.views.strengths(several, 1).data["steps"]
    page.goto(location(page).replace("#v1", "#v2"))
    settle(page)
    assert "nothing called" in page.locator("#root").inner_text()
