"""A monitor on a model at work: same scores as offline, alerts, the audit log, nothing left
behind."""

import dataclasses

import pytest
import torch
from conftest import HAS_BRIDGE, SOURCE, TARGET, bank_of, bridge
from state import snapshot
from tiny_monitor import ALPHA, HORIZON, answer, monitor_of, prompts, scores_of

import tl_steer as ts
from tl_steer.errors import ForeignModelError, PromptError, SettingError
from tl_steer.monitoring.audit import read_log
from tl_steer.monitoring.detectors.detector import MatchedFilter
from tl_steer.monitoring.traffic import observe


def hooks_on(model):
    """Every PyTorch hook on every module, and whether `forward` is the class's own."""
    found = {
        name: (len(m._forward_hooks), len(m._forward_pre_hooks))
        for name, m in model.named_modules()
    }
    return found, "forward" in vars(model)


def statistics(path):
    return [row["statistic"] for row in read_log(path, "requests")]


@pytest.mark.parametrize("chunk", [1, 2, 50])
def test_watched_requests_get_the_scores_that_they_get_offline(llama, tmp_path, chunk):
    monitor, asked = monitor_of(llama), prompts(5, seed=21)
    offline = scores_of(monitor, observe(llama, asked, sites=[TARGET], horizon=HORIZON))
    with ts.watch(llama, monitor, alpha=ALPHA, log=tmp_path / "a.sqlite", chunk=chunk) as w:
        for prompt in asked:
            answer(llama, llama.to_tokens(prompt))
    assert w.requests == 5
    online = torch.tensor(statistics(tmp_path / "a.sqlite"))
    torch.testing.assert_close(online, offline.statistic, rtol=1e-3, atol=1e-3)
    ps = [row["p_value"] for row in read_log(tmp_path / "a.sqlite", "requests")]
    torch.testing.assert_close(torch.tensor(ps).double(), offline.p_values)


