"""Shuffled weights: a network that has learned nothing, and the old one back afterwards."""

import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET
from linear import LinearHost
from state import snapshot

import tl_steer as ts
from tl_steer.errors import ForeignModelError, ModelError
from tl_steer.models.fingerprint import fingerprint
from tl_steer.models.shuffle import shuffled

FAST = {"source": SOURCE, "target": TARGET, "n": 2, "radius": 3.0, "progress": False}
MEASURED = ts.Positions(last=1, bos=False)


def test_inside_it_is_another_model_and_afterwards_the_same(model):
    before, mark = snapshot(model), fingerprint(model)
    with shuffled(model) as same:
        assert same is model
        inside = fingerprint(model)
        assert snapshot(model)["bits"] != before["bits"]
    distance = (torch.tensor(inside.signature) - torch.tensor(mark.signature)).norm()
    assert distance > 0.2
    assert fingerprint(model) == mark
    assert snapshot(model) == before


def test_every_tensor_keeps_its_values_in_another_order(llama):
    kept = [p.detach().clone() for p in llama.parameters()]
    with shuffled(llama):
        mixed = [p.detach().clone() for p in llama.parameters()]
    for old, new in zip(kept, mixed, strict=True):
        assert torch.equal(old.flatten().sort().values, new.flatten().sort().values)
    moved = [not torch.equal(a, b) for a, b in zip(kept, mixed, strict=True)]
    # Norms of ones and biases of zeros look the same in any order.
    assert all(m for m, old in zip(moved, kept, strict=True) if old.unique().numel() > 2)


def test_the_seed_fixes_the_order_and_the_random_state_is_left(one):
    state = torch.get_rng_state()

    def mixed(seed):
        with shuffled(one, seed=seed):
            return torch.cat([p.detach().flatten() for p in one.parameters()])

    assert torch.equal(mixed(1), mixed(1))
    assert not torch.equal(mixed(1), mixed(2))
    assert torch.equal(state, torch.get_rng_state())


class Tied(LinearHost):
    """Two names for one matrix, and another that overlaps it."""

    def __init__(self):
        super().__init__([torch.eye(2)])
        self.embed = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
        self.unembed = torch.nn.Parameter(self.embed.data)
        self.rows = torch.nn.Parameter(self.embed.data[:2])
        self.counts = torch.nn.Parameter(torch.arange(5), requires_grad=False)


def test_shared_weights_are_shuffled_once_and_overlaps_come_back():
    tied = Tied()
    with shuffled(tied):
        assert torch.equal(tied.embed, tied.unembed)
        assert sorted(tied.embed.flatten().tolist()) == list(range(12))
        assert not torch.equal(tied.embed, torch.arange(12.0).reshape(3, 4))
        assert torch.equal(tied.counts, torch.arange(5))
    assert torch.equal(tied.embed, torch.arange(12.0).reshape(3, 4))


def test_after_an_exception_the_weights_are_back(llama):
    before = snapshot(llama)
    with pytest.raises(KeyboardInterrupt):
        with shuffled(llama):
            raise KeyboardInterrupt
    assert snapshot(llama) == before


def test_a_method_runs_on_it_and_its_bank_fits_nowhere_else(one):
    with shuffled(one):
        control = ts.elicit(one, PROMPTS, **FAST, measured=MEASURED)
        ts.generate(one, control, PROMPTS, max_new_tokens=2)
    with pytest.raises(ForeignModelError):
        ts.generate(one, control, PROMPTS)


class Weightless(LinearHost):
    def parameters(self, recurse=True):
        return iter(())


def test_a_model_without_weights_is_refused():
    with pytest.raises(ModelError, match="no floating-point weights"):
        with shuffled(Weightless([torch.eye(2)])):
            pass
