"""CircuitsVis's components in a browser: what they get, what they draw, and that they leave."""

import dataclasses
import math
import re

import pytest
import torch
from browsing import COLOURS, FOREIGN, in_a_browser, location, settle
from conftest import bank_of
from test_circuitsvis import COMPONENTS, component
from test_views import ATTACKS, inspection, poisoned

import tl_steer as ts

pytestmark = in_a_browser

EACH = [(name, which) for name, kinds in COMPONENTS.items() for which in kinds or ("",)]
# Draws a view again and returns the properties that its component gets.
PROPS = """async (which) => {
  const T = TlSteer, root = document.body.appendChild(T.el("div")), given = [], real = T.circuitsvis;
  T.circuitsvis = (parent, name, props, ...rest) => { given.push(props); return real(parent, name, props, ...rest); };
  T.draw.circuitsvis(root, { ...T.block("view").data, which });
  while (!given.length) await new Promise(requestAnimationFrame);
  T.circuitsvis = real;
  root.remove();
  return JSON.parse(JSON.stringify(given[0]).replaceAll("\\u2060", ""));
}"""  # noqa: E501


def view_of(seen, name, which, vector=1):
    return component(name, seen, vector, **({"which": which} if which else {}))


def patterns(seen, v, which):
    unsteered, steered = seen.patterns[v].float().unbind(1)
    return {"unsteered": unsteered, "steered": steered, "difference": steered - unsteered}[which]


def seen_whole(page):
    """Pictures are drawn (a head may change nothing and be white), and nothing sticks out."""
    colours = page.evaluate(COLOURS)
    assert all(count > 1 for count in colours[:1]), colours
    assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 1


@pytest.mark.parametrize(("name", "which"), EACH)
def test_every_component_draws_in_light_dark_and_on_a_phone(one, opened, name, which):
    view = view_of(inspection(one), name, which)
    page = opened(view.html())
    seen_whole(page)
    assert page.locator(".place > *").count() == 1
    if which:
        pressed = page.locator("button[aria-pressed=true]").inner_text()
        assert pressed.lower() == which
    unnamed = page.locator("canvas:not([aria-label]), select:not([aria-label])").count()
    assert unnamed == 0
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 800})
    settle(page)
    seen_whole(page)
    paper = "() => getComputedStyle(document.querySelector('.sheet')).backgroundColor"
    assert page.evaluate(paper) == "rgb(255, 255, 255)", "it draws for white paper"


@pytest.mark.parametrize("which", COMPONENTS["attention_heads"])
def test_heads_get_the_patterns_of_the_inspection(one, opened, which):
    seen = inspection(one)
    props = opened(view_of(seen, "attention_heads", which).html()).evaluate(PROPS, which)
    truth = patterns(seen, 1, which)[:8]
    shown = torch.tensor(props["attention"])
    torch.testing.assert_close(shown, truth, rtol=0, atol=5e-3)
    names = [f"{layer}.{head}" for layer, head in seen.kept[1, :8].tolist()]
    assert props["attentionHeadNames"] == names
    top = float(shown.abs().max()) if which == "difference" else 1
    assert (props["minValue"], props["maxValue"]) == pytest.approx((-top, top))
    assert props["maskUpperTri"]


@pytest.mark.parametrize("which", COMPONENTS["attention_patterns"])
def test_patterns_have_no_negative_numbers_which_would_be_drawn_as_none(one, opened, which):
    seen = inspection(one)
    props = opened(view_of(seen, "attention_patterns", which).html()).evaluate(PROPS, which)
    shown, truth = torch.tensor(props["attention"]), patterns(seen, 1, which)[:8]
    assert float(shown.min()) >= 0
    if which != "difference":
        torch.testing.assert_close(shown, truth, rtol=0, atol=5e-3)
        return
    top = truth.abs().max()
    torch.testing.assert_close(shown[0::2] * top, truth.clamp_min(0), rtol=0, atol=5e-3)
    torch.testing.assert_close(shown[1::2] * top, (-truth).clamp_min(0), rtol=0, atol=5e-3)
    assert [label.split()[1] for label in props["headLabels"][:2]] == ["more", "less"]