@pytest.mark.parametrize("cached", [True, False])
def test_rows_of_a_batch_with_and_without_cache_score_as_alone(llama, tmp_path, cached):
    monitor = monitor_of(llama, (SOURCE, TARGET))
    asked = [p for p in prompts(60, seed=22) if len(p.split()) == 5][:4]
    assert len(asked) == 4
    ids = torch.cat([llama.to_tokens(prompt) for prompt in asked])
    with ts.watch(llama, monitor, alpha=ALPHA, log=tmp_path / "a.sqlite") as w:
        answer(llama, ids, use_past_kv_cache=cached)
    assert w.requests == 4
    alone = scores_of(monitor, observe(llama, asked, sites=[SOURCE, TARGET], horizon=HORIZON))
    online = torch.tensor(statistics(tmp_path / "a.sqlite"))
    torch.testing.assert_close(online, alone.statistic, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches_score_as_each_prompt_alone(llama, tmp_path, side):
    """Right padding in a plain forward pass, left padding as generation has it."""
    monitor, asked = monitor_of(llama, ends=1), prompts(6, seed=23)
    tokens = ts.tokenize(llama, asked)
    if side == "right":
        ids, mask = tokens.ids, tokens.mask
    else:
        n = tokens.ids.shape[1]
        shift = [
            torch.roll(row, n - int(k)) for row, k in zip(tokens.ids, tokens.lengths, strict=True)
        ]
        ids = torch.stack(shift)
        mask = torch.arange(n) >= n - tokens.lengths[:, None]
    with ts.watch(llama, monitor, alpha=ALPHA, log=tmp_path / "a.sqlite"):
        llama(ids, attention_mask=mask.long())
    alone = observe(llama, asked, sites=[TARGET], horizon=0)
    expected = monitor.score(alone.activations).statistic
    online = torch.tensor(statistics(tmp_path / "a.sqlite"))
    torch.testing.assert_close(online, expected, rtol=1e-3, atol=1e-3)


def test_requests_without_an_answer_are_counted_apart_where_answers_count(one, tmp_path, recwarn):
    path, ids = tmp_path / "a.sqlite", one.to_tokens("t5 t9 t30")
    with ts.watch(one, monitor_of(one), alpha=ALPHA, log=path) as w:
        one(ids)
        with pytest.warns(UserWarning, match="ends=1"):
            answer(one, ids)
        one(ids)
        w.flush()
    assert not any("ends=1" in str(said.message) for said in recwarn)  # said once, above
    assert (w.requests, w.unscored) == (1, 2)
    assert len(statistics(path)) == 1
    with ts.watch(one, monitor_of(one, ends=1), alpha=ALPHA, log=path) as w:
        one(ids)
    assert (w.requests, w.unscored) == (1, 0)
    assert statistics(path)[-1] > 0


def test_steered_answers_raise_alerts_that_replay_the_vector(llama, tmp_path):
    bank = ts.mark(bank_of(llama), 2, "dangerous", note="planted")
    monitor = ts.Monitor.fit(
        llama,
        bank,
        prompts(150),
        horizon=HORIZON,
        effect_prompts=8,
        score=MatchedFilter(),
    )
    heard, path = [], tmp_path / "a.sqlite"
    with ts.watch(llama, monitor, alpha=ALPHA, log=path, on_alert=heard.append) as w:
        with ts.perturbing(llama, bank[2]):
            for prompt in prompts(10, seed=24):
                answer(llama, llama.to_tokens(prompt))
    assert len(w.alerts) == len(heard) >= 8
    alerts = [alert for alert in w.alerts if alert.vector == 2]
    assert len(alerts) >= 8
    alert = alerts[0]
    assert (alert.kind, alert.verdict, alert.rank) == ("known perturbation", "dangerous", 1)
    assert alert.p_value <= ALPHA
    assert alert.named >= 1
    assert alert.tokens
    assert {other.vector for other in alert.alternatives} == {0, 1, 3}
    assert 0 <= alert.explained <= 1
    played = alert.replay(llama, max_new_tokens=3)
    assert (
        played.texts == ts.generate(llama, bank[2], list(monitor.examples), max_new_tokens=3).texts
    )
    other = alert.replay(llama, prompts(2), vector=1, max_new_tokens=3)
    assert len(other.prompts) == 2
    rows = list(read_log(path, label="planted"))
    assert {row["request"] for row in rows} == {alert.request for alert in alerts}


def test_alerts_come_when_so_many_tokens_wait_or_the_horizon_or_the_request_ends(llama, loud):
    """And are the same ones, but for what they are called."""
    monitor, ids = loud(monitor_of(llama, ends=1)), llama.to_tokens(prompts(1)[0])
    ids = ids.repeat(2, 1)
    found = {}
    for chunk, tokens in ((1, 1), (2, 2), (50, HORIZON + 1)):
        heard = []
        with ts.watch(llama, monitor, alpha=ALPHA, on_alert=heard.append, chunk=chunk) as w:
            answer(llama, ids, stop_at_eos=False)
            assert [len(alert.trace) for alert in heard] == [tokens] * 2
            llama(ids)
            assert len(heard) == (4 if chunk == 1 else 2)
        assert w.requests == len(heard) == 4
        found[chunk] = [dataclasses.replace(alert, request="") for alert in w.alerts]
    assert found[1] == found[2] == found[50]


def test_an_alarm_that_stops_the_program_at_the_end_of_a_request_is_logged(llama, loud, tmp_path):
    def stop(alert):
        raise KeyboardInterrupt

    path, monitor = tmp_path / "a.sqlite", loud(monitor_of(llama, ends=1))
    with pytest.raises(KeyboardInterrupt):
        with ts.watch(llama, monitor, alpha=ALPHA, log=path, on_alert=stop, chunk=50):
            llama(llama.to_tokens(prompts(1)[0]).repeat(2, 1))
    assert len(list(read_log(path))) == 1
    assert [row["alerted"] for row in read_log(path, "requests")] == [True, False]


def test_hooks_and_forward_are_restored_after_good_and_bad_ends(llama, loud):
    monitor = loud(monitor_of(llama, ends=1))
    before, state = hooks_on(llama), snapshot(llama)
    ids = llama.to_tokens(prompts(1)[0])
    with ts.watch(llama, monitor, alpha=ALPHA):
        assert hooks_on(llama) != before
        answer(llama, ids)
    assert hooks_on(llama) == before

    def stop(alert):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with ts.watch(llama, monitor, alpha=ALPHA, on_alert=stop) as w:
            answer(llama, ids)
    assert len(w.alerts) == 1
    assert hooks_on(llama) == before
    assert snapshot(llama) == state


def test_reset_hooks_inside_the_block_does_not_blind_the_monitor(llama):
    monitor = monitor_of(llama)
    with ts.watch(llama, monitor, alpha=ALPHA) as w:
        llama.reset_hooks()
        answer(llama, llama.to_tokens(prompts(1)[0]))
    assert w.requests == 1


def test_watching_changes_no_answer(llama):
    ids = llama.to_tokens(prompts(1, seed=3)[0])
    plain = answer(llama, ids)
    with ts.watch(llama, monitor_of(llama), alpha=ALPHA):
        assert torch.equal(answer(llama, ids), plain)


def test_tokens_behind_the_horizon_are_counted_and_not_scored(one, tmp_path):
    monitor, path = monitor_of(one), tmp_path / "a.sqlite"
    for seed in range(40):  # one whose answer is long
        ids = one.to_tokens(prompts(1, seed=seed)[0])
        if not bool((answer(one, ids, 11)[0, ids.shape[1] :] == 1).any()):
            break
    with ts.watch(one, monitor, alpha=ALPHA, log=path):
        answer(one, ids, HORIZON + 1)
        answer(one, ids, 11)
    short, long = read_log(path, "requests")
    assert short["statistic"] == pytest.approx(long["statistic"])
    assert (short["tokens"], short["unscored"]) == (1 + HORIZON, 0)
    assert (long["tokens"], long["unscored"]) == (1 + HORIZON, 10 - HORIZON)


def test_another_model_dtype_or_edited_model_is_refused(llama):
    monitor = monitor_of(llama)
    weights = next(iter(llama.parameters()))
    kept = weights.data.clone()
    try:
        weights.data += 0.3 * torch.randn(kept.shape, generator=torch.Generator().manual_seed(0))
        with pytest.raises(ForeignModelError, match="other activations"):
            with ts.watch(llama, monitor, alpha=ALPHA):
                pass
    finally:
        weights.data.copy_(kept)
    if HAS_BRIDGE:
        with pytest.raises(ForeignModelError, match="bfloat16"):
            with ts.watch(bridge("llama", dtype=torch.bfloat16), monitor, alpha=ALPHA):
                pass


def test_another_template_is_refused_and_leaves_nothing_behind(one):
    asked = [ts.chat(prompt) for prompt in prompts(60)]
    monitor = ts.Monitor.fit(one, bank_of(one), asked, horizon=2, effect_prompts=4)
    assert monitor.identity.suffix
    before = hooks_on(one)
    with ts.watch(one, monitor, alpha=0.1) as w:
        answer(one, ts.tokenize(one, asked[:1]).ids)
    assert w.requests == 1
    with pytest.raises(PromptError, match="template"):
        with ts.watch(one, monitor, alpha=0.1):
            answer(one, one.to_tokens(prompts(1)[0]))
    assert hooks_on(one) == before


def test_alpha_that_cannot_be_resolved_is_refused_before_a_log_is_made(one, tmp_path):
    with pytest.raises(SettingError, match="Use at least 999"):
        with ts.watch(one, monitor_of(one), alpha=0.001, log=tmp_path / "a.sqlite"):
            pass
    assert not (tmp_path / "a.sqlite").exists()


def test_tokens_cannot_be_scored_none_at_a_time(one, tmp_path):
    with pytest.raises(SettingError, match="chunk=0"):
        with ts.watch(one, monitor_of(one), alpha=ALPHA, log=tmp_path / "a.sqlite", chunk=0):
            pass
    assert not (tmp_path / "a.sqlite").exists()


@pytest.mark.skipif(not HAS_BRIDGE, reason="only TransformerBridge wraps a transformers model")
def test_a_plain_transformers_model_gets_the_same_scores(tmp_path):
    model = bridge("llama")
    monitor, asked = monitor_of(model), prompts(4, seed=25)
    with ts.watch(model, monitor, alpha=ALPHA, log=tmp_path / "a.sqlite"):
        for prompt in asked:
            answer(model, model.to_tokens(prompt))
    import conftest

    plain = conftest._hugging_face("llama").eval()
    before = {name: len(m._forward_hooks) for name, m in plain.named_modules()}
    with monitor.attach(plain, alpha=ALPHA, log=tmp_path / "b.sqlite") as w:
        for prompt in asked:
            ids = model.to_tokens(prompt)
            plain.generate(
                ids, max_new_tokens=HORIZON + 1, do_sample=False, attention_mask=ids * 0 + 1
            )
    assert w.requests == 4
    here, there = (torch.tensor(statistics(tmp_path / f"{n}.sqlite")) for n in "ab")
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3)
    assert {name: len(m._forward_hooks) for name, m in plain.named_modules()} == before
    assert "forward" not in vars(plain)


