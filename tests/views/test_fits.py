"""Results of another bank or model are not shown as a bank's own."""

import dataclasses
import json

import pytest
import torch
from conftest import KINDS as MODELS, PROMPTS, SOURCE, bank_of, bridge, make

import tl_steer as ts
from tl_steer.banks.origin import Origin
from tl_steer.errors import SettingError
from tl_steer.views.fits import refuse, refuse_control

PROMPT = PROMPTS[0]
_made = {}


def lengths(texts, _prompts):
    return [float(len(text)) for text in texts]


def results(one):
    """One of every kind, of the tiny bank."""
    if not _made:
        bank, few = bank_of(one), {"max_new_tokens": 2}
        short = {"shares": (0.5,), "signs": (1,), "n_random": 1}
        split = {"validation": PROMPTS[:1], "held_out": PROMPTS[1:2]}
        swept = {"n_random": 1, "generate": 0, "progress": False}
        _made.update(
            inspection=ts.inspect(one, bank, PROMPT, heads=1),
            generations=ts.generate(one, bank, PROMPTS[:1], **few),
            doses=ts.dose_response(one, bank, PROMPTS[:1], **few, **short),
            selection=ts.halve(one, bank, lengths, **split, **few),
            strengths=ts.inspection.strengths(one, bank, PROMPT, scales=(1,), **few),
            sweep=ts.sweep(one, bank, PROMPTS[:1], **swept),
        )
    return dict(_made)


KINDS = ("inspection", "generations", "doses", "selection", "strengths", "sweep")


def renamed(result, model):
    """The same result, but for the model's name."""
    if hasattr(result, "asked"):
        return dataclasses.replace(result, asked={**result.asked, "model": model})
    if hasattr(result, "model"):
        return dataclasses.replace(result, model=model)
    return dataclasses.replace(result, origin=dataclasses.replace(result.origin, model=model))


def untold(result):
    """As version 0.1.0 wrote it."""
    if hasattr(result, "asked"):
        return dataclasses.replace(result, asked={**result.asked, "bank": ""})
    if hasattr(result, "model"):
        return dataclasses.replace(result, bank="", fingerprint=None)
    model = Origin(model=result.origin.model)
    return dataclasses.replace(result, origin=model)


def test_results_of_the_bank_are_taken_without_a_word(one):
    assert refuse(bank_of(one), *results(one).values(), None) == []


@pytest.mark.parametrize("kind", KINDS)
def test_results_of_random_vectors_are_refused_as_the_banks(one, kind):
    random = ts.random_bank(bank_of(one))
    with pytest.raises(SettingError, match=r"of another bank .*make it anew"):
        refuse(random, results(one)[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_results_of_another_model_are_refused_by_its_fingerprint(one, kind):
    """A bank of the same vectors and places, whose model computes something else."""
    bank, result = bank_of(one), results(one)[kind]
    other = dataclasses.replace(
        bank, provenance=dataclasses.replace(bank.provenance, fingerprint=_elsewhere(one))
    )
    with pytest.raises(SettingError, match="of another"):
        refuse(other, result)
    if kind != "sweep":  # which knows its bank by the digest alone
        claimed = renamed_bank(result, other.digest())
        with pytest.raises(SettingError, match=r"of another model"):
            refuse(other, claimed)


def _elsewhere(one):
    mark = ts.models.fingerprint(one)
    return dataclasses.replace(mark, signature=tuple(-x for x in mark.signature))


def renamed_bank(result, digest):
    if hasattr(result, "model"):
        return dataclasses.replace(result, bank=digest)
    return dataclasses.replace(result, origin=dataclasses.replace(result.origin, bank=digest))


@pytest.mark.parametrize("kind", KINDS)
def test_another_models_name_is_refused_where_nothing_else_is_known(one, kind):
    bank, result = bank_of(one), untold(results(one)[kind])
    with pytest.raises(SettingError, match=r"of another model \(another-model;"):
        refuse(bank, renamed(result, "another-model"))
    (note,) = refuse(bank, result)
    assert note.startswith("unchecked: nothing says which bank made the ")


@pytest.mark.parametrize("kind", KINDS)
def test_another_name_of_the_same_model_is_told(one, kind):
    (note,) = refuse(bank_of(one), renamed(results(one)[kind], "a-path"))
    assert note.startswith("a-path, which computes what")


@pytest.mark.parametrize("kind", ["inspection", "sweep"])
def test_results_at_another_target_are_refused(one, kind):
    """Whether or not they say of which bank they are."""
    result = results(one)[kind]
    other = (
        dataclasses.replace(result, asked={**result.asked, "target": SOURCE})
        if kind == "sweep"
        else dataclasses.replace(result, target=SOURCE)
    )
    for each in (other, untold(other)):
        with pytest.raises(SettingError, match="of another target"):
            refuse(bank_of(one), each)


def test_vectors_that_the_bank_does_not_have_are_refused(one):
    bank = bank_of(one)
    seen = untold(results(one)["inspection"])
    with pytest.raises(SettingError, match="of vector 9, which this bank does not have"):
        refuse(bank, dataclasses.replace(seen, vectors=(9, 1, 2, 3)))
    texts = untold(results(one)["generations"])
    with pytest.raises(SettingError, match="not the 4 in the bank's order"):
        refuse(bank, dataclasses.replace(texts, numbers=(3, 2, 1, 0)))


def test_a_control_is_of_the_model_but_not_of_the_bank(one):
    bank = bank_of(one)
    random = ts.random_bank(bank)
    told = ts.generate(one, random, PROMPTS[:1], max_new_tokens=2)
    assert refuse_control(bank, told, None) == []
    with pytest.raises(SettingError, match="of the bank itself as its control"):
        refuse_control(bank, results(one)["generations"])
    foreign = dataclasses.replace(told.origin, fingerprint=_elsewhere(one))
    with pytest.raises(SettingError, match="of another model"):
        refuse_control(bank, dataclasses.replace(told, origin=foreign))
    (note,) = refuse_control(bank, untold(told))
    assert note.startswith("unchecked")


def test_a_table_of_numbers_cannot_be_checked_and_that_is_told(one):
    assert refuse(bank_of(one), [{"vector": 0}]) == [
        "unchecked: nothing says which bank made the table"
    ]


def test_texts_that_were_saved_say_of_which_bank_they_are(one, tmp_path):
    texts = results(one)["generations"]
    assert texts.origin.bank == bank_of(one).digest()
    path = texts.save(tmp_path / "texts.json")
    given = json.loads(path.read_text())
    assert Origin.from_json(given["origin"]) == texts.origin
    for odd in ({"bank": 3, "model": "", "fingerprint": None}, {"bank": ""}, {}, [1]):
        with pytest.raises(ValueError, match="expected"):
            Origin.from_json(odd)


def test_half_precision_of_the_same_model_is_the_same_model():
    if "bridge-llama" not in MODELS:
        pytest.skip("this TransformerLens has no TransformerBridge")
    bank = bank_of(make("bridge-llama"))
    seen = ts.inspect(bridge("llama", dtype=torch.bfloat16), bank, PROMPT, heads=0)
    assert seen.fingerprint.dtype == "bfloat16"
    assert refuse(bank, seen) == []