@pytest.mark.parametrize("which", COMPONENTS["colored_tokens"])
def test_colored_tokens_are_those_of_the_inspection(one, opened, which):
    seen = inspection(one)
    props = opened(view_of(seen, "colored_tokens", which).html()).evaluate(PROPS, which)
    before, after = seen.next_lp[0], seen.next_lp[2]
    truth = {"kl": seen.kl[1], "difference": after - before, "steered": after, "unsteered": before}
    assert props["values"] == pytest.approx(truth[which].tolist(), rel=1e-2, abs=2e-3)
    tokens = seen.tokens if which == "kl" else seen.tokens[1:]
    assert props["tokens"] == list(tokens)
    assert props["maxValue"] == pytest.approx(float(truth[which].abs().max()), rel=1e-2)
    assert props["minValue"] == -props["maxValue"]


@pytest.mark.parametrize("which", COMPONENTS["token_log_probs"])
def test_log_probs_are_those_of_the_inspection(one, opened, which):
    seen, row = inspection(one), {"unsteered": 0, "steered": 2}[which]
    props = opened(view_of(seen, "token_log_probs", which).html()).evaluate(PROPS, which)
    assert props["prompt"] == list(seen.tokens)
    assert props["correctTokenRank"] == seen.next_rank[row].tolist()
    assert props["correctTokenLogProb"] == pytest.approx(seen.next_lp[row].tolist(), rel=1e-3)
    for i, ids in enumerate(seen.likely[row].tolist()):
        assert props["topKTokens"][i] == [seen.word(token) for token in ids]
        truth = seen.likely_lp[row, i].tolist()
        assert props["topKLogProbs"][i] == pytest.approx(truth, rel=1e-3)


@pytest.mark.parametrize("which", COMPONENTS["topk_tokens"])
def test_top_tokens_are_those_of_the_inspection(one, opened, which):
    seen = inspection(one)
    props = opened(view_of(seen, "topk_tokens", which).html()).evaluate(PROPS, which)
    assert props["sampleLabels"][0] == which
    assert sorted(props["sampleLabels"]) == ["difference", "steered", "unsteered"]
    words, position = props["tokens"][0], len(seen.tokens) - 1

    def column(kind):
        vals, idxs = (props[f"{kind}{name}"][0][0] for name in ("Vals", "Idxs"))
        at = [row[position] for row in idxs]
        return [words[i] for i in at], [row[position] for row in vals]

    if which == "difference":
        for kind, name in (("topk", "gained"), ("bottomk", "lost")):
            ids, p = getattr(seen, name)[1, -1], getattr(seen, f"{name}_p")[1, -1]
            assert column(kind)[0] == [seen.word(int(token)) for token in ids]
            truth = (p[:, 1] - p[:, 0]).abs().tolist()
            assert column(kind)[1] == pytest.approx(truth, abs=2e-3)
    else:
        row = {"unsteered": 0, "steered": 2}[which]
        assert column("topk")[0] == [seen.word(int(t)) for t in seen.likely[row, -1]]
        assert column("topk")[1] == pytest.approx(seen.likely_lp[row, -1].exp().tolist(), abs=1e-3)
        assert props["bottomkVals"][0][0] == []


def test_activations_are_the_response_of_every_layer_that_moved(one, opened):
    seen = inspection(one)
    props = opened(view_of(seen, "text_neuron_activations", "").html()).evaluate(PROPS, "")
    moved = [s for s in range(seen.response.shape[1]) if float(seen.response[1, s].max()) > 0][::-1]
    names = [f"after block {s - 1}" if s else "before block 0" for s in moved]
    assert props["firstDimensionLabels"] == names
    shown = torch.tensor(props["activations"])
    response = seen.response[1, moved].T
    torch.testing.assert_close(shown[..., 0], response, rtol=1e-2, atol=1e-3)
    share = response / seen.clean[moved].T
    torch.testing.assert_close(shown[..., 1], share, rtol=1e-2, atol=1e-3)


def test_a_head_is_seen_when_hovered_and_stays_when_clicked(one, opened):
    page = opened(view_of(inspection(one), "attention_heads", "difference").html())
    names = page.locator(".place h4").all_inner_texts()
    zoomed = page.locator(".place h2")
    assert zoomed.inner_text() == names[0]
    page.locator(".place canvas").nth(2).hover()
    assert zoomed.inner_text() == names[2]
    page.locator(".place canvas").nth(1).click()
    page.mouse.move(2, 2)
    assert zoomed.inner_text() == names[1]
    page.get_by_role("button", name="unsteered", exact=True).click()
    settle(page)
    assert zoomed.inner_text() == names[1], "another run is shown of the same head"
    page.get_by_role("button", name=f"head {names[3]}").focus()
    page.keyboard.press("Enter")
    assert zoomed.inner_text() == names[3]


