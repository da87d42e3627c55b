"""What a live page is answered is what the package's own calls give."""

import dataclasses
import json
import threading

import pytest
import torch
from asking import QUESTION, client_of, events, part, served
from conftest import KINDS, LLAMAS, PROMPTS, adapter_bank, bank_of
from state import snapshot
from tiny_monitor import ALPHA, monitor_of

import tl_steer as ts
from tl_steer.serving.asked import Part
from tl_steer.serving.mixture import mixture
from tl_steer.views.panels import VIEWS


@pytest.fixture
def live(one):
    with served(one) as (_, client):
        yield client


def texts(found):
    return [event["texts"] for event in found if "texts" in event]


def test_texts_are_those_of_generate_steered_random_and_unsteered(one, live):
    bank = bank_of(one)
    prompt = [QUESTION["prompt"]]
    found = events(live, mix=[part(2, 1.5)], seed=3)
    assert found[0] == {"job": 1, "ahead": 0}
    assert found[-1] == {"done": True}
    said = texts(found)[-1]
    own = ts.generate(one, bank[2] * 1.5, prompt, max_new_tokens=4)
    control = ts.generate(one, ts.random_bank(bank[2] * 1.5, n=1, seed=3), prompt, max_new_tokens=4)
    assert said["steered"] == own.texts[0][0]
    assert said["unsteered"] == own.unsteered[0]
    assert said["random"] == control.texts[0][0]
    assert said["steered"] != said["unsteered"]


def test_texts_come_token_by_token(live):
    told = [each["steered"] for each in texts(events(live))]
    assert [len(each.split()) for each in told] == [1, 2, 3, 4]
    assert all(told[-1].startswith(each) for each in told)


def test_a_mixture_is_the_sum_of_its_vectors_at_their_strengths(one):
    bank = bank_of(one)
    mix, strength = mixture(bank, [Part(1, False, 0.5), Part(3, False, -2.0), Part(7, True, 1.0)])
    whole = 0.5 * bank[1].vector - 2 * bank[3].vector + ts.random_bank(bank, n=1, seed=7).vector
    torch.testing.assert_close(strength * mix.vector, whole)


def test_perturbations_that_have_no_sum_are_used_one_at_a_time(one):
    bank = adapter_bank(one)
    mix, strength = mixture(bank, [Part(1, False, -0.5)])
    assert torch.equal(mix.vectors, bank[1].vectors)
    assert strength == -0.5
    with pytest.raises(ts.errors.SettingError, match="cannot be mixed"):
        mixture(bank, [Part(0, False, 1.0), Part(1, False, 1.0)])
    with ts.serve(one, bank) as page, client_of(page) as client:
        assert '"mixes":false' in client.get("").text


def test_at_strength_zero_nothing_is_steered(one, live):
    said = texts(events(live, mix=[part(0, 0.0)]))[-1]
    assert said["steered"] == said["random"] == said["unsteered"]


def test_sampling_is_fixed_by_the_seed_and_leaves_the_users_random_numbers_alone(live):
    state = torch.get_rng_state()
    warm = {"temperature": 2.0, "tokens": 6}
    first, again, other = (texts(events(live, seed=s, **warm))[-1] for s in (1, 1, 2))
    assert first == again
    assert first["unsteered"] != other["unsteered"]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_prompt_is_a_users_message_or_read_as_it_is(one, live):
    asked = QUESTION["prompt"]
    wrapped = ts.generate(one, bank_of(one), [ts.chat(asked)], max_new_tokens=4)
    assert texts(events(live, chat=True))[-1]["unsteered"] == wrapped.unsteered[0]


