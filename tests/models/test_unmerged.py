"""A model whose adapter is not merged is two models: as it is, and with the adapter off."""

import pytest
import torch
from conftest import HAS_BRIDGE, PROMPTS, SOURCE, _hugging_face, make, tokenizer
from state import snapshot
from torch import nn
from two_models import edits_of

import tl_steer as ts
from tl_steer.errors import ModelError
from tl_steer.methods import MeanDifference
from tl_steer.models import fingerprint, without_adapter
from tl_steer.models.fingerprint import same_model
from tl_steer.models.state import frozen
from tl_steer.models.unmerged import switched_off
from tl_steer.objectives import Contrast, Substitution

pytestmark = pytest.mark.skipif(not HAS_BRIDGE, reason="adapters hang on transformers models")
LAST = "blocks.3.hook_resid_post"
CHANGED = ("q_proj", "down_proj")


class LowRank(nn.Module):
    """A linear map and a change of rank 2, with PEFT's interface and PEFT's ways with flags."""

    def __init__(self, base_layer, down, up):
        super().__init__()
        self.base_layer, self.merged = base_layer, False
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        self._disable_adapters = False

    @property
    def disable_adapters(self):
        return self._disable_adapters

    def enable_adapters(self, enabled):
        self._disable_adapters = not enabled
        self.down.requires_grad_(enabled)
        self.up.requires_grad_(enabled)

    def forward(self, x):
        out = self.base_layer(x)
        return out if self._disable_adapters else out + x @ self.down.T @ self.up.T


def changes_of(weights):
    """For every changed map of a transformers model its name, and A and B of B A."""
    generator = torch.Generator().manual_seed(3)
    for name, module in list(weights.named_modules()):
        if name.endswith(CHANGED):
            shapes = (2, module.in_features), (module.out_features, 2)
            yield name, *(0.3 * torch.randn(s, generator=generator) for s in shapes)


def by_hand():
    weights = _hugging_face("llama")
    for name, down, up in changes_of(weights):
        parent, _, last = name.rpartition(".")
        holder = weights.get_submodule(parent)
        setattr(holder, last, LowRank(getattr(holder, last), down, up))
    return weights


def by_peft():
    peft = pytest.importorskip("peft", reason="peft is no dependency")
    weights = _hugging_face("llama")
    changes = list(changes_of(weights))
    tuned = peft.get_peft_model(
        weights, peft.LoraConfig(r=2, lora_alpha=2, target_modules=list(CHANGED))
    )
    with torch.no_grad():
        for name, down, up in changes:
            layer = tuned.base_model.model.get_submodule(name)
            layer.lora_A["default"].weight.copy_(down)
            layer.lora_B["default"].weight.copy_(up)
    return tuned.get_base_model()


def hooked(weights):
    return ts.models.wrap(weights.eval(), tokenizer(), name="tiny-llama")


@pytest.fixture(params=[by_hand, by_peft])
def unmerged(request):
    return hooked(request.param())


@pytest.fixture
def two():
    """The same two models with weights of their own."""
    weights = _hugging_face("llama")
    for name, down, up in changes_of(weights):
        with torch.no_grad():
            weights.get_submodule(name).weight += up @ down
    return hooked(weights), make("bridge-llama")


def evaluated(model, goal):
    with frozen(model):
        segment = ts.Segment(model, ts.tokenize(model, PROMPTS), SOURCE, LAST)
        return goal.on(segment)(edits_of(model))


def switches(model):
    return [
        module.disable_adapters
        for module in ts.models.model.modules_of(model)
        if callable(getattr(type(module), "enable_adapters", None))
        and isinstance(getattr(module, "disable_adapters", None), bool)
    ]


@pytest.mark.parametrize("goal", [Contrast, Substitution])
def test_both_goals_are_worth_what_they_are_with_two_models(unmerged, two, goal):
    model, base = two
    expected = evaluated(model, goal(base, along=3))
    before = snapshot(unmerged), switches(unmerged)
    found = evaluated(unmerged, goal(without_adapter(unmerged), along=3))
    torch.testing.assert_close(found.value, expected.value, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.gradients[0], expected.gradients[0], atol=1e-5, rtol=1e-4)
    assert float(found.value.abs().max()) > 0.01
    assert (snapshot(unmerged), switches(unmerged)) == before
    assert not any(before[1])


def test_elicit_finds_what_it_finds_with_two_models(unmerged, two):
    model, base = two
    asked = {"n": 2, "radius": 2.0, "progress": False}
    expected = ts.elicit(model, PROMPTS, against=base, **asked)
    found = ts.elicit(unmerged, PROMPTS, against=without_adapter(unmerged), **asked)
    torch.testing.assert_close(found.vectors, expected.vectors, atol=1e-4, rtol=1e-4)
    assert "tiny-llama without its adapter" in found.provenance.divergence


def test_a_reading_of_activations_sees_the_two(unmerged, two):
    model, base = two
    found = []
    for of, against in ((unmerged, without_adapter(unmerged)), (model, base)):
        with frozen(of):
            segment = ts.Segment(of, ts.tokenize(of, PROMPTS), SOURCE, LAST)
            found.append(MeanDifference(against).directions(segment).rows)
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


def test_without_its_adapter_a_model_is_its_base(unmerged, two):
    """By fingerprints, which are told to seven decimals."""
    off, on = without_adapter(unmerged).mark, fingerprint(unmerged)
    model, base = map(fingerprint, two)
    assert same_model(off, base)
    assert same_model(on, model)
    assert not same_model(on, off)


def test_the_model_is_as_before_after_an_exception(unmerged):
    reference = without_adapter(unmerged)
    reference.adapters[0].enable_adapters(False)
    for layer in reference.adapters:
        layer.requires_grad_(False)
    before = snapshot(unmerged), switches(unmerged)
    with pytest.raises(KeyboardInterrupt), reference.running():
        assert all(switches(unmerged))
        raise KeyboardInterrupt
    assert (snapshot(unmerged), switches(unmerged)) == before
    assert before[1].count(True) == 1


def test_inside_no_flag_is_another(unmerged):
    """Those who froze the model count on it."""
    adapters = without_adapter(unmerged).adapters
    flags = [p.requires_grad for p in unmerged.parameters()]
    with switched_off(adapters):
        assert [p.requires_grad for p in unmerged.parameters()] == flags


def test_what_has_no_adapter_to_switch_off_is_refused(unmerged, one):
    with pytest.raises(ModelError, match="no adapter that could be switched off"):
        without_adapter(one)
    layer = without_adapter(unmerged).adapters[0]
    if isinstance(layer, LowRank):
        layer.merged = True
    else:
        layer.merge()
    with pytest.raises(ModelError, match="merged into the weights"):
        without_adapter(unmerged)
    with pytest.raises(ModelError):
        without_adapter(one.cfg)


def test_an_adapter_that_does_nothing_is_refused(unmerged):
    for layer in without_adapter(unmerged).adapters:
        layer.enable_adapters(False)
    with pytest.raises(ModelError, match="is the same with its adapter and without"):
        without_adapter(unmerged)