def test_a_token_of_attention_patterns_is_hovered_and_locked(one, opened):
    page = opened(view_of(inspection(one), "attention_patterns", "steered").html())
    tints = "() => [...document.querySelectorAll('.place .tokens button')].map((b) => b.style.backgroundColor)"  # noqa: E501
    before = page.evaluate(tints)
    last = page.locator(".place .tokens button").last
    last.hover()
    hovered = page.evaluate(tints)
    assert hovered != before
    page.mouse.move(2, 2)
    assert page.evaluate(tints) == before
    last.click()
    page.mouse.move(2, 2)
    assert page.evaluate(tints) == hovered
    page.locator(".place figure").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.evaluate(tints) != hovered, "of one head alone"


def test_missing_and_infinite_numbers_are_said_and_others_keep_their_colour(one, opened):
    seen = inspection(one)
    kl = seen.kl.clone()
    kl[1, 0], kl[1, 1] = math.nan, math.inf
    odd = dataclasses.replace(seen, kl=kl)
    page = opened(view_of(odd, "colored_tokens", "kl").html())
    texts = page.locator(".place .colored-tokens > span").all_inner_texts()
    assert [text.replace("\xa0", " ").replace("\u2060", "") for text in texts[:2]] == [
        f"{seen.tokens[0]} (–)",
        f"{seen.tokens[1]} (∞)",
    ]
    colours = page.evaluate(
        "() => [...document.querySelectorAll('.colored-tokens > span > span')]"
        ".map((node) => node.style.backgroundColor)"
    )
    assert colours[0] == "rgb(255, 255, 255)"
    assert colours[1] == "rgb(11, 114, 133)", "infinite is deepest"
    finite = int(kl[1].nan_to_num(0, posinf=0).argmax())
    assert colours[finite] == "rgb(11, 114, 133)"


def test_the_scale_has_the_colours_of_the_tokens(one, opened):
    seen = inspection(one)
    kl = torch.zeros_like(seen.kl)
    kl[1, :5] = torch.linspace(0, 2, 5)
    page = opened(view_of(dataclasses.replace(seen, kl=kl), "colored_tokens", "kl").html())
    tokens, scale = page.evaluate(
        """() => [
          [...document.querySelectorAll('.colored-tokens > span > span')]
            .map((node) => node.style.backgroundColor),
          getComputedStyle(document.querySelector('.scale.paper i')).backgroundImage,
        ]"""
    )
    steps, shown = numbers(scale)[::2], numbers(str(tokens[:5]))
    for step, token in zip(steps, shown, strict=True):
        assert max(abs(a - b) for a, b in zip(step, token, strict=True)) <= 2, (step, token)


def numbers(colours):
    return [[int(n) for n in text.split(",")] for text in re.findall(r"rgb\(([^)]*)\)", colours)]


@pytest.mark.parametrize("name", COMPONENTS)
def test_attacks_are_shown_and_neither_run_nor_become_elements(one, opened, name):
    page = opened(component(name, poisoned(one), 1).html())
    for node in page.locator(".place span:visible, .place .tokens button").all()[:10]:
        node.hover()
        assert page.evaluate(FOREIGN) == []
    assert page.evaluate("() => window.HIT") is None
    assert page.evaluate(FOREIGN) == []
    assert page.locator(".place b").count() == 0, "a character reference stays as it is written"
    if name in ("colored_tokens", "token_log_probs", "topk_tokens", "text_neuron_activations"):
        shown = page.locator(".sheet").first.text_content().replace("\u2060", "")
        shown = shown.replace("\xa0", " ")
        assert any(attack in shown for attack in ATTACKS[:3])


OPEN = """async (times) => {
  const T = TlSteer, root = document.getElementById("root"), data = T.block("view").data, frame = () => new Promise(requestAnimationFrame);
  for (let i = 0; i < times; i++) {
    T.put(root);
    T.draw.circuitsvis(root, data);
    while (!root.querySelector(".place > *")) await frame();
    await frame();
  }
  const open = T.circuitsvisMounted();
  T.put(root);
  await frame();
  return [open, T.circuitsvisMounted()];
}"""  # noqa: E501