def test_inspection_shows_the_reports_views_of_the_mixture(one, live):
    bank = bank_of(one)
    mix = [part(0, 0.5), part(1, 2.0)]
    found = next(e["views"] for e in events(live, "inspect", mix=mix) if "views" in e)
    assert [view["kind"] for view in found] == list(VIEWS)
    assert all("mixture" in view["title"] for view in found)
    seen = ts.inspect(one, bank[0] * 0.5 + bank[1] * 2.0, QUESTION["prompt"])
    assert found[0]["data"]["kl"] == pytest.approx(seen.kl[0].tolist(), rel=0.01)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"mix": []}, "no vector"),
        ({"mix": [part(99)]}, "99"),
        ({"prompt": "t5 " * 62, "tokens": 9}, "context"),
        ({"prompt": "  "}, "empty"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence_and_the_next_question_is_answered(
    live, asked, why
):
    (error,) = (event["error"] for event in events(live, **asked) if "error" in event)
    assert why in error
    assert events(live)[-1] == {"done": True}


def test_the_model_is_afterwards_as_it_was_whatever_was_asked(one):
    before, threads = snapshot(one), set(threading.enumerate())
    with served(one) as (page, client):
        events(client)
        events(client, "inspect")
        events(client, mix=[part(99)])
    assert snapshot(one) == before
    assert {t for t in threading.enumerate() if t.name.startswith("tl-steer")} <= threads
    page.stop()  # once more does nothing
    assert "stopped" in repr(page)


def test_alerts_come_while_the_model_speaks_and_say_of_which_text(one, loud, tmp_path):
    log = tmp_path / "audit.sqlite"
    with served(one, monitor=loud(monitor_of(one)), alpha=ALPHA, log=log) as (_, client):
        found = events(client, tokens=6)
        raised = [event["alert"] for event in found if "alert" in event]
        assert {alert["of"] for alert in raised} == {"steered", "random", "unsteered"}
        assert found.index({"alert": raised[0]}) < len(found) - 2
        events(client, "inspect")  # is no request
        told = client.post("api/alerts", json={"version": 0}).json()
        assert all(alert["trace"] for alert in told["data"]["alerts"])
        assert len(told["data"]["alerts"]) == 3
        same = client.post("api/alerts", json={"version": told["version"]}).json()
        assert same == {"version": told["version"]}
    rows = list(ts.monitoring.read_log(log, "requests"))
    assert len(rows) == 3
    assert ts.monitoring.verify_log(log).rows > 0


def test_alerts_name_the_text_whose_prompt_row_they_were_raised_in(one):
    monitor = monitor_of(one)
    with served(one, monitor=monitor, alpha=ALPHA) as (_, client):
        raised = [e["alert"]["of"] for e in events(client, tokens=5, mix=[part(1)]) if "alert" in e]
    with ts.watch(one, monitor, alpha=ALPHA, chunk=1) as watching, torch.no_grad():
        ids = ts.tokenize(one, [QUESTION["prompt"]]).ids
        with ts.perturbing(one, bank_of(one)[1]):
            one.generate(ids, max_new_tokens=5, do_sample=False, verbose=False)
        watching.flush()
    assert ("steered" in raised) == bool(watching.alerts)


def test_the_tail_of_a_log_shows_what_others_write_and_only_of_this_bank(one, loud, tmp_path):
    log, bank = tmp_path / "audit.sqlite", bank_of(one)
    loud_one = loud(monitor_of(one))
    foreign = dataclasses.replace(loud_one, bank=bank * 2)
    with served(one, log=log) as (_, client):
        assert client.post("api/alerts", json={"version": 0}).json() == {"version": 0}
        with ts.monitoring.AuditLog(log) as audit:
            alert = raised_by(one, loud_one)
            audit.alert(alert.row("m", bank.digest()))
            told = client.post("api/alerts", json={"version": 0}).json()
            assert [each["request"] for each in told["data"]["alerts"]] == [alert.request]
            audit.alert(raised_by(one, foreign).row("m", (bank * 2).digest()))
            assert client.post("api/alerts", json={"version": told["version"]}).json() == {
                "version": told["version"]
            }


def raised_by(model, monitor):
    with ts.watch(model, monitor_of(model) if monitor is None else monitor, alpha=ALPHA) as found:
        ids = ts.tokenize(model, PROMPTS[:1]).ids
        model.generate(ids, max_new_tokens=5, do_sample=False, verbose=False)
        found.flush()
    return found.alerts[0]


def test_notes_are_kept_whole_beside_the_bank_and_come_back(one, tmp_path):
    path = tmp_path / "bank.safetensors.notes.json"
    notes = {"2": {"flag": "dangerous", "label": "house </script>", "comment": "sagt „ja“\n" * 3}}
    with served(one, notes=path) as (_, client):
        assert client.post("api/notes", json={}).json() == {"notes": {}}
        assert client.post("api/notes", json={"notes": notes}).json()["notes"].keys() == {"2"}
        assert json.loads(path.read_text()) == notes
        for wrong in (
            {"9": notes["2"]},
            {"2": {"flag": 1, "label": "", "comment": ""}},
            {"2": {"flag": "", "label": "x" * 201, "comment": ""}},
            {"2": {"label": "", "comment": ""}},
            [],
        ):
            assert client.post("api/notes", json={"notes": wrong}).status_code == 400
        assert json.loads(path.read_text()) == notes
    with served(one, notes=path) as (_, client):
        assert client.post("api/notes", json={}).json()["notes"] == notes
        assert "house \\u003c/script\\u003e" in client.get("").text
    with served(one) as (_, client):
        refused = client.post("api/notes", json={"notes": notes})
        assert refused.status_code == 400
        assert "notes=path" in refused.json()["error"]


@pytest.mark.parametrize("held", ["{", "[]", '{"2": {}}', '{"77": {}}', "\udcff", '{"2":' * 99])
def test_a_file_that_holds_no_notes_is_refused_and_left_alone(one, tmp_path, held):
    path = tmp_path / "notes.json"
    path.write_bytes(held.encode("utf-8", "surrogateescape"))
    with pytest.raises(ts.errors.BankFileError, match="holds no notes"):
        ts.serve(one, bank_of(one), notes=path)
    assert path.read_bytes() == held.encode("utf-8", "surrogateescape")


def test_what_does_not_fit_is_refused_before_anything_runs(one, tmp_path):
    bank, other = bank_of(one), shifted()  # making a model draws its weights
    before = snapshot(one)
    with pytest.raises(ts.errors.ForeignModelError):
        ts.serve(other, bank)
    with pytest.raises(ts.errors.SettingError, match="alpha"):
        ts.serve(one, bank, monitor=monitor_of(one), alpha=1e-9)
    with pytest.raises(ts.errors.AuditError):
        ts.serve(
            one, bank, monitor=monitor_of(one), alpha=ALPHA, log=tmp_path / "no" / "log.sqlite"
        )
    with pytest.raises(ts.errors.AuditError):
        ts.serve(one, bank, log=tmp_path)
    with pytest.raises(ts.errors.SettingError, match="report is about bank"):
        ts.serve(one, bank, report=ts.report(bank * 2))
    with pytest.raises(ts.errors.SettingError, match="another bank's vectors"):
        ts.serve(one, bank * 2, monitor=monitor_of(one), alpha=ALPHA)
    with ts.serve(one, bank) as page, pytest.raises(ts.errors.SettingError, match="Port"):
        ts.serve(one, bank, port=page.port)
    with pytest.raises(ts.errors.SettingError, match="65535"):
        ts.serve(one, bank, port=70000)
    assert snapshot(one) == before


def shifted():
    other = KINDS[LLAMAS[0]]()
    with torch.no_grad():
        for weight in other.blocks[0].parameters():
            weight += 0.1
    return other


def test_a_monitor_of_some_of_the_banks_vectors_is_one_of_this_bank(one, tmp_path):
    path = monitor_of(one).save(tmp_path / "monitor.safetensors")
    with served(one, monitor=ts.Monitor.load(path), alpha=ALPHA) as (_, client):
        assert events(client)[-1] == {"done": True}


def test_a_report_of_yours_is_the_page(one):
    page = ts.report(bank_of(one), title="An audit of reams")
    with served(one, report=page) as (_, client):
        assert "<title>An audit of reams</title>" in client.get("").text
