"""Alerts are named for the vector whose replays say what was said, and else by activations."""

import dataclasses
import itertools
import math

import pytest
import torch
from conftest import PROMPTS, bank_of, make
from tiny_monitor import (
    HORIZON,
    POS,
    VEC,
    answer,
    monitor_of,
    monitor_without_a_model,
    prompts,
    responses,
    scores_of,
    synthetic,
)
from two_models import base_of

import tl_steer as ts
from tl_steer.banks import ladder
from tl_steer.errors import SettingError
from tl_steer.monitoring.alert import alert_for
from tl_steer.monitoring.evidence import Effects, spoken_effects
from tl_steer.monitoring.naming import SAYS
from tl_steer.monitoring.replays import NOTHING, Replays
from tl_steer.monitoring.soundness import refuse_unsound
from tl_steer.monitoring.traffic import observe


def grams(row):
    row = [token for token in row if token != NOTHING]
    return {(token,) for token in row} | set(itertools.pairwise(row))


def slowly(replays, said):
    """The equation, text by text."""
    clean = [grams(row) for row in replays.clean.tolist()]
    weights = {
        gram: math.log((1 + len(clean)) / (1 + sum(gram in text for text in clean)))
        for gram in grams(said)
    }
    whole = sum(weights.values())
    return [
        sum(sum(w for g, w in weights.items() if g in grams(row)) / whole for row in of) / len(of)
        for of in replays.ids.tolist()
    ]


@pytest.mark.parametrize("seed", range(4))
def test_agreement_is_the_share_of_prompts_and_of_rare_words_counted_one_by_one(seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 6, (5, 3, 4), generator=generator)
    ids[0, 1, 2:] = NOTHING
    replays = Replays(ids, torch.randint(0, 6, (7, 4), generator=generator))
    said = torch.randint(0, 8, (4,), generator=generator).tolist()
    assert replays.agreement(said).tolist() == pytest.approx(slowly(replays, said), abs=1e-5)


def test_a_vector_that_says_it_everywhere_agrees_and_one_that_says_it_once_does_so_once():
    ids = torch.tensor([[[1, 2, 3]] * 4, [[1, 2, 3]] + [[4, 5, 6]] * 3])
    replays = Replays(ids, torch.tensor([[4, 5, 6]]))
    assert replays.agreement([1, 2, 3]).tolist() == pytest.approx([1.0, 0.25])


@pytest.mark.parametrize("said", [[], [4, 5], [9]])
def test_what_clean_answers_say_or_nobody_says_agrees_with_none(said):
    replays = Replays(torch.tensor([[[4, 5]], [[4, 6]]]), torch.tensor([[4, 5]]))
    assert replays.agreement(said).tolist() == [0.0, 0.0]


# --- names


def with_replays(monitor, ids):
    """Of a world without a model: vector v said ids[v] to two clean requests, which nobody said."""
    said = torch.tensor(ids)[:, None].expand(-1, 2, -1).contiguous()
    return dataclasses.replace(monitor, replays=Replays(said, torch.full((5, 2), 10)))


def alert_of(monitor, ids, *, vector=0):
    odd = synthetic(1, 77, response=responses()[vector])
    return alert_for(monitor, scores_of(monitor, odd), 0, request="r", alpha=0.05, ids=ids)


def test_the_vector_that_says_what_was_said_is_named_whatever_the_activations():
    monitor = with_replays(monitor_without_a_model(), [[1, 2], [3, 4], [5, 6]])
    alert = alert_of(monitor, [0, 5, 6], vector=1)
    assert (alert.vector, alert.rank, alert.said) == (2, 1, 1.0)
    others = [each.vector for each in alert.alternatives]
    assert others[0] == 1
    assert 2 not in others


@pytest.mark.parametrize("vector", range(VEC))
def test_vectors_that_say_as_much_are_told_apart_by_activations(vector):
    monitor = with_replays(monitor_without_a_model(), [[1, 2]] * VEC)
    assert alert_of(monitor, [0, 1, 2], vector=vector).vector == vector


def test_activations_name_where_no_vector_says_it():
    monitor = with_replays(monitor_without_a_model(), [[1, 2], [3, 4], [5, 6]])
    for vector in range(VEC):
        alert = alert_of(monitor, [0, 7, 8], vector=vector)
        assert (alert.vector, alert.said) == (vector, 0.0)


