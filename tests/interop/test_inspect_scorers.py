"""Monitors as Inspect's scorers, banks' texts as its data, and its scorers in sweeps."""

import asyncio
import dataclasses
import importlib
from typing import Any

import pytest
from inspect_world import ASKED, bank, bank_file, loaded, run, task
from tiny_monitor import ALPHA, HORIZON, QUIET, monitor_of

import tl_steer as ts
from tl_steer.errors import ForeignModelError, SettingError
from tl_steer.interop import inspect_dataset, inspect_monitor, inspect_said
from tl_steer.sweeps import inspect_scorer

inspect_ai = pytest.importorskip("inspect_ai", reason="Inspect is an extra")
from inspect_ai import Task, eval as evaluate  # noqa: E402
from inspect_ai.log import read_eval_log  # noqa: E402
from inspect_ai.scorer import Score, includes, match, pattern, scorer  # noqa: E402
from inspect_ai.solver import generate  # noqa: E402

# --- a monitor --------------------------------------------------------------------------------


def watched(monitor: Any, prompt: str, vector: int | None, n: int, alpha: float) -> Any:
    """What a watched model's own generation raises, without Inspect."""
    model = loaded()
    ids = ts.tokenize(model, [prompt]).ids
    with ts.watch(model, monitor, alpha=alpha) as session:
        if vector is None:
            model.generate(ids, max_new_tokens=n, **QUIET)
        else:
            with ts.perturbing(model, bank()[vector]):
                model.generate(ids, max_new_tokens=n, **QUIET)
    return session.alerts


def scored(
    monitor: Any, args: dict[str, Any], where: Any, asked: list[str] = ASKED, **how: Any
) -> Any:
    alpha = how.pop("alpha", ALPHA)
    what = task(asked, solver=generate(), scorer=inspect_monitor(monitor, alpha=alpha))
    return run(what, {"bank": bank_file(), "raw": True, **args}, where, **how)


@pytest.mark.parametrize(("vector", "tokens"), [(0, HORIZON + 3), (2, 3), (None, HORIZON + 3)])
def test_a_monitor_scores_answers_as_watching_the_model_does(vector, tokens, tmp_path, loud):
    """Everything is flagged, so that all alerts can be compared; then with the real thresholds."""
    monitor = monitor_of(loaded())
    args = {"vector": "none" if vector is None else vector}
    for panel in (loud(monitor), monitor):
        log = scored(panel, args, tmp_path, max_tokens=tokens)
        assert log.status == "success"
        for prompt, sample in zip(ASKED, log.samples, strict=True):
            (score,) = sample.scores.values()
            alerts = watched(panel, prompt, vector, tokens, ALPHA)
            assert score.value == len(alerts)
            for alert in alerts:
                kept = score.metadata
                assert kept["vector"] == alert.vector
                assert kept["kind"] == alert.kind
                assert kept["p_value"] == pytest.approx(alert.p_value)
                assert kept["statistic"] == pytest.approx(alert.statistic, rel=1e-3)
                places = [token["position"] for token in kept["tokens"]]
                assert places == [token.position for token in alert.tokens]
                assert f"vector {alert.vector}" in score.answer
                assert f"p = {alert.p_value:.3g}" in score.explanation


def test_a_monitor_flags_what_its_vectors_do_and_not_what_the_model_does(tmp_path):
    monitor = monitor_of(loaded())
    asked = [f"t{i} t{i + 20} t{i + 40}" for i in range(5, 25)]
    shares = {}
    for vector in ("none", 0):
        log = scored(monitor, {"vector": vector}, tmp_path, asked)
        (result,) = log.results.scores
        assert result.name == "monitor"
        assert result.params["alpha"] == ALPHA
        shares[vector] = result.metrics["mean"].value
    assert shares["none"] <= 0.2
    assert shares[0] >= 0.8


def test_a_monitor_comes_from_its_file_too(tmp_path):
    path = monitor_of(loaded()).save(tmp_path / "house.monitor")
    log = scored(str(path), {"vector": 0}, tmp_path, ASKED[:2])
    assert log.status == "success"
    assert log.results.scores[0].params["monitor"] == str(path)


def test_answers_without_a_token_that_was_read_are_not_scored(tmp_path):
    log = scored(monitor_of(loaded()), {"vector": 0}, tmp_path, ASKED[:1], max_tokens=1)
    (score,) = log.samples[0].scores.values()
    assert score.value != score.value  # NaN: Inspect leaves it out of every mean
    assert "read back" in score.explanation


