"""Every module of a model is known, wherever it is kept: none goes on dropping out."""

import functools
from types import SimpleNamespace

import conftest
import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET
from linear import Block, Host, LinearBlock
from state import snapshot
from torch import nn

import tl_steer as ts
from tl_steer.models.fingerprint import fingerprint
from tl_steer.models.model import modules_of, parameters_of
from tl_steer.models.shuffle import shuffled
from tl_steer.models.state import frozen
from tl_steer.models.taps import glance, host_of, torch_host

needs_bridge = pytest.mark.skipif(not conftest.HAS_BRIDGE, reason="a bridge wraps a model")
FAST = {"source": SOURCE, "target": TARGET, "n": 2, "radius": 3.0, "progress": False}


def fresh_from_training(kind):
    """A model as a trainer leaves it, wrapped: GPT-2 drops out half of its embeddings."""
    from transformer_lens.model_bridge import TransformerBridge

    weights = conftest._hugging_face(kind).train()
    for module in weights.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    return TransformerBridge.boot_transformers(
        f"tiny-{kind}", hf_model=weights, tokenizer=conftest.tokenizer()
    )


@needs_bridge
@pytest.mark.parametrize("kind", ["gpt2", "neox"])
@pytest.mark.parametrize("compatibility", [False, True], ids=["raw", "compat"])
def test_a_model_out_of_training_gives_what_it_gives_in_eval_mode(kind, compatibility):
    noisy = fresh_from_training(kind)
    if compatibility:
        noisy.enable_compatibility_mode()
    before = snapshot(noisy)
    modes = [module.training for module in noisy.original_model.modules()]
    assert any(modes)
    with frozen(noisy):
        assert not any(m.training for m in modules_of(noisy))
        assert not any(m.training for m in noisy.original_model.modules())
    bank = ts.elicit(noisy, PROMPTS, **FAST, measured=ts.Positions(last=1))
    texts = ts.generate(noisy, bank, PROMPTS, max_new_tokens=3).texts
    print_ = fingerprint(noisy)
    assert snapshot(noisy) == before
    assert [module.training for module in noisy.original_model.modules()] == modes
    noisy.original_model.eval()
    noisy.eval()
    quiet = ts.elicit(noisy, PROMPTS, **FAST, measured=ts.Positions(last=1))
    assert torch.equal(bank.vectors, quiet.vectors)
    assert ts.generate(noisy, quiet, PROMPTS, max_new_tokens=3).texts == texts
    assert fingerprint(noisy) == print_


@needs_bridge
def test_a_glance_is_at_the_model_in_eval_mode():
    noisy = fresh_from_training("gpt2")
    host = host_of(noisy, [ts.models.resolve(noisy, SOURCE)])
    plain = torch_host(noisy.original_model, [ts.models.resolve(noisy, SOURCE)], 4)
    ids, before = ts.tokenize(noisy, PROMPTS[:1]).ids, snapshot(noisy)
    for where in (host, plain):
        assert torch.equal(glance(where, ids)[0], glance(where, ids)[0])
    assert snapshot(noisy) == before


class Wrapper:
    """A model of one's own around another, without a module in sight."""

    def __init__(self, host, **kept):
        self.hooked_host = host
        vars(self).update(kept)

    def __getattr__(self, name):
        return getattr(vars(self)["hooked_host"], name)

    def __call__(self, *args, **kwargs):
        return self.hooked_host(*args, **kwargs)


def drop():
    return nn.Dropout(0.5)


def around(one):
    """A module in every hiding place, by its name."""
    twin = LinearBlock(torch.eye(4))
    twin.inner = one
    holder = SimpleNamespace(module=one)
    return {
        "a registered one": lambda m: m.add_module("own", one),
        "a list": lambda m: m.__dict__.update(kept=[one]),
        "a dictionary of tuples": lambda m: m.__dict__.update(kept={"a": (one,)}),
        "past registration": lambda m: object.__setattr__(m, "kept", one),
        "a plain object": lambda m: m.__dict__.update(kept=holder),
        "a bound method": lambda m: m.__dict__.update(forward_before=one.forward),
        "a partial": lambda m: m.__dict__.update(kept=functools.partial(one, inplace=False)),
        "a closure": lambda m: m.__dict__.update(kept=lambda x: one(x)),
        "a module in a list": lambda m: m.__dict__.update(kept=[twin]),
    }


@pytest.mark.parametrize("place", list(around(nn.Identity())))
@pytest.mark.parametrize("wrapped", [False, True], ids=["a module", "no module"])
def test_a_module_is_found_wherever_it_is_kept(place, wrapped):
    hidden = drop()
    hidden.weight = nn.Parameter(torch.ones(3))
    host = Host("own", torch.eye(4), [Block(lambda x: x) for _ in range(2)])
    around(hidden)[place](host)
    model = Wrapper(host) if wrapped else host
    assert hidden in modules_of(model)
    assert any(p is hidden.weight for p in parameters_of(model))
    with frozen(model):
        assert not hidden.training
        assert not hidden.weight.requires_grad
    assert hidden.training
    assert hidden.weight.requires_grad
    with shuffled(model):
        pass
    assert torch.equal(hidden.weight, torch.ones(3))


def test_shared_modules_and_circles_are_counted_once():
    host = Host("own", torch.eye(4), [Block(lambda x: x)] * 2)
    host.__dict__["again"] = [host, host.blocks[0]]
    assert len({id(m) for m in modules_of(host)}) == len(modules_of(host))
    assert {id(m) for m in modules_of(host)} == {id(m) for m in host.modules()}


def test_a_perturbation_in_somebody_s_hook_goes_on_wanting_gradients(one):
    site = ts.models.resolve(one, SOURCE)
    training = ts.Additive(site, torch.ones(1, site.width))
    with ts.perturbing(one, training), frozen(one):
        assert training.vectors.requires_grad


def test_all_weights_are_shuffled_also_those_outside_the_tree():
    host = Host("own", torch.eye(4), [Block(lambda x: x)])
    hidden = nn.Linear(4, 4, bias=False)
    kept = hidden.weight.detach().clone()
    host.__dict__["kept"] = [hidden]
    with shuffled(host):
        assert not torch.equal(hidden.weight, kept)
    assert torch.equal(hidden.weight, kept)