def test_a_few_words_in_common_are_no_name():
    monitor = with_replays(monitor_without_a_model(), [[1, 2], [3, 4], [5, 6]])
    few = [0, 5, 7, 8, 9]  # one of seven tokens and pairs
    assert SAYS > 1 / 7
    assert alert_of(monitor, few, vector=1).vector == 1


def test_words_behind_the_horizon_name_nobody():
    monitor = with_replays(monitor_without_a_model(), [[1, 2], [3, 4], [5, 6]])
    late = [0, *[7] * (POS - 1), 5, 6]
    assert alert_of(monitor, late, vector=1).vector == 1


def test_without_a_namer_scores_name_alone():
    assert monitor_without_a_model(namer=None).replays is None


# --- what is heard, kept and believed


def test_what_vectors_say_is_what_generate_says(llama):
    bank, tokens = bank_of(llama), ts.tokenize(llama, PROMPTS)
    site = bank.target.name
    clean = observe(llama, tokens, sites=[site], horizon=HORIZON)
    said = spoken_effects(llama, bank, clean)[site].said
    for v, edit in enumerate(bank):
        for p, row in enumerate(tokens.rows()):
            with ts.perturbing(llama, edit):
                out = answer(llama, row[None])[0, len(row) :]
            assert said[v, p].tolist() == out[:HORIZON].tolist()


def test_what_some_vectors_said_is_theirs():
    rows = torch.arange(6.0).view(3, 2)
    twice, said = rows[:, None].expand(3, 2, 2), torch.arange(12).view(3, 2, 2)
    effects = Effects((rows, rows), (twice, twice), said)
    assert torch.equal(effects[[2, 0]].said, said[[2, 0]])


def test_replays_come_back_from_a_file_and_older_files_have_none(tmp_path):
    monitor = with_replays(monitor_without_a_model(), [[1, 2], [3, 4], [5, 6]])
    again = ts.Monitor.load(monitor.save(tmp_path / "new.safetensors"))
    assert torch.equal(again.replays.ids, monitor.replays.ids)
    assert torch.equal(again.replays.clean, monitor.replays.clean)
    without = dataclasses.replace(monitor, replays=None)
    assert ts.Monitor.load(without.save(tmp_path / "old.safetensors")).replays is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"ids": torch.zeros(VEC + 1, 2, 2, dtype=torch.long)},
        {"ids": torch.zeros(VEC, 0, 2, dtype=torch.long)},
        {"ids": torch.zeros(VEC, 2, 2)},
        {"ids": torch.full((VEC, 2, 2), 11)},
        {"ids": torch.full((VEC, 2, 2), NOTHING - 1)},
        {"clean": torch.zeros(5, dtype=torch.long)},
        {"clean": torch.full((5, 2), 11)},
    ],
)
def test_answers_that_cannot_be_any_are_refused(wrong):
    monitor = with_replays(monitor_without_a_model(), [[1, 2], [3, 4], [5, 6]])
    for name, values in wrong.items():  # past the checks that tests have and files do not
        object.__setattr__(monitor.replays, name, values)
    with pytest.raises(SettingError, match=r"its vectors' answers"):
        refuse_unsound(monitor)


# --- a ladder of contrast vectors, from end to end


def test_a_monitor_of_a_ladder_of_contrast_vectors_names_what_its_replay_says():
    model = make("bridge-llama")
    found = ts.elicit(
        model, PROMPTS, against=base_of("bridge-llama"), n=3, radius=6.0, progress=False
    )
    bank = ladder(found, lengths=(1, 2))
    monitor = ts.Monitor.fit(model, bank, prompts(150), horizon=HORIZON, effect_prompts=8)
    ids = ts.tokenize(model, prompts(1, seed=9)).ids
    with ts.watch(model, monitor, alpha=0.05) as w, ts.perturbing(model, bank[4]):
        said = answer(model, ids)[0, ids.shape[1] :].tolist()
    (alert,) = w.alerts
    heard = monitor.replays.agreement(said[:HORIZON])
    assert alert.said == pytest.approx(float(heard[alert.vector]))
    assert alert.said >= 0.9 * float(heard.max())
    assert alert.said >= SAYS
    assert alert.replay(model, PROMPTS[:1], max_new_tokens=2).texts


def test_a_monitor_names_by_replays_unless_told_otherwise():
    assert monitor_of(make("bridge-llama")).replays.ids.shape[0] == 4
