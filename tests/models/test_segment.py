"""A segment gives what a full forward pass gives, for less."""

import itertools

import pytest
import torch
from conftest import HAS_BRIDGE, HAS_HOOKED, PROMPTS, SOURCE, TARGET, bridge, hooked
from linear import LinearHost

import tl_steer as ts
from tl_steer.errors import HookPointError, ModelError, NotFiniteError
from tl_steer.hook_points.positions import EVERYWHERE
from tl_steer.models.calls import cacheless
from tl_steer.models.hooks import capturing, installed
from tl_steer.models.state import frozen
from tl_steer.objectives.divergence import Displacement
from tl_steer.objectives.objective import Objective
from tl_steer.perturbations.sphere import random_on_sphere

SOURCES = ["hook_resid_pre", "hook_resid_post", "hook_mlp_out", "hook_attn_out", "attn.hook_z"]
TARGETS = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_pre", "blocks.3.hook_resid_post"]


def edits(model, source, n=3, *, radius=1.0, positions=EVERYWHERE, dtype=torch.float32):
    site = ts.models.resolve(model, source)
    generator = torch.Generator().manual_seed(1)
    vectors = random_on_sphere(n, site.width, radius=radius, generator=generator).to(dtype)
    return ts.Additive(site, vectors, radius=radius, positions=positions)


def full_forward(model, tokens, target, perturbation=None, row=0):
    """The plain way: the whole model, TransformerLens's hooks, one vector."""
    hooks = perturbation.select([row]).hooks() if perturbation is not None else []
    with torch.no_grad(), installed(model, hooks), capturing(model, [target]) as seen:
        model(tokens.ids, attention_mask=tokens.mask.long(), **cacheless(model))
    return seen[target]


def test_a_clean_replay_is_bit_exact(model):
    tokens = ts.tokenize(model, PROMPTS)
    segment = ts.Segment(model, tokens, SOURCE, TARGET)
    nothing = ts.Additive(segment.source, torch.zeros(1, segment.source.width), radius=1.0)
    replayed = segment.run(nothing)[0]
    expected = full_forward(model, tokens, TARGET)
    assert torch.equal(replayed[tokens.mask], expected[tokens.mask])
    assert torch.equal(segment.clean[tokens.mask], expected[tokens.mask])


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("target", TARGETS)
def test_steered_replay_equals_the_full_forward(model, kind, target):
    source = f"blocks.1.{kind}"
    tokens = ts.tokenize(model, PROMPTS)
    perturbation = edits(model, source)
    steered = ts.Segment(model, tokens, source, target).run(perturbation)
    for row in range(3):
        expected = full_forward(model, tokens, target, perturbation, row)
        assert not torch.allclose(expected, full_forward(model, tokens, target), atol=1e-2)
        torch.testing.assert_close(
            steered[row][tokens.mask], expected[tokens.mask], atol=1e-5, rtol=1e-5
        )


def test_together_equals_one_at_a_time(model):
    tokens = ts.tokenize(model, PROMPTS)
    segment = ts.Segment(model, tokens, SOURCE, TARGET)
    perturbation = edits(model, SOURCE, n=5)
    together = segment.run(perturbation)
    for row in range(5):
        alone = segment.run(perturbation.select([row]))[0]
        torch.testing.assert_close(
            together[row][tokens.mask], alone[tokens.mask], atol=1e-5, rtol=1e-5
        )


def test_a_padded_prompt_gets_what_it_gets_alone(model):
    perturbation = edits(model, SOURCE)
    batch = ts.tokenize(model, PROMPTS)
    together = ts.Segment(model, batch, SOURCE, TARGET).run(perturbation)
    for i, prompt in enumerate(PROMPTS):
        one = ts.tokenize(model, [prompt])
        alone = ts.Segment(model, one, SOURCE, TARGET).run(perturbation)
        torch.testing.assert_close(
            together[:, i, : len(one.ids[0])], alone[:, 0], atol=1e-5, rtol=1e-5
        )


def test_a_batch_as_large_as_its_length_is_not_mistaken(model):
    # An argument of shape [pos, ...] must not be repeated as if its first axis were the batch.
    prompts = [torch.tensor([5, 9, 30]), torch.tensor([7, 8]), torch.tensor([9, 3, 4])]
    tokens = ts.tokenize(model, prompts)
    assert tokens.ids.shape == (3, 3)
    segment = ts.Segment(model, tokens, SOURCE, TARGET)
    perturbation = edits(model, SOURCE)
    steered = segment.run(perturbation)
    assert steered.shape == (3, 3, 3, segment.target.width)
    expected = full_forward(model, tokens, TARGET, perturbation, 2)
    torch.testing.assert_close(steered[2][tokens.mask], expected[tokens.mask], atol=1e-5, rtol=1e-5)


def doubles():
    # transformers computes Llama's norms in float32 whatever its dtype, hence GPT-2 and GPT-NeoX.
    wide, made = torch.float64, {}
    if HAS_BRIDGE:
        made |= {f"bridge-{a}": lambda a=a: bridge(a, dtype=wide) for a in ("gpt2", "neox")}
    if HAS_HOOKED:
        made |= {f"hooked-{a}": lambda a=a: hooked(a, dtype=wide) for a in ("gpt2", "neox")}
    return made


