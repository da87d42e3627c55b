"""A divergence is tried on a few numbers before anything long, and says in a sentence what is
wrong with it."""

import re
from dataclasses import dataclass

import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET

import tl_steer as ts
from tl_steer.errors import NotFiniteError, SettingError, ShapeError
from tl_steer.objectives import Displacement
from tl_steer.objectives.probe import probe

FAST = {"source": SOURCE, "target": TARGET, "n": 2, "radius": 1.0, "progress": False}
FAST |= {"measured": ts.Positions(last=2, bos=False)}
CLEAN = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(1))
ALL = torch.ones(3, 5, dtype=torch.bool)


def per_token(steered, clean, measured):
    return (steered - clean).square().sum(dim=-1)


def per_prompt(steered, clean, measured):
    return torch.where(measured, per_token(steered, clean, measured), 0.0).sum(dim=-1)


def good(steered, clean, measured):
    return per_prompt(steered, clean, measured).sum(dim=-1)


def rooted(steered, clean, measured):
    lengths = per_token(steered, clean, measured).sqrt()
    return torch.where(measured, lengths, 0.0).sum(dim=(1, 2))


@dataclass(frozen=True)
class LargestMoves:
    k: int = 1

    def __call__(self, steered, clean, measured):
        return per_token(steered, clean, measured).topk(self.k).values.sum(dim=(1, 2))


WRONG = [
    (
        per_token,
        ShapeError,
        "The divergence per_token gave a tensor of shape [2, 3, 5] = [vec batch pos] for steered "
        "activations [vec batch pos d_model] = [2, 3, 5, 7]; expected [vec] = [2]. Keep its first "
        "axis, and sum over prompts and measured tokens: torch.where(measured, x, 0.0).sum(dim=(1",
    ),
    (per_prompt, ShapeError, "= [vec batch] for steered"),
    (lambda s, c, m: good(s, c, m).sum(), ShapeError, "shape [], a single number for steered"),
    (lambda s, c, m: 3.0, ShapeError, "gave a float for steered"),
    (lambda s, c, m: good(s, c, m).detach(), SettingError, "has no gradient: what it gives"),
    (lambda s, c, m: s.argmax(dim=-1).sum(dim=(1, 2)), SettingError, "has no gradient"),
    (
        lambda s, c, m: good(s, c, m) + (s * 1e30 * 1e30).sum(dim=(1, 2, 3)),
        NotFiniteError,
        "gave NaN or infinity for activations that are finite, in torch.float32. Compute in",
    ),
    (
        LargestMoves(k=9),
        SettingError,
        "The divergence LargestMoves(k=9) raised RuntimeError (selected index k out of range) when "
        "called with steered [2, 3, 5, 7], clean [3, 5, 7] and measured [3, 5]. Expected a "
        "function (steered [vec batch pos d_model], clean",
    ),
    (lambda s, c: s, SettingError, "raised TypeError"),
    (lambda s, c, m: s.nothing, SettingError, "raised AttributeError ('Tensor' object has no"),
]


@pytest.mark.parametrize(("divergence", "error", "words"), WRONG)
def test_what_cannot_be_climbed_is_refused_in_a_sentence(divergence, error, words):
    with pytest.raises(error, match=re.escape(words)):
        probe(divergence, CLEAN, ALL, moved=ALL)


def test_what_can_be_climbed_passes_in_silence():
    for divergence in (good, Displacement(p=4), ts.objectives.Cosine(), LargestMoves(k=2)):
        probe(divergence, CLEAN, ALL, moved=ALL)


def test_a_root_is_refused_only_where_tokens_stay_as_they_are():
    probe(rooted, CLEAN, ALL, moved=ALL)
    still = ALL.clone()
    still[0, :2] = False
    with pytest.raises(NotFiniteError, match="a square root has an infinite slope at 0"):
        probe(rooted, CLEAN, ALL, moved=still)


