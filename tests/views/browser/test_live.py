"""The live page in a real browser, with a model behind it."""

import json

import pytest
from browsing import drawn, in_a_browser, location, settle
from conftest import bank_of
from tiny_monitor import ALPHA, monitor_of

import tl_steer as ts
from tl_steer.serving.worker import Job
from tl_steer.views.panels import VIEWS

pytestmark = in_a_browser

STATUS = "form.live-form [role=status]"


@pytest.fixture
def visited(browser):
    """Open the page that a server gives; at the end nothing may have gone wrong, and nobody but
    that server may have been asked for anything."""
    wrong, contexts = [], []

    def visit(served, address="#live", *, width=1100):
        context = browser.new_context(viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        own = (served.url, "blob:", "data:")
        page.on("console", lambda m: m.type == "error" and wrong.append(m.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: r.url.startswith(own) or wrong.append(r.url))
        page.goto(served.url + address)
        settle(page)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


def ask(page, prompt, button="Steer"):
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name=button).click()


def says(page, text, timeout=60_000):
    page.wait_for_function(
        f"(text) => document.querySelector('{STATUS}').textContent.startsWith(text)",
        arg=text,
        timeout=timeout,
    )


def text(page, name):
    return page.locator(f"[data-text={name}] .said").first.inner_text()


def set_number(page, label, value):
    page.get_by_label(label + ", as a number").fill(str(value))


def test_a_prompt_is_typed_steered_and_shown_beside_random_and_unsteered(one, visited):
    bank = bank_of(one)
    with ts.serve(one, bank) as served:
        page = visited(served)
        page.get_by_label("prompt is read as").select_option("raw")
        page.get_by_label("tokens at most").fill("6")
        set_number(page, "Strength of vector 0", 1.5)
        ask(page, "t5 t9 t30")
        says(page, "Done.")
        own = ts.generate(one, bank[0] * 1.5, ["t5 t9 t30"], max_new_tokens=6)
        assert text(page, "steered") == own.texts[0][0]
        assert text(page, "unsteered") == own.unsteered[0]
        assert text(page, "random") not in ("", own.unsteered[0])
        assert page.locator("[data-text=steered] mark").count() > 0
        with page.expect_download() as saved:
            page.get_by_role("button", name="CSV").first.click()
        assert own.texts[0][0] in saved.value.path().read_text()
        drawn(page)


def test_a_mixture_is_made_by_keyboard_and_the_address_brings_it_back(one, visited):
    bank = bank_of(one)
    with ts.serve(one, bank) as served:
        page = visited(served)
        page.get_by_label("prompt is read as").select_option("raw")
        page.get_by_label("tokens at most").fill("5")
        page.get_by_role("button", name="Add vector").focus()
        page.keyboard.press("Enter")
        focused = "() => document.activeElement.getAttribute('aria-label')"
        assert page.evaluate(focused) == "Strength of vector 1"
        page.keyboard.press("ArrowLeft")
        assert page.get_by_label("Strength of vector 1, as a number").input_value() == "0.95"
        page.get_by_role("button", name="Add random vector").click()
        set_number(page, "Strength of random vector 0", -0.5)
        set_number(page, "Strength of the mixture", 2)
        page.get_by_label("Prompt", exact=True).fill("t5 t9 t30")
        page.keyboard.press("Control+Enter")
        says(page, "Done.")
        mix = (bank[0] + bank[1] * 0.95 + ts.random_bank(bank, n=1, seed=0) * -0.5) * 2
        own = ts.generate(one, mix, ["t5 t9 t30"], max_new_tokens=5).texts[0][0]
        assert text(page, "steered") == own
        page.reload()
        settle(page)
        assert page.get_by_label("Prompt", exact=True).input_value() == "t5 t9 t30"
        assert page.get_by_label("Strength of random vector 0, as a number").input_value() == "-0.5"
        page.get_by_role("button", name="Steer").click()
        says(page, "Done.")
        assert text(page, "steered") == own
        page.get_by_role("button", name="Remove random vector 0").click()
        assert "r0" not in location(page)


@pytest.fixture
def slow(monkeypatch):
    """Jobs that speak one token, and go on when they are let go or stopped."""
    tell = Job.refuse_stopped

    def waiting(job):
        if job.heard is not None:
            job.stopped.wait(60)
        tell(job)

    monkeypatch.setattr(Job, "refuse_stopped", waiting)


def test_stop_ends_a_text_and_the_next_one_is_written(one, visited, slow, monkeypatch):
    with ts.serve(one, bank_of(one)) as served:
        page = visited(served)
        assert page.get_by_role("button", name="Stop").is_disabled()
        ask(page, "t5 t9")
        page.wait_for_function("() => document.activeElement.textContent === 'Stop'")
        says(page, "Reading")
        page.keyboard.press("Enter")
        says(page, "Stopped.")
        assert page.get_by_role("button", name="Stop").is_disabled()
        monkeypatch.undo()
        ask(page, "t5 t9")
        says(page, "Done.")


def test_going_to_another_page_of_the_report_stops_the_text(one, visited, slow):
    with ts.serve(one, bank_of(one)) as served:
        page = visited(served)
        ask(page, "t5 t9")
        says(page, "Reading")
        (job,) = served._worker._known.values()
        page.locator("nav.main").get_by_text("Vectors").click()
        assert job.stopped.wait(60)


def test_inspecting_a_prompt_draws_every_view_of_it(one, visited):
    with ts.serve(one, bank_of(one)) as served:
        page = visited(served)
        ask(page, "t5 t9 t30", "Inspect this prompt")
        page.wait_for_selector("[aria-label=Views] button")
        names = page.locator("[aria-label=Views] button").all_inner_texts()
        assert len(names) == len(VIEWS)
        for name in names:
            page.get_by_role("button", name=name, exact=True).click()
            settle(page)
            assert "mixture" in page.locator("section h2").first.inner_text()
            assert "not in this report" not in page.locator("section").first.inner_text()
            drawn(page)
        page.get_by_role("button", name="Attention").click()
        assert "view=attention_change" in location(page)


def test_alerts_are_shown_under_their_text_and_in_the_tail_of_the_log(one, visited, loud, tmp_path):
    monitor, log = loud(monitor_of(one)), tmp_path / "audit.sqlite"
    with ts.serve(one, bank_of(one), monitor=monitor, alpha=ALPHA, log=log) as served:
        page = visited(served)
        page.get_by_label("prompt is read as").select_option("raw")
        ask(page, "t5 t9 t30")
        says(page, "Done.")
        assert page.locator(".live-texts .alert").count() == 3
        assert "p = " in page.locator("[data-text=steered] .alert").inner_text()
        page.wait_for_selector(".live-alerts .view-alerts svg")
        drawn(page)


def test_what_cannot_be_done_is_said_and_hostile_text_stays_text(one, visited):
    hostile = "<img src=x onerror='window.HIT=1'></script><b>t5</b>"
    bank = bank_of(one)
    with ts.serve(one, bank) as served:
        page = visited(served)
        ask(page, "   ")
        says(page, "Write a prompt first.")
        ask(page, hostile)
        says(page, "Done.")
        page.reload()
        settle(page)
        assert page.get_by_label("Prompt", exact=True).input_value() == hostile
        assert page.evaluate("() => window.HIT") is None
        ask(page, "t5 " * 70)
        says(page, "Prompt 0 is")
        assert page.locator(".live-error").is_visible()


def test_an_address_that_somebody_made_up_asks_for_nothing_strange(one, visited):
    address = "#live?m=99:1,x,0:1e9,1:-3.5,r5:2&s=1e999&n=-7&t=abc&seed=9999999999999&raw=1"
    with ts.serve(one, bank_of(one)) as served:
        page = visited(served, address)
        assert page.get_by_label("Strength of vector 1, as a number").input_value() == "-3.5"
        assert page.locator(".live-part select").count() == 1
        page.get_by_label("tokens at most").fill("3")
        ask(page, "t5")
        says(page, "Done.")


def test_when_the_server_is_gone_the_page_says_so(one, browser):
    with ts.serve(one, bank_of(one)) as served:
        page = browser.new_page()
        page.goto(served.url + "#live")
        settle(page)
    ask(page, "t5 t9")
    says(page, "The server does not answer")
    assert page.get_by_role("button", name="Steer").is_enabled()
    page.close()


def test_it_fits_a_phone_and_a_dark_one(one, visited):
    with ts.serve(one, bank_of(one)) as served:
        page = visited(served, width=390)
        page.get_by_role("button", name="Add random vector").click()
        ask(page, "t5 t9")
        says(page, "Done.")
        drawn(page)
        page.emulate_media(color_scheme="dark")
        settle(page)
        drawn(page)


def test_a_page_that_is_a_file_has_no_such_tab(one, opened):
    page = opened(ts.report(bank_of(one)).html(), address="#live")
    assert "Live" not in page.locator("nav.main").inner_text()


def flag(page, number, name):
    page.goto(page.url.split("#")[0] + f"#v{number}?note=1")
    settle(page)
    with page.expect_response("**/api/notes"):
        page.locator(".notes").get_by_label(name).check()
    settle(page)


def flagged(page, number, name):
    page.goto(page.url.split("#")[0] + f"#v{number}?note=1")
    settle(page)
    return page.locator(".notes").get_by_label(name).is_checked()


def test_notes_are_kept_by_the_server_and_seen_in_every_browser(one, visited, tmp_path):
    notes = tmp_path / "notes.json"
    with ts.serve(one, bank_of(one), notes=notes) as served:
        page = visited(served, "")
        flag(page, 2, "dangerous")
        assert "Save a copy" not in page.locator(".notes-standing").inner_text()
        assert json.loads(notes.read_text()) == {
            "2": {"flag": "dangerous", "label": "", "comment": ""}
        }
        page.reload()
        settle(page)
        assert flagged(page, 2, "dangerous")
        assert flagged(visited(served, ""), 2, "dangerous")
    with ts.serve(one, bank_of(one), notes=notes) as served:
        assert flagged(visited(served, ""), 2, "dangerous")


def test_a_vectors_page_leads_to_its_live_one(one, visited):
    with ts.serve(one, bank_of(one)) as served:
        page = visited(served, "#v3")
        page.get_by_text("try it live").click()
        settle(page)
        assert page.get_by_label("Strength of vector 3", exact=True).is_visible()


def test_a_copy_that_is_saved_is_a_file_like_others(one, visited, opened):
    with ts.serve(one, bank_of(one)) as served:
        page = visited(served, "")
        with page.expect_download() as copied:
            page.get_by_role("button", name="Save copy").click()
        text = copied.value.path().read_text()
        assert served.url.split("/")[3] not in text
    assert "Live" not in opened(text).locator("nav.main").inner_text()


@pytest.mark.smollm2
def test_smollm2_is_typed_to_steered_stopped_mixed_flagged_and_reloaded(smollm2, visited, tmp_path):
    prompt = "How do I bake bread?"
    bank = ts.elicit(
        smollm2, [ts.chat(prompt)], source=7, target=20, n=2, radius=19.0, progress=False
    )
    notes = tmp_path / "notes.json"
    with ts.serve(smollm2, bank, notes=notes) as served:
        page = visited(served)
        page.get_by_label("tokens at most").fill("8")
        ask(page, prompt)
        says(page, "Done.", timeout=300_000)
        own = ts.generate(smollm2, bank[:1], [ts.chat(prompt)], max_new_tokens=8)
        assert text(page, "steered").strip() == own.texts[0][0].strip()
        assert text(page, "unsteered").strip() == own.unsteered[0].strip()
        page.get_by_label("tokens at most").fill("400")
        page.get_by_role("button", name="Steer").click()
        page.wait_for_function(
            f"() => /^\\d+ of 400/.test(document.querySelector('{STATUS}').textContent)",
            timeout=300_000,
        )
        page.get_by_role("button", name="Stop").click()
        says(page, "Stopped.", timeout=300_000)
        page.get_by_label("tokens at most").fill("8")
        page.get_by_role("button", name="Add vector").click()
        set_number(page, "Strength of vector 1", -1)
        page.get_by_role("button", name="Steer").click()
        says(page, "Done.", timeout=300_000)
        mixed = ts.generate(smollm2, bank[0] - bank[1], [ts.chat(prompt)], max_new_tokens=8)
        assert text(page, "steered").strip() == mixed.texts[0][0].strip()
        address = page.url
        flag(page, 1, "benign")
        page.goto(address)
        page.reload()
        settle(page)
        assert page.get_by_label("Prompt", exact=True).input_value() == prompt
        assert page.get_by_label("Strength of vector 1, as a number").input_value() == "-1"
        assert flagged(page, 1, "benign")
        assert json.loads(notes.read_text())["1"]["flag"] == "benign"
