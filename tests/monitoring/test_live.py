"""Who is heard, where limits lie, and what a tie is."""

import dataclasses
import math
import threading
from pathlib import Path

import pytest
import torch
from conftest import HAS_BRIDGE, PROMPTS, SOURCE, TARGET, bank_of, bridge
from live_requests import monitor_on, watched
from state import snapshot
from tiny_monitor import ALPHA, HORIZON, answer, monitor_of, prompts, scores_of, synthetic

import tl_steer as ts
from tl_steer.errors import ForeignModelError
from tl_steer.monitoring.audit import read_log
from tl_steer.monitoring.statistics.drift import Drift
from tl_steer.monitoring.traffic import observe

FIXTURE = Path(__file__).parents[1] / "fixtures" / "0.1.0" / "monitor.safetensors"


def statistics(path):
    return [row["statistic"] for row in read_log(path, "requests")]


# --- limits ---------------------------------------------------------------------------------------


def test_a_statistic_that_is_the_limit_to_the_last_bit_raises_no_alarm():
    monitor, traffic = monitor_on(synthetic(200, 0), 0), synthetic(1, 9)
    session, rows = watched(monitor, traffic, alpha=0.05, chunk=8, batch=1)
    value = rows.requests[0].statistic
    for limit, alerts in ((value, 0), (math.nextafter(value, 0), 1)):
        session._limits = [limit] * len(session._limits)
        session.alerts.clear()
        at = traffic.activations["here"]
        session.begin(torch.tensor([[5, 5]]), torch.ones(1, 2, dtype=torch.bool))
        for step in range(int(traffic.mask.sum())):
            if step:
                session.token(torch.tensor([5]))
            session.activation(0, at[:, step])
        session.flush()
        assert len(session.alerts) == alerts


@pytest.mark.parametrize("name", ["statistic", "known", "values"])
def test_what_equals_a_clean_score_but_for_rounding_counts_as_equal(name):
    """The largest clean score and a little more have the p-value of a tie; clearly more has not."""
    kept = monitor_on(synthetic(200, 0), 0).calibration
    largest = float(getattr(kept, name).max())
    raised = float(kept.raised(name).max())
    assert largest * (1 + 5e-6) + 5e-5 < raised < largest * (1 + 1e-3) + 1e-3


def test_scores_are_raised_by_what_half_precision_makes_of_them():
    single, half = (
        monitor_on(synthetic(200, 0), 0, dtype=dtype).calibration
        for dtype in ("float32", "bfloat16")
    )
    assert torch.equal(single.statistic, half.statistic)
    assert float(half.rounding.median()) > 100 * float(single.rounding.median())
    assert float(single.rounding.median()) < 1e-3


def test_rounding_is_kept_in_files_and_those_of_0_1_0_have_none(tmp_path):
    made = monitor_on(synthetic(200, 0), 0)
    again = ts.Monitor.load(made.save(tmp_path / "m.safetensors"))
    assert torch.equal(again.calibration.rounding, made.calibration.rounding)
    old = ts.Monitor.load(FIXTURE)
    assert old.calibration.rounding is None
    assert bool((old.calibration.raised("statistic") > old.calibration.statistic).all())
    resaved = ts.Monitor.load(old.save(tmp_path / "old.safetensors"))
    assert resaved.calibration.rounding is None


def test_the_drift_alarm_goes_off_at_its_bound_and_not_before():
    capital = [1.0]
    plain = Drift([0.0], alpha=1e-9)
    for _ in range(12):
        plain.bet(0.0)
        capital.append(plain.capital)
    for bound, first in ((capital[5], 5), (1.0001 * capital[5], 6), (2 * capital[5], None)):
        watch, went = Drift([0.0], alpha=1 / bound), []
        for _ in range(12):
            watch.bet(0.0)
            went.append(watch.alarmed)
        first = first or next(i for i, held in enumerate(capital) if held >= bound)
        assert went == [i >= first for i in range(1, 13)]
    assert first > 6


def test_equal_scores_are_ties_for_the_drift_alarm_whatever_their_last_digits():
    """Smoothed p-values of a stream that repeats the calibration are uniform."""
    seen = []
    watch = Drift([1.0] * 50, alpha=0.001)
    for i in range(400):
        seen.append(watch.p_value(1.0 + (1e-6 if i % 2 else -1e-6)))
    assert abs(sum(seen) / len(seen) - 0.5) < 0.06
    assert min(seen) < 0.05
    assert max(seen) > 0.95


