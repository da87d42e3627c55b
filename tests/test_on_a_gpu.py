"""What verbs find on a card is what they find on the CPU. Skipped where there is no card.

TL_STEER_DEVICE=cpu runs the comparisons all the same, with the CPU in the card's place.
"""

import copy
import os

import conftest
import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET, adapter_bank, bank_of, make
from tiny_monitor import ALPHA, monitor_of, prompts
from two_models import base_of

import tl_steer as ts
from tl_steer.methods import Dct, Melbo, Power, Replayed
from tl_steer.objectives import Contrast, Substitution
from tl_steer.perturbations import Ablation, Clamp, Gated, MultiSite, NormPreserving

DEVICE = os.environ.get("TL_STEER_DEVICE", "cuda")
pytestmark = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no card here"
)
# A card adds up in another order; over many steps of a search that grows.
CLOSE = {"rtol": 1e-3, "atol": 1e-4}
KINDS = ["bridge-llama", "bridge-gpt2", "bridge-gemma2", "bridge-neox"]
LAST = ts.Positions(last=1, bos=False)
_there = {}


def here(name):
    return make(name).to("cpu")


def there(name):
    if name not in _there:
        _there[name] = conftest.KINDS[name]().to(DEVICE)
    return _there[name]


@pytest.fixture(params=KINDS)
def pair(request):
    return here(request.param), there(request.param)


def asked(**more):
    return {"source": SOURCE, "target": TARGET, "radius": 3.0, "measured": LAST} | more


@pytest.mark.parametrize("method", [Power(steps=3), Dct(), Melbo(steps=5)], ids=str)
def test_a_search_finds_the_same_vectors(pair, method):
    banks = [ts.elicit(m, PROMPTS, **asked(n=3, method=method), progress=False) for m in pair]
    torch.testing.assert_close(banks[1].vectors, banks[0].vectors, **CLOSE)
    torch.testing.assert_close(banks[1].responses, banks[0].responses, **CLOSE)


@pytest.mark.skipif(DEVICE != "cuda", reason="CUDA graphs are of CUDA devices")
@pytest.mark.parametrize("method", [Power(steps=3, tolerance=0), Melbo(steps=5)], ids=str)
def test_a_recorded_pass_finds_what_a_launched_one_finds(method):
    model = there("bridge-llama")
    banks = [
        ts.elicit(model, PROMPTS, **asked(n=3, method=m), progress=False)
        for m in (method, Replayed(method))
    ]
    torch.testing.assert_close(banks[1].vectors, banks[0].vectors, **CLOSE)


def test_generation_inspection_and_doses_say_the_same(pair):
    bank, found = bank_of(pair[0]), []
    for model in pair:
        found.append(ts.generate(model, bank, PROMPTS, max_new_tokens=5).texts)
        ts.generate(model, bank, PROMPTS, max_new_tokens=5, temperature=1.0, seed=3)
        ts.dose_response(model, bank, PROMPTS, shares=(0.5, 1), max_new_tokens=3)
        ts.inspect(model, bank, PROMPTS[0])
        ts.inspection.continuations(model, bank, PROMPTS[0], max_new_tokens=3)
        ts.rank(model, bank, PROMPTS, by="switch")
        ts.rank(model, bank, PROMPTS, by="flatness")
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", [Ablation, Clamp, Gated, NormPreserving])
def test_every_kind_acts_alike(pair, kind):
    site = ts.models.resolve(pair[0], SOURCE)
    edits = kind.random(site, 2, radius=2.0, generator=torch.Generator().manual_seed(1))
    banks = [ts.Bank.from_vectors(m, edits, prompts=PROMPTS[:1], target=TARGET) for m in pair]
    torch.testing.assert_close(banks[1].responses, banks[0].responses, **CLOSE)


def test_several_points_and_adapters_act_alike(pair):
    site = ts.models.resolve(pair[0], SOURCE)
    one = ts.Additive.random(site, 2, radius=2.0, generator=torch.Generator().manual_seed(1))
    over = MultiSite.over(one, [site, ts.models.resolve(pair[0], 2)])
    banks = [ts.Bank.from_vectors(m, over, prompts=PROMPTS[:1], target=TARGET) for m in pair]
    torch.testing.assert_close(banks[1].responses, banks[0].responses, **CLOSE)
    adapters = [adapter_bank(m) for m in pair]
    torch.testing.assert_close(adapters[1].responses, adapters[0].responses, **CLOSE)


@pytest.mark.parametrize("goal", [Contrast, Substitution])
def test_two_models_are_searched_on_a_card(goal):
    name = "bridge-llama"
    pairs = [
        (here(name), base_of(name).to("cpu")),
        (there(name), copy.deepcopy(base_of(name)).to(DEVICE)),
    ]
    banks = [
        ts.elicit(m, PROMPTS[:1], divergence=goal(b), radius=3.0, n=3, progress=False)
        for m, b in pairs
    ]
    assert banks[0].vectors.shape == banks[1].vectors.shape
    assert bool(banks[1].objective.isfinite().all())


def test_scans_contrasts_and_halving_run_on_a_card(pair):
    model = pair[1]
    ts.scan(model, PROMPTS, [(1, 3)], top=2, measured=LAST)
    assert len(ts.contrast(model, PROMPTS[:1], PROMPTS[2:], source=SOURCE)) > 0


def test_a_monitor_scores_and_watches_alike():
    name = KINDS[0]
    monitors = [monitor_of(m) for m in (here(name), there(name))]
    torch.testing.assert_close(
        monitors[1].calibration.statistic, monitors[0].calibration.statistic, **CLOSE
    )
    with ts.watch(there(name), monitors[0], alpha=ALPHA) as session:
        there(name).generate(prompts(1)[0], max_new_tokens=4, verbose=False, do_sample=False)
    assert len(session.alerts) >= 0