def counts(page, cdp):
    """Listeners and nodes, once they fall no more: what has just been unmounted is let go of a
    moment later, which a page says nothing of."""
    lowest, still = (math.inf, math.inf), 0
    while still < 5:
        settle(page)
        cdp.send("HeapProfiler.collectGarbage")
        told = {m["name"]: m["value"] for m in cdp.send("Performance.getMetrics")["metrics"]}
        found = (told["JSEventListeners"], told["Nodes"])
        still = 0 if found < lowest else still + 1
        lowest = min(lowest, found)
    return lowest


@pytest.mark.parametrize("name", COMPONENTS)
def test_what_has_left_the_page_is_unmounted_and_forgotten(one, opened, name):
    page = opened(component(name, inspection(one), 1).html())
    cdp = page.context.new_cdp_session(page)
    cdp.send("Performance.enable")
    assert page.evaluate(OPEN, 3) == [1, 0]
    few = counts(page, cdp)
    assert page.evaluate(OPEN, 40) == [1, 0]
    many = counts(page, cdp)
    assert many[0] <= few[0] + 10, "listeners"
    assert many[1] <= few[1] + 40, "nodes"


def reported(one):
    return ts.report(bank_of(one), inspections=[inspection(one)])


def test_a_report_draws_them_from_the_numbers_that_it_has(one, opened):
    seen = inspection(one)
    html = reported(one).html()
    assert html.count('id="circuitsvis"') == 1
    page = opened(html, address="#v1/circuitsvis")
    assert page.evaluate("() => typeof CircuitsVis") == "object"
    group = page.get_by_role("group", name="Component")
    titles = group.get_by_role("button").all_inner_texts()
    assert len(titles) == len(COMPONENTS)
    for title in titles:
        group.get_by_role("button", name=title, exact=True).click()
        settle(page)
        assert page.locator(".place > *").count() == 1
        assert page.evaluate("() => TlSteer.circuitsvisMounted()") == 1
    assert "component=text_neuron_activations" in location(page)
    address = (
        location(page).split("?")[0].split("#")[1] + "?component=colored_tokens&which=difference"
    )
    again = opened(html, address="#" + address)
    shown = again.locator("button[aria-pressed=true]").all_inner_texts()
    assert [text.lower() for text in shown[-2:]] == ["coloured tokens", "difference"]
    assert again.locator(".colored-tokens > span").count() == len(seen.tokens) - 1


def test_it_starts_only_when_its_tab_is_opened(one, opened):
    page = opened(reported(one).html(), address="#v1/attention")
    assert page.evaluate("() => typeof CircuitsVis") == "undefined"
    page.get_by_role("link", name="CircuitsVis").click()
    settle(page)
    assert page.evaluate("() => typeof CircuitsVis") == "object"
    assert page.locator(".place canvas").count() > 1
    page.get_by_role("link", name="Next tokens").click()
    settle(page)
    assert page.evaluate("() => TlSteer.circuitsvisMounted()") == 0


OTHERS = ("tokens", "attention", "response", "attribution", "likelihood", "steered")


def test_forty_visits_to_its_tab_and_to_others_leave_nothing_behind(one, opened):
    page = opened(reported(one).html(), address="#v1/circuitsvis")
    cdp = page.context.new_cdp_session(page)
    cdp.send("Performance.enable")

    def visit(times):
        for at in range(times):
            page.evaluate("(at) => { location.hash = `v${at % 4}/circuitsvis`; }", at)
            page.wait_for_function("() => document.querySelectorAll('.place canvas').length > 1")
            page.evaluate(
                "(to) => { location.hash = to; }", f"v{at % 4}/{OTHERS[at % len(OTHERS)]}"
            )
            page.wait_for_function("() => TlSteer.circuitsvisMounted() === 0")

    visit(6)
    few = counts(page, cdp)
    visit(42)
    many = counts(page, cdp)
    assert many[0] <= few[0] + 10, "listeners"
    assert many[1] <= few[1] + 40, "nodes"


def test_likelihood_shows_what_was_likely_in_a_token_s_place(one, opened):
    seen = inspection(one)
    page = opened(ts.views.likelihood(seen, 1).html())
    page.locator(".token").nth(2).click()
    card = page.locator(".card").inner_text()
    assert "(token 3)" in card
    for row in (0, 2):
        assert seen.word(int(seen.likely[row, 2, 0])) in card
    assert location(page).endswith("t=3")
    again = opened(ts.views.likelihood(seen, 1).html(), address="#?t=4")
    assert "(token 4)" in again.locator(".card").inner_text()
    assert page.locator("#circuitsvis").count() == 0, "it does without"
