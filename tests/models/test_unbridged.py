"""Blocks run by their own modules where nobody listens between them, and give what they gave."""

import pytest
import torch
from conftest import HAS_HOOKED, PROMPTS, SOURCE, TARGET, make
from torch.utils._python_dispatch import TorchDispatchMode

import tl_steer as ts
from tl_steer.models import unbridged
from tl_steer.models.state import frozen
from tl_steer.models.unbridged import called
from tl_steer.objectives import Objective

pytestmark = pytest.mark.skipif(
    HAS_HOOKED, reason="before TransformerLens 4 blocks alone give other numbers than the bridge"
)


class Counted(TorchDispatchMode):
    """How often PyTorch was asked for something: kernels on a card, passes over memory on a CPU."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func.overloadpacket)
        self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def problem(model, n=3):
    tokens = ts.tokenize(model, PROMPTS)
    segment = ts.Segment(model, tokens, SOURCE, TARGET)
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(n, segment.source.width, generator=draw)
    return Objective(segment, "displacement", tokens.mask), ts.Additive(
        segment.source, rows, radius=2.0
    )


WHO = ["a hook point", "the stream", "a component", "the model's own module", "a gradient"]


def listeners(model):
    """Everybody who may listen inside of block 2, and how to make them stop."""
    block = model.blocks[2]
    seen = []
    return seen, {
        "a hook point": block.attn.hook_pattern.register_forward_hook,
        "the stream": block.hook_in.register_forward_pre_hook,
        "a component": block.mlp.register_forward_hook,
        "the model's own module": block.mlp.original_component.register_forward_hook,
        "a gradient": block.mlp.hook_out.register_full_backward_hook,
    }


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "neox", "compat-llama"])
def test_values_and_gradients_are_those_through_the_bridge(kind):
    model = make(kind if "-" in kind else f"bridge-{kind}")
    with frozen(model):
        objective, start = problem(model)
        found = objective(start)
        objective.segment.unbridged = {}
        wanted = objective(start)
    torch.testing.assert_close(found.value, wanted.value, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.gradients, wanted.gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("who", WHO)
def test_whoever_listens_inside_a_block_hears_it_run(who):
    model = make("bridge-llama")
    with frozen(model):
        objective, start = problem(model)
        seen, ways = listeners(model)
        handle = ways[who](lambda *_: seen.append(1))
        try:
            objective(start)
        finally:
            handle.remove()
        heard = len(seen)
        objective(start)
    assert heard == len(seen) == 1


def test_a_block_in_another_mode_runs_through_the_bridge():
    model = make("bridge-llama")
    with frozen(model):
        objective, _ = problem(model)
        block = objective.segment.unbridged[2]
        assert block.stands_in
        model.blocks[2].training = True
        assert not block.stands_in
        model.blocks[2].training = False


def test_weights_are_shared_and_not_copied():
    model = make("bridge-llama")
    with frozen(model):
        objective, start = problem(model)
        before = objective(start).value
        own = next(objective.segment.unbridged[2].module.parameters())
        assert any(own is p for p in model.blocks[2].parameters())
        with torch.no_grad():
            own.mul_(1.5)
        assert not torch.allclose(objective(start).value, before)
        with torch.no_grad():
            own.div_(1.5)


def nothing(*_, **__):
    raise TypeError("no such argument")


@pytest.mark.parametrize(
    "wrong", [lambda module, args, kwargs: called(module, args, kwargs)[0] * 1.001, nothing]
)
def test_blocks_that_give_other_numbers_alone_or_fail_run_through_the_bridge(monkeypatch, wrong):
    monkeypatch.setattr(unbridged, "called", wrong)
    model = make("bridge-llama")
    with frozen(model):
        objective, start = problem(model)
        assert objective.segment.unbridged == {}
        assert objective(start).value.isfinite().all()


def test_a_step_asks_pytorch_for_no_more_than_it_has_to():
    """Counts, since seconds on a shared machine say nothing. Who adds an operation to every step
    sees it here, and may raise the number where it is worth it."""
    model = make("bridge-llama")
    with frozen(model):
        objective, start = problem(model)
        with Counted() as alone:
            objective(start)
        objective.segment.unbridged = {}
        with Counted() as bridged:
            objective(start)
    blocks = objective.segment.last - objective.segment.first + 1
    products = sum(alone.calls.get(f"aten.{name}", 0) for name in ("mm", "addmm"))
    # Seven linear maps, forward and backward, and none for weights.
    assert products == 14 * blocks
    assert sum(alone.calls.values()) < sum(bridged.calls.values())
    assert sum(alone.calls.values()) <= 524