@pytest.mark.skipif(not HAS_BRIDGE, reason="only TransformerBridge wraps a transformers model")
def test_left_padded_generation_of_transformers_scores_as_each_alone(tmp_path):
    import conftest

    model = bridge("llama")
    plain, monitor, asked = (
        conftest._hugging_face("llama").eval(),
        monitor_of(model),
        prompts(5, 26),
    )
    tokens = ts.tokenize(model, asked)
    n = tokens.ids.shape[1]
    rows = zip(tokens.ids, tokens.lengths, strict=True)
    ids = torch.stack([torch.roll(row, n - int(k)) for row, k in rows])
    mask = (torch.arange(n) >= n - tokens.lengths[:, None]).long()
    with monitor.attach(plain, alpha=ALPHA, log=tmp_path / "a.sqlite"):
        plain.generate(ids, attention_mask=mask, max_new_tokens=HORIZON + 1, do_sample=False)
    alone = scores_of(monitor, observe(model, asked, sites=[TARGET], horizon=HORIZON))
    online = torch.tensor(statistics(tmp_path / "a.sqlite"))
    torch.testing.assert_close(online, alone.statistic, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:Request")
def test_traffic_that_has_moved_raises_the_drift_alarm_once(one, tmp_path):
    monitor, path = monitor_of(one, ends=1), tmp_path / "a.sqlite"
    asked = prompts(60, seed=27)
    with ts.watch(one, monitor, alpha=ALPHA, log=path, drift=0.01) as w:
        with ts.perturbing(one, bank_of(one)[0]):
            for prompt in asked:
                one(one.to_tokens(prompt))
        assert w.drift.alarmed
    assert [row["kind"] for row in read_log(path, kind="drift")] == ["drift"]