# --- who is heard ---------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_BRIDGE, reason="only TransformerBridge wraps a transformers model")
def test_the_mask_is_found_wherever_a_bridge_is_called(tmp_path):
    model, asked = bridge("llama"), ["t5 t9 t30 t7", "t8 t3"]
    answers, ends = monitor_of(model), monitor_of(model, ends=1)
    alone = scores_of(answers, observe(model, asked, sites=[TARGET], horizon=HORIZON)).statistic
    with ts.watch(model, answers, alpha=ALPHA, log=tmp_path / "a"):
        model.hf_generate(asked, max_new_tokens=HORIZON + 1, do_sample=False)
    torch.testing.assert_close(
        torch.tensor(statistics(tmp_path / "a")), alone, rtol=1e-4, atol=1e-4
    )
    padded = model.tokenizer(asked, return_tensors="pt", padding=True, padding_side="left")
    ids, mask = padded["input_ids"], padded["attention_mask"]
    with ts.watch(model, ends, alpha=ALPHA, log=tmp_path / "b"):
        model.original_model(ids, mask)  # by its place
        model.original_model.model(input_ids=ids, attention_mask=mask)
        for text in asked:
            model(model.to_tokens(text))
    first, inner, each = torch.tensor(statistics(tmp_path / "b")).view(3, 2)
    torch.testing.assert_close(first, each, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(inner, each, rtol=1e-4, atol=1e-4)


def test_what_tl_steer_runs_itself_is_no_request(llama, loud, tmp_path):
    """And gives what it gives outside; `replay` even out of an alarm."""
    bank, monitor = bank_of(llama), loud(monitor_of(llama, ends=1))
    how = {"source": SOURCE, "target": TARGET, "n": 2, "radius": 3.0, "progress": False}
    how["measured"] = ts.Positions(last=1, bos=False)
    texts = ts.generate(llama, bank, PROMPTS[:1], max_new_tokens=3).texts
    learned = ts.elicit(llama, PROMPTS, **how)
    played = []

    def replay(alert):
        played.append(alert.replay(llama, prompts(1), max_new_tokens=2))

    ids = llama.to_tokens(PROMPTS[0])
    plain = answer(llama, ids)
    with ts.watch(llama, monitor, alpha=ALPHA, log=tmp_path / "a", on_alert=replay) as w:
        assert ts.generate(llama, bank, PROMPTS[:1], max_new_tokens=3).texts == texts
        assert torch.equal(answer(llama, ids), plain)
        assert torch.equal(ts.elicit(llama, PROMPTS, **how).vectors, learned.vectors)
        ts.Monitor.fit(llama, bank, prompts(40), horizon=1, effect_prompts=2)
    assert len(played) == w.requests == len(statistics(tmp_path / "a")) == 1


def test_watches_may_end_in_any_order(llama):
    monitor, ids, before = monitor_of(llama), llama.to_tokens(PROMPTS[0]), snapshot(llama)
    first, second = (ts.watch(llama, monitor, alpha=ALPHA) for _ in range(2))
    outer, inner = first.__enter__(), second.__enter__()
    answer(llama, ids)
    first.__exit__(None, None, None)
    answer(llama, ids)
    second.__exit__(None, None, None)
    assert "forward" not in vars(llama)
    assert snapshot(llama) == before
    answer(llama, ids)
    assert (outer.requests, inner.requests) == (1, 2)


def test_every_thread_has_requests_of_its_own_and_ends_them_when_it_dies(llama, tmp_path):
    monitor, asked = monitor_of(llama), [llama.to_tokens(text) for text in prompts(4, seed=31)]
    alone = [answer(llama, ids) for ids in asked]
    with ts.watch(llama, monitor, alpha=ALPHA, log=tmp_path / "one"):
        for ids in asked:
            answer(llama, ids)
    said, met = {0: [], 1: []}, threading.Barrier(2)

    def work(own):
        for ids in asked:
            met.wait()
            said[own].append(answer(llama, ids))

    with ts.watch(llama, monitor, alpha=ALPHA, log=tmp_path / "two") as w:
        pair = [threading.Thread(target=work, args=(own,)) for own in said]
        for thread in pair:
            thread.start()
        for thread in pair:
            thread.join()
        assert w.requests == 2 * len(asked) - 2
        answer(llama, asked[0])  # a third thread ends what the two have left
        assert w.requests == 2 * len(asked)
    assert w.requests == 2 * len(asked) + 1
    for own in said.values():
        assert all(map(torch.equal, own, alone))
    expected = sorted([*statistics(tmp_path / "one") * 2, statistics(tmp_path / "one")[0]])
    found = sorted(statistics(tmp_path / "two"))
    assert found == pytest.approx(expected, abs=1e-4)


def test_flushing_in_the_middle_of_an_answer_ends_the_request_and_stops_nothing(one, tmp_path):
    ids, calls = one.to_tokens(PROMPTS[0]), []
    plain = answer(one, ids, stop_at_eos=False)

    def flush(activation, hook=None):
        calls.append(1)
        if len(calls) == 3:
            w.flush()

    with ts.watch(one, monitor_of(one), alpha=ALPHA, log=tmp_path / "a") as w:
        with one.hooks(fwd_hooks=[(SOURCE, flush)]):
            assert torch.equal(answer(one, ids, stop_at_eos=False), plain)
    assert w.requests == 1
    assert [row["tokens"] for row in read_log(tmp_path / "a", "requests")] == [2]


def test_a_monitor_that_reads_elsewhere_than_it_says_is_refused(one):
    monitor = monitor_of(one)
    [site] = monitor.sites
    moved = dataclasses.replace(monitor, sites=(dataclasses.replace(site, layer=1),))
    with pytest.raises(ForeignModelError, match=r"blocks\.3\.hook_resid_post.*block 1"):
        with ts.watch(one, moved, alpha=ALPHA):
            pass
