"""repeng's and steering-vectors' objects, both ways, by the tools themselves."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import PROMPTS, make
from plain_hf import IDS, hugging_face, steered_by_us, two_blocks

import tl_steer as ts
from tl_steer.errors import HookPointError, SettingError, ShapeError, SteerError
from tl_steer.hook_points import PROMPT
from tl_steer.interop import Directions, as_control_vector, as_steering_vector
from tl_steer.perturbations import Ablation


@pytest.fixture(scope="module")
def model():
    return make("bridge-llama")


@pytest.fixture(scope="module")
def banks(model):
    one = ts.elicit(model, PROMPTS[:1], source=1, target=2, n=3, radius=2.0, progress=False)
    return {"one block": one, "two blocks": two_blocks(model, one.vectors)}


@pytest.fixture
def repeng(monkeypatch):
    pytest.importorskip("gguf")
    if not hasattr(np, "float_"):  # NumPy 2 took it away, and repeng names it in a type
        monkeypatch.setattr(np, "float_", np.float64, raising=False)
    return pytest.importorskip("repeng")


@pytest.mark.parametrize("where", ["one block", "two blocks"])
def test_steering_vectors_adds_what_our_hooks_add_and_gives_it_back(model, banks, where):
    pytest.importorskip("steering_vectors")
    bank = banks[where][1]
    given, hf = as_steering_vector(bank), hugging_face()
    with torch.no_grad(), given.apply(hf):
        logits = hf(IDS).logits
    torch.testing.assert_close(logits, steered_by_us(model, bank), rtol=1e-5, atol=1e-5)
    back = Directions.of(given).bank(model, prompts=PROMPTS[:1], target=bank.target.name)
    torch.testing.assert_close(back.responses, bank.responses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("where", ["one block", "two blocks"])
def test_repeng_adds_what_our_hooks_add_and_gives_it_back(model, banks, where, repeng):
    bank = banks[where][1]
    given = as_control_vector(bank, model=model)
    assert given.model_type == "llama"
    controlled = repeng.ControlModel(hugging_face(), [*given.directions])
    try:
        controlled.set_control(given)
        with torch.no_grad():
            # repeng 0.4.0 takes one text, or position_ids as long as the batch
            logits = torch.cat([controlled(row[None]).logits for row in IDS])
    finally:
        controlled.unwrap()
    torch.testing.assert_close(logits, steered_by_us(model, bank), rtol=1e-5, atol=1e-5)
    back = Directions.of(given * 2).bank(model, prompts=PROMPTS[:1], target=bank.target.name)
    again = Directions.of(as_control_vector(back, model=model) / 2)
    assert sorted(again.layers) == sorted(given.directions)
    for layer, row in given.directions.items():
        torch.testing.assert_close(again.layers[layer][0], torch.from_numpy(row))


def test_plain_vectors_by_block_are_a_bank_of_as_many_edits(model):
    rows = torch.eye(24)[:3]
    found = Directions.of({np.int64(1): rows, 2: (-rows).tolist()})
    assert len(found) == 3
    assert len(found.bank(model, prompts=PROMPTS[:1], target=3)) == 3
    assert Directions.of({0: np.ones(24)}).layers[0].shape == (1, 24)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (None, ShapeError),
        ([1.0, 2.0], ShapeError),
        ({}, ShapeError),
        ({"7": [1.0]}, ShapeError),
        ({-1: [1.0]}, ShapeError),
        ({True: [1.0]}, ShapeError),
        ({1: [1.0], 2: [1.0, 2.0]}, ShapeError),
        ({1: "abc"}, ShapeError),
        ({1: [np.nan]}, SettingError),
        (SimpleNamespace(directions={1: np.ones((2, 3))}), ShapeError),
        (SimpleNamespace(directions={1: np.ones((1, 3))}, num_heads=1), HookPointError),
        (SimpleNamespace(layer_activations={1: np.ones(3)}, layer_type="mlp"), HookPointError),
    ],
)
def test_what_holds_no_vectors_of_blocks_is_refused(given, error):
    with pytest.raises(error):
        Directions.of(given)


@pytest.mark.parametrize("made", [as_control_vector, as_steering_vector])
def test_what_these_tools_cannot_say_is_refused(model, banks, made):
    bank = banks["one block"]
    ablated = ts.Bank.from_vectors(model, Ablation(1, bank.vectors), prompts=PROMPTS[:1], target=2)
    for wrong in (bank, replace(bank[0], positions=PROMPT), ablated[0]):
        with pytest.raises(SteerError):
            made(wrong)


@pytest.mark.parametrize(
    ("made", "package"), [(as_control_vector, "repeng"), (as_steering_vector, "steering_vectors")]
)
def test_a_package_that_is_missing_or_broken_is_said(banks, made, package, monkeypatch, tmp_path):
    bank = banks["one block"][0]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / f"{package}.py").write_text("raise AttributeError('np.float_ was removed')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingError, match=r"cannot be imported.*np\.float_ was removed"):
        made(bank)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SettingError, match=f"package {package}: pip install"):
        made(bank)