def test_axes_of_one_length_are_told_apart():
    """With two prompts, a divergence per prompt gives two numbers for two vectors."""

    def by_prompt(steered, clean, measured):
        return good(steered.transpose(0, 1), clean.new_zeros(1), torch.tensor([[True]]))

    with pytest.raises(ShapeError, match=re.escape("gave a tensor of shape [2]")):
        probe(by_prompt, CLEAN[:2], ALL[:2], moved=ALL[:2])


def test_elicit_tries_a_divergence_before_it_looks_for_a_radius_or_for_places(one):
    asked = []

    def rule(segment, measured, seed):
        asked.append(segment)
        return 1.0

    with pytest.raises(ShapeError, match="per_token gave a tensor of shape"):
        ts.elicit(one, PROMPTS, **FAST | {"radius": rule}, divergence=per_token)
    assert asked == []
    ends = {"source": "auto", "target": "auto"}
    with pytest.raises(
        ShapeError, match=re.escape("= [2, 3, 8, 24]; expected [vec] = [2]")
    ) as caught:
        ts.elicit(one, PROMPTS, **FAST | ends, divergence=per_token)
    assert "scan" not in {entry.name for entry in caught.traceback}
    with pytest.raises(NotFiniteError, match="a token did not move"):
        ts.elicit(
            one, PROMPTS, **FAST, divergence=rooted, positions=ts.Positions(last=1, bos=False)
        )


def test_an_objective_tries_its_divergence_and_names_it_when_it_fails_later(one):
    tokens = ts.tokenize(one, PROMPTS)
    calls = []

    def tiring(steered, clean, measured):
        calls.append(len(steered))
        if len(calls) > 1:
            raise KeyError("tired")
        return good(steered, clean, measured)

    with ts.models.frozen(one):
        segment = ts.Segment(one, tokens, SOURCE, TARGET)
        with pytest.raises(ShapeError, match="per_token gave"):
            ts.objectives.Objective(segment, per_token, tokens.mask)
        objective = ts.objectives.Objective(segment, tiring, tokens.mask)
        start = ts.Additive(segment.source, torch.ones(1, 24), radius=1.0)
        with pytest.raises(SettingError, match=r"tiring\(.*raised KeyError \('tired'\) when call"):
            objective(start)


def test_memory_that_runs_out_in_a_divergence_still_makes_passes_smaller(one):
    def large(steered, clean, measured):
        if len(steered) > 2:
            raise MemoryError("can't allocate memory")
        return good(steered, clean, measured)

    with pytest.warns(UserWarning, match="going on with vec_batch=2"):
        bank = ts.elicit(one, PROMPTS, **FAST | {"n": 4}, divergence=large, vec_batch=4)
    assert len(bank) == 4


def test_names_and_classes_stand_for_divergences(one):
    made = [
        ts.elicit(one, PROMPTS, **FAST, divergence=way)
        for way in ("cosine", ts.objectives.Cosine, ts.objectives.Cosine())
    ]
    assert all(torch.equal(made[0].vectors, bank.vectors) for bank in made[1:])
    assert {bank.provenance.divergence for bank in made} == {"Cosine()"}
    with pytest.raises(SettingError, match="Unknown divergence 'cosin'; there are displacement, c"):
        ts.elicit(one, PROMPTS, **FAST, divergence="cosin")
    mixed = ts.objectives.Weighted(((1.0, "displacement"), (-0.5, ts.objectives.Cosine)))
    known = ts.objectives.Weighted(((1.0, Displacement()), (-0.5, ts.objectives.Cosine())))
    assert mixed == known
    segment = ts.Segment(one, ts.tokenize(one, PROMPTS), SOURCE, TARGET)
    objective = ts.objectives.Objective(segment, "cosine", segment.mask)
    assert objective.divergence == ts.objectives.Cosine()


def test_classes_stand_for_methods(one):
    bank = ts.elicit(one, PROMPTS, **FAST, method=ts.methods.Sogi)
    known = ts.elicit(one, PROMPTS, **FAST, method=ts.methods.Sogi())
    assert torch.equal(bank.vectors, known.vectors)
    with pytest.raises(
        ShapeError, match=r"is the class Within; expected an object: Within\(\.\.\.\) \("
    ):
        ts.elicit(one, PROMPTS, **FAST, method=ts.methods.Within)
