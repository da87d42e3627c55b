"""elicit against a base: what is found differs between the two, and all else is as ever."""

import pytest
import torch
from conftest import LLAMAS, PROMPTS, SOURCE, make
from state import snapshot
from two_models import base_of, slowly

import tl_steer as ts
from tl_steer.errors import ForeignModelError, HookPointError, ModelError, SettingError
from tl_steer.objectives import Contrast

LAST = "blocks.3.hook_resid_post"
FAST = {"n": 3, "radius": 3.0, "progress": False}


@pytest.fixture(params=LLAMAS)
def two(request):
    return make(request.param), base_of(request.param)


def test_it_needs_no_layers_and_climbs(two):
    model, base = two
    start = ts.elicit(model, PROMPTS, against=base, **FAST, method=ts.methods.Ascent(steps=1))
    bank = ts.elicit(model, PROMPTS, against=base, **FAST)
    assert (bank.source.name, bank.target.name) == ("blocks.2.hook_resid_post", LAST)
    assert bank.provenance.method == "ascent"
    assert float(bank.objective.sum()) > float(start.objective.sum())
    torch.testing.assert_close(bank.vectors.norm(dim=1), torch.full((3,), 3.0))
    leads = bank.scores["lead"].tolist()
    assert leads == sorted(leads, reverse=True)


def test_what_the_bank_says_of_a_vector_is_the_equation(two):
    model, base = two
    bank = ts.elicit(model, PROMPTS, against=base, source=SOURCE, **FAST)
    value, lead = slowly(model, base, bank[0].perturbation(), along=4, share=0.5, bound=5.0)
    assert float(bank.objective[0]) == pytest.approx(value, abs=1e-3)
    assert float(bank.scores["lead"][0]) == pytest.approx(lead, abs=1e-2)


def test_both_fingerprints_are_in_the_provenance_and_the_file(two, tmp_path):
    model, base = two
    bank = ts.load_bank(ts.elicit(model, PROMPTS, against=base, **FAST).save(tmp_path / "bank"))
    marks = [ts.models.fingerprint(m).signature[0] for m in (model, base)]
    assert bank.provenance.fingerprint.signature[0] == pytest.approx(marks[0])
    assert f"fingerprint {marks[1]:.4f}" in bank.provenance.divergence
    with pytest.raises(ForeignModelError):
        ts.generate(base, bank, PROMPTS)


@pytest.mark.parametrize("method", ["power", ts.methods.Melbo(steps=2), "ascent"], ids=str)
def test_methods_that_go_by_gradients_climb_it(one, method):
    bank = ts.elicit(one, PROMPTS, against=base_of(LLAMAS[0]), method=method, **FAST)
    assert len(bank) == 3


@pytest.mark.parametrize("method", ["dct", "sogi", "jacobian", "quadratic"])
def test_methods_of_responses_say_that_there_are_none(one, method):
    with pytest.raises(SettingError, match="Ascent, Power or Melbo"):
        ts.elicit(one, PROMPTS, against=base_of(LLAMAS[0]), method=method, **FAST)


def test_a_run_goes_on_from_its_checkpoint_bit_for_bit(one, tmp_path):
    base, path = base_of(LLAMAS[0]), tmp_path / "bank"
    method = ts.methods.Ascent(steps=4, keep="lead")
    whole = ts.elicit(one, PROMPTS, against=base, method=method, **FAST)

    class Enough(Exception):
        pass

    class Stops(ts.methods.Ascent):
        def __call__(self, objective, start, *, resume=None):
            for iterate in super().__call__(objective, start, resume=resume):
                yield iterate
                if iterate.step == 2:
                    raise Enough

    Stops.__name__ = "Ascent"
    with pytest.raises(Enough):
        ts.elicit(
            one, PROMPTS, against=base, method=Stops(steps=4, keep="lead"), checkpoint=path,
            every=0, **FAST,
        )  # fmt: skip
    with pytest.raises(SettingError, match="divergence is"):
        ts.elicit(one, PROMPTS, against=one, method=method, resume=path, **FAST)
    resumed = ts.elicit(one, PROMPTS, against=base, method=method, resume=path, **FAST)
    assert torch.equal(resumed.vectors, whole.vectors)
    assert torch.equal(resumed.objective, whole.objective)
    assert torch.equal(resumed.scores["lead"], whole.scores["lead"])


def test_two_models_are_left_as_they_were(two):
    model, base = two
    before = snapshot(model), snapshot(base)
    ts.elicit(model, PROMPTS, against=base, **FAST)
    with pytest.raises(HookPointError):
        ts.elicit(model, PROMPTS, against=base, source="resid_post", **FAST)
    assert (snapshot(model), snapshot(base)) == before


def test_what_does_not_go_together_is_refused(one):
    base = base_of(LLAMAS[0])
    wrong = (
        ({"divergence": ts.objectives.Cosine()}, SettingError, "give one of them"),
        ({"measured": ts.Positions(last=1)}, SettingError, "Leave measured= out"),
        ({"target": "blocks.2.hook_resid_post"}, SettingError, r"blocks\.3\.hook_resid_post"),
    )
    for knobs, error, words in wrong:
        with pytest.raises(error, match=words):
            ts.elicit(one, PROMPTS, against=base, **FAST | knobs)
    with pytest.raises(ModelError):
        ts.elicit(one, PROMPTS, against=7, **FAST)
    with pytest.raises(SettingError, match="expected hook points"):
        ts.elicit(one, PROMPTS, **FAST)
    bank = ts.elicit(one, PROMPTS, divergence=Contrast(base, along=2), **FAST)
    assert "along=2" in bank.provenance.divergence