def test_a_monitor_refuses_another_model_other_tokens_and_a_level_it_cannot_keep(tmp_path):
    monitor = monitor_of(loaded())
    with pytest.raises(SettingError, match="alpha"):
        inspect_monitor(monitor, alpha=1e-6)
    other = dataclasses.replace(
        monitor,
        identity=dataclasses.replace(monitor.identity, checked=monitor.identity.checked + 1),
    )
    log = scored(other, {"vector": 0}, tmp_path, ASKED[:1])
    assert log.status == "error"
    assert ForeignModelError.__name__ in log.error.message
    texts = inspect_dataset(ts.generate(loaded(), bank()[:1], ["t5"], max_new_tokens=2))
    what = Task(texts, solver=inspect_said(), scorer=inspect_monitor(monitor, alpha=ALPHA))
    (log,) = evaluate(what, model="none", log_dir=str(tmp_path), display="none")
    assert "--model tl_steer/" in log.error.message


def test_an_answer_that_overflows_is_flagged_as_what_could_not_be_scored(tmp_path):
    args = {"vector": 0, "scale": 1e30}
    log = scored(monitor_of(loaded()), args, tmp_path, ASKED[:1])
    (score,) = log.samples[0].scores.values()
    assert score.value == 1
    assert score.answer == "could not be scored"


# --- texts ------------------------------------------------------------------------------------


def test_a_banks_texts_are_samples_that_scorers_judge_and_no_model_speaks(tmp_path):
    texts = ts.generate(loaded(), bank()[[3, 1]], ["t5 t9", "t8 t3"], max_new_tokens=6)
    what = Task(inspect_dataset(texts, target="t61"), solver=inspect_said(), scorer=includes())
    (log,) = evaluate(what, model="none", log_dir=str(tmp_path), display="none")
    samples = read_eval_log(log.location).samples
    assert len(samples) == 6
    for sample in samples:
        number, p = sample.metadata["vector"], texts.prompts.index(sample.input)
        row = texts.unsteered if number is None else texts[texts.numbers.index(number)]
        assert sample.output.completion == sample.metadata["text"] == row[p]
        assert sample.metadata["unsteered"] == texts.unsteered[p]
        assert sample.scores["includes"].value == ("C" if "t61" in row[p] else "I")
    assert {sample.metadata["vector"] for sample in samples} == {None, 3, 1}
    assert len({sample.id for sample in samples}) == 6


# --- a sweep ----------------------------------------------------------------------------------


def test_a_sweep_scores_texts_as_inspect_does():
    model = loaded()
    found = ts.sweep(
        model,
        bank()[:2],
        ["t5 t9", "t8 t3", "t1"],
        generate=6,
        metrics=[inspect_scorer(includes(), target="t61"), ts.sweeps.regex("t61", name="truth")],
        progress=False,
    )
    cells = found.cells().to_pydict()
    assert cells["includes"] == cells["truth"]
    assert 0 < sum(cells["truth"]) < len(cells["truth"])


@scorer(metrics=[])
def odd(value: Any) -> Any:
    async def score(state: Any, target: Any) -> Any:
        assert state.input_text == "t1"
        assert state.messages[-1].text == state.output.completion == "t2"
        return None if value is None else Score(value=value)

    return score


@pytest.mark.parametrize(
    ("value", "number"),
    [("C", 1), ("P", 0.5), ("I", 0), ("N", 0), (True, 1), (0.25, 0.25), ("7", 7)],
)
def test_grades_count_as_in_inspect(value, number):
    assert inspect_scorer(odd(value))("t1", "t2") == number


@pytest.mark.parametrize("value", ["perhaps", None, [1, 2], {"a": 1}, float("nan")])
def test_what_is_no_number_is_an_error_and_no_zero(value):
    with pytest.raises((ValueError, TypeError)):
        inspect_scorer(odd(value))("t1", "t2")


def test_a_scorer_is_named_with_its_settings_in_a_sweeps_record():
    made = inspect_scorer(pattern(r"t(\d)"), target="5", name="digit")
    assert made.name == "digit"
    assert made("q", "t5") == 1
    assert "'pattern'" in repr(made.function)
    assert inspect_scorer(match()).name == "match"


def test_a_scorer_works_where_a_loop_is_running_as_in_notebooks():
    async def cell() -> float:
        return inspect_scorer(includes(), target="t5")("q", "t5")

    assert asyncio.run(cell()) == 1


def test_what_is_no_scorer_is_refused():
    for wrong in (includes, "includes", print):
        with pytest.raises(SettingError, match=r"includes\(\)"):
            inspect_scorer(wrong)


def test_without_inspect_everything_says_how_to_get_it(monkeypatch):
    texts = ts.generate(loaded(), bank()[:1], ["t5"], max_new_tokens=1)
    monitor = monitor_of(loaded())
    plain = importlib.import_module

    def without(name: str, *args: Any) -> Any:
        if name.partition(".")[0] == "inspect_ai":
            raise ModuleNotFoundError(name, name=name)
        return plain(name, *args)

    monkeypatch.setattr(importlib, "import_module", without)
    for call in (
        lambda: inspect_dataset(texts),
        inspect_said,
        lambda: inspect_monitor(monitor),
        lambda: inspect_scorer(print),
    ):
        with pytest.raises(SettingError, match=r'pip install "tl_steer\[inspect\]"'):
            call()