@pytest.mark.parametrize("name", list(doubles()))
@pytest.mark.parametrize("kind", SOURCES)
def test_gradients_equal_finite_differences(name, kind):
    model = doubles()[name]()
    source = f"blocks.1.{kind}"
    tokens = ts.tokenize(model, PROMPTS)
    with frozen(model):
        segment = ts.Segment(model, tokens, source, TARGET)
        objective = Objective(segment, Displacement(p=4), tokens.mask)
        here = edits(model, source, n=2, dtype=torch.float64)
        gradient = objective(here).gradients[0]
        step = 1e-5
        for row, entry in itertools.product(range(2), (0, 7, 23)):
            ahead, behind = here.select([0, 1]), here.select([0, 1])
            with torch.no_grad():
                ahead.vectors[row, entry] += step
                behind.vectors[row, entry] -= step
            rise = objective(ahead, gradient=False).value - objective(behind, gradient=False).value
            assert float(rise[row] / (2 * step)) == pytest.approx(
                float(gradient[row, entry]), rel=1e-5, abs=1e-7
            )


def test_hooks_inside_the_segment_still_fire(llama):
    tokens = ts.tokenize(llama, PROMPTS)
    perturbation = edits(llama, SOURCE)
    middle = "blocks.2.hook_mlp_out"
    with installed(llama, [(middle, lambda t, hook: torch.zeros_like(t))]):
        steered = ts.Segment(llama, tokens, SOURCE, TARGET).run(perturbation)
        expected = full_forward(llama, tokens, TARGET, perturbation, 1)
    torch.testing.assert_close(steered[1][tokens.mask], expected[tokens.mask], atol=1e-5, rtol=1e-5)
    without = full_forward(llama, tokens, TARGET, perturbation, 1)
    assert not torch.allclose(expected, without, atol=1e-3)


def test_hooks_at_source_and_target_fire_once(llama):
    tokens = ts.tokenize(llama, PROMPTS)
    perturbation = edits(llama, "blocks.1.hook_resid_pre")
    ends = ["blocks.1.hook_resid_pre", "blocks.3.hook_resid_pre"]
    with installed(llama, [(name, lambda t, hook: t + 0.5) for name in ends]):
        steered = ts.Segment(llama, tokens, *ends).run(perturbation)
        expected = full_forward(llama, tokens, ends[1], perturbation, 0)
    torch.testing.assert_close(steered[0][tokens.mask], expected[tokens.mask], atol=1e-5, rtol=1e-5)


def test_only_the_edits_receive_gradients(llama):
    tokens = ts.tokenize(llama, PROMPTS)
    with frozen(llama):
        steered = ts.Segment(llama, tokens, SOURCE, TARGET).run(edits(llama, SOURCE))
        steered.sum().backward()
    assert all(p.grad is None for p in llama.parameters())


def test_blocks_outside_the_segment_do_not_run(one):
    tokens = ts.tokenize(one, PROMPTS)
    segment = ts.Segment(one, tokens, "blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
    ran = []
    handles = [
        block.register_forward_pre_hook(lambda *_, i=i: ran.append(i))
        for i, block in enumerate(one.blocks)
    ]
    segment.run(edits(one, SOURCE))
    for handle in handles:
        handle.remove()
    assert ran == [2]


def test_source_and_target_may_be_the_same_point(one):
    tokens = ts.tokenize(one, PROMPTS)
    perturbation = edits(one, TARGET)
    segment = ts.Segment(one, tokens, TARGET, TARGET)
    moved = segment.run(perturbation) - segment.clean
    expected = perturbation.vectors[:, None, None].expand_as(moved)
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=1e-5)


def test_a_target_before_its_source_is_refused(one):
    tokens = ts.tokenize(one, PROMPTS)
    with pytest.raises(HookPointError, match="comes before the source"):
        ts.Segment(one, tokens, "blocks.2.hook_resid_post", "blocks.2.hook_resid_pre")


def test_positions_are_kept_inside_a_padded_segment(model):
    tokens = ts.tokenize(model, PROMPTS)
    chosen = ts.Positions(last=2)
    steered = ts.Segment(model, tokens, SOURCE, SOURCE).run(edits(model, SOURCE, positions=chosen))
    clean = full_forward(model, tokens, SOURCE)
    changed = ((steered[0] - clean).norm(dim=-1) > 1e-3) & tokens.mask
    assert torch.equal(changed, tokens.select(chosen))
    assert changed.sum(dim=1).tolist() == [2, 2, 2]


def test_a_model_whose_blocks_remember_is_refused():
    host = LinearHost([torch.eye(6)] * 3)
    host.blocks[2].register_forward_hook(lambda m, a, out: out + out.mean(dim=0, keepdim=True))
    state = {"calls": 0}

    def drift(module, args, out):
        state["calls"] += 1
        return out * state["calls"]

    host.blocks[1].register_forward_hook(drift)
    tokens = ts.tokenize(host, ["1 2 3"])
    with pytest.raises(ModelError, match="does not reproduce the model"):
        ts.Segment(host, tokens, "blocks.0.hook_resid_post", "blocks.2.hook_resid_post")


def test_clean_activations_that_are_not_finite_are_refused():
    host = LinearHost([torch.eye(6), torch.full((6, 6), float("inf"))])
    with pytest.raises(NotFiniteError, match="clean activations"):
        ts.Segment(
            host, ts.tokenize(host, ["1 2"]), "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"
        )


def test_a_bfloat16_model_is_steered_by_float32_vectors():
    if not HAS_BRIDGE:
        pytest.skip("HookedTransformer mixes dtypes by itself; the trap is the bridge's")
    model = bridge("llama", dtype=torch.bfloat16)
    tokens = ts.tokenize(model, PROMPTS)
    perturbation = edits(model, SOURCE)
    steered = ts.Segment(model, tokens, SOURCE, TARGET).run(perturbation)
    assert steered.dtype == torch.bfloat16
    expected = full_forward(model, tokens, TARGET, perturbation, 0)
    torch.testing.assert_close(steered[0][tokens.mask], expected[tokens.mask], atol=0.1, rtol=0.05)
