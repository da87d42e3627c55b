"""Rows, ends and norms on models whose every number is known; maps that are linear or not."""

from types import SimpleNamespace

import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET
from linear import LinearHost

import tl_steer as ts
from tl_steer.errors import HookPointError, ModelError, ShapeError
from tl_steer.models.bare import bare_pass, fixed_tokens
from tl_steer.models.linear_map import departures, refuse_nonlinear
from tl_steer.models.model import device_of, dtype_of, model_name
from tl_steer.models.recording import Heads
from tl_steer.models.rows import Row, by_row, continued, through_end, until_end
from tl_steer.models.state import seeded
from tl_steer.perturbations.sphere import random_on_sphere

D = 6
ENDS = ("blocks.0.hook_resid_post", "blocks.2.hook_resid_post")


def host(*scales):
    return LinearHost([scale * torch.eye(D) for scale in scales])


def edits(model, n, *, source=ENDS[0], radius=2.0):
    site = ts.models.resolve(model, source)
    generator = torch.Generator().manual_seed(1)
    rows = random_on_sphere(n, site.width, radius=radius, generator=generator)
    return ts.Additive(site, rows, radius=radius)


# --- many vectors on many prompts


@pytest.mark.parametrize("most", [1, 2, 3, 64])
def test_every_vector_meets_every_prompt_once_in_batches_of_one_length(most):
    model = host(1, 1, 1)
    tokens = ts.tokenize(model, ["1 2 3", "4 5", "6 7 8", "9"])
    vectors = edits(model, 3)
    batches = []

    def work(ids, rows):
        batches.append((tuple(ids.shape), rows))
        out = model(ids)
        return [(row, ids[i].tolist(), out[i, -1]) for i, row in enumerate(rows)]

    done = by_row(model, vectors, tokens, work, batch_rows=most)
    assert set(done) == {Row(v, p) for v in range(3) for p in range(4)}
    for (n, length), rows in batches:
        assert n == len(rows) <= most
        assert {int(tokens.lengths[row.prompt]) for row in rows} == {length}
    for row, (same, ids, last) in done.items():
        assert same == row
        assert ids == tokens.rows()[row.prompt].tolist()
        clean = model(tokens.rows()[row.prompt][None])[0, -1]
        torch.testing.assert_close(last, clean + vectors.vectors[row.vector])
    if most == 64:
        assert sorted(n for (n, _), _ in batches) == [3, 3, 6]


def test_a_batch_takes_its_prompts_in_any_order_and_is_no_longer_than_they_are():
    tokens = ts.tokenize(host(1), ["1 2 3", "4", "5 6"])
    some = tokens.take([2, 1, 2])
    assert some.ids.tolist() == [[5, 6], [4, 0], [5, 6]]
    assert some.mask.int().tolist() == [[1, 1], [1, 0], [1, 1]]
    assert some.texts == ("5 6", "4", "5 6")
    assert some.has_bos.tolist() == [False] * 3
    assert [row.tolist() for row in some.rows()] == [[5, 6], [4], [5, 6]]
    assert (len(some), some.lengths.tolist()) == (3, [2, 1, 2])


def test_ids_are_read_where_nobody_can_decode_them():
    tokens = ts.tokenize(host(1), [torch.tensor([7, 8], dtype=torch.int32)])
    assert tokens.texts == ("7 8",)
    assert tokens.ids.dtype == torch.long


@pytest.mark.parametrize("system", [None, "be kind"])
def test_a_conversation_of_one_turn(system):
    turns = ts.chat("hello", system=system)
    assert turns[-1] == {"role": "user", "content": "hello"}
    assert turns[:-1] == ([] if system is None else [{"role": "system", "content": "be kind"}])


# --- ends of answers


def ending_with(eos):
    model = host(1)
    model.tokenizer = SimpleNamespace(eos_token_id=eos)
    return model


@pytest.mark.parametrize(
    ("ids", "until", "through"),
    [
        ([5, 6, 7], [5, 6, 7], [5, 6, 7]),
        ([5, 3, 7, 3], [5], [5, 3]),
        ([3, 5], [], [3]),
        ([5, 6, 3], [5, 6], [5, 6, 3]),
    ],
)
def test_an_answer_is_cut_at_its_first_end_of_text(ids, until, through):
    row = torch.tensor(ids)
    assert until_end(ending_with(3), row).tolist() == until
    assert through_end(ending_with(3), row).tolist() == through
    assert until_end(ending_with(None), row).tolist() == ids
    assert until_end(host(1), row).tolist() == ids


def test_only_what_is_new_is_continued(one):
    ids = ts.tokenize(one, PROMPTS[:1]).ids
    new = continued(one, ids, 3)
    assert new.shape == (1, 3)
    with torch.no_grad():
        assert int(new[0, 0]) == int(one(ids)[0, -1].argmax())


def test_sampling_inside_is_fixed_and_outside_goes_on_as_before(one):
    torch.manual_seed(11)
    expected = torch.rand(4)
    torch.manual_seed(11)
    first = torch.rand(2)
    drawn = []
    for seed in (3, 3, 4):
        with seeded(one, seed):
            drawn.append(float(torch.rand(1)))
    torch.testing.assert_close(torch.cat([first, torch.rand(2)]), expected)
    assert drawn[0] == drawn[1] != drawn[2]


# --- norms


def test_norms_are_medians_over_real_tokens():
    model = host(1, 2, 3)
    tokens = ts.tokenize(model, ["1 2 3 4", "5"])
    segment = ts.Segment(model, tokens, *ENDS)
    real = model.embed.detach()[[1, 2, 3, 4, 5]].norm(dim=1)
    assert segment.source_norm() == pytest.approx(float(real.median()))
    assert segment.target_norm() == pytest.approx(6 * float(real.median()))


def test_norms_leave_a_leading_bos_out_unless_there_is_nothing_else(one):
    tokens = ts.tokenize(one, PROMPTS)
    segment = ts.Segment(one, tokens, SOURCE, TARGET)
    keep = tokens.mask.clone()
    keep[:, 0] = False
    for found, stream in (
        (segment.source_norm(), segment.clean_source),
        (segment.target_norm(), segment.clean),
    ):
        assert found == pytest.approx(float(stream.norm(dim=-1)[keep].median()))
    bare = ts.Segment(one, ts.tokenize(one, [torch.tensor([0])]), SOURCE, TARGET)
    assert bare.source_norm() == pytest.approx(float(bare.clean_source.norm()))


@pytest.mark.parametrize("kind", ["attn.hook_z", "hook_attn_out", "hook_mlp_out"])
def test_inside_a_block_the_norm_is_that_of_the_stream_entering_it(llama, kind):
    tokens = ts.tokenize(llama, PROMPTS)
    entering = ts.Segment(llama, tokens, "blocks.1.hook_resid_pre", TARGET)
    inside = ts.Segment(llama, tokens, f"blocks.1.{kind}", TARGET)
    assert inside.source_norm() == pytest.approx(entering.source_norm())


# --- what a model is asked


def test_eight_tokens_of_any_vocabulary_are_always_the_same():
    for size in (1, 5, 101, 50_000):
        ids = fixed_tokens(size)
        assert ids.shape == (1, 8)
        assert 0 <= int(ids.min()) <= int(ids.max()) < size
        assert torch.equal(ids, fixed_tokens(size))
    assert len(set(fixed_tokens(50_000)[0].tolist())) == 8


def test_a_bare_pass_sees_what_the_model_does_without_hooks(llama):
    names = [SOURCE, TARGET]
    with torch.no_grad():
        ids = fixed_tokens(int(llama.cfg.d_vocab))
        _, cache = llama.run_with_cache(ids)
    with ts.perturbing(llama, edits(llama, 1, source=SOURCE)):
        seen, logits = bare_pass(llama, names, return_type="logits")
        # For this run is not the one that was to be steered.
        with torch.no_grad():
            llama(ids)
    assert logits.shape == (1, 8, 101)
    for name in names:
        torch.testing.assert_close(seen[name], cache[name])
    with pytest.raises(ModelError, match="did not fire in a plain forward pass"):
        bare_pass(llama, ["blocks.0.attn.hook_result"])


def test_models_say_their_device_dtype_and_name():
    model = host(1).double()
    assert (device_of(model), dtype_of(model)) == (torch.device("cpu"), torch.float64)
    assert model_name(model) == "linear"
    model.cfg.model_name = ""
    assert model_name(model) == "LinearHost"
    empty = host(1)
    empty.parameters = lambda: iter(())
    assert (device_of(empty), dtype_of(empty)) == (torch.device("cpu"), torch.float32)


# --- linear maps


def bent(bend, at=1):
    model = host(1, 1, 1)
    model.blocks[at].function = bend
    return model


@pytest.mark.parametrize(
    ("bend", "reason"),
    [
        (lambda x: 3 * x + 1, None),
        (lambda x: x + 0.001 * x.square(), None),
        (lambda x: x + x.square(), "not the output of a linear map"),
        (lambda x: x / x.norm(dim=-1, keepdim=True).clamp_min(1e-6), "not the output of a linear"),
        (torch.ones_like, "does not depend on what is put in"),
    ],
)
def test_a_map_is_linear_where_equal_steps_in_give_equal_steps_out(bend, reason):
    model = bent(bend)
    pair = ("blocks.1.hook_resid_pre", "blocks.1.hook_resid_post")
    found = departures(model, [pair])
    if reason is None:
        assert found == {}
        refuse_nonlinear(model, [pair])
    else:
        assert reason in found[pair]
        with pytest.raises(HookPointError, match=reason):
            refuse_nonlinear(model, [pair])


def test_points_that_are_not_there_or_do_not_fire_are_named():
    model = host(1, 1)
    known = "blocks.0.hook_resid_pre"
    pairs = [(known, "nowhere"), ("elsewhere", known), (known, "blocks.0.hook_resid_post")]
    found = departures(model, pairs)
    assert list(found) == pairs[:2]
    assert "no hook point nowhere" in found[pairs[0]]
    assert "no hook point elsewhere" in found[pairs[1]]
    model.blocks[1].forward = lambda residual: residual
    silent = ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_post")
    assert "blocks.1.hook_resid_post did not fire" in departures(model, [silent])[silent]
    back = ("blocks.1.hook_resid_post", "blocks.0.hook_resid_post")
    assert "blocks.1.hook_resid_post did not fire" in departures(model, [back])[back]


# --- who may be steered


def test_rows_that_name_no_vector_are_refused(one):
    tokens = ts.tokenize(one, PROMPTS[:2])
    some = edits(one, 2, source=SOURCE)
    with pytest.raises(ShapeError, match=r"names vector 2, but there are 2"):
        with ts.perturbing(one, some, rows=torch.tensor([0, 2]), tokens=tokens):
            pass
    with ts.perturbing(one, some, rows=torch.tensor([0, 1]), tokens=tokens):
        with torch.no_grad():
            one(tokens.ids)


# --- heads


def no_heads_yet(vec, layers, heads, *, most, pos=5):
    return Heads(
        torch.full((vec, layers, heads), torch.nan),
        torch.full((vec + 1, layers, heads, pos), torch.nan),
        most=most,
    )


def test_the_heads_that_change_most_are_kept_over_all_layers():
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(2, 3, 4, 5, 5, generator=generator).softmax(dim=-1)  # layer run head
    heads = no_heads_yet(2, 2, 4, most=3)
    for layer in range(2):
        heads.look(layer, patterns[layer])
    moved = (patterns[:, 1:] - patterns[:, :1]).abs().sum(dim=-1).mean(dim=-1) / 2
    torch.testing.assert_close(heads.change, moved.transpose(0, 1))
    before, after = heads.last_rows().unbind(dim=3)
    rows = patterns[..., -1, :].transpose(0, 1)  # run layer head src
    torch.testing.assert_close(before, rows[:1].expand(2, -1, -1, -1), atol=1e-3, rtol=0)
    torch.testing.assert_close(after, rows[1:], atol=1e-3, rtol=0)
    places, both = heads.kept()
    assert places.shape == (2, 3, 2)
    for v in range(2):
        ranked = sorted(
            ((layer, head) for layer in range(2) for head in range(4)),
            key=lambda at: -float(moved[at[0], v, at[1]]),
        )
        assert [tuple(at) for at in places[v].tolist()] == ranked[:3]
        for (layer, head), pair in zip(ranked, both[v], strict=False):
            torch.testing.assert_close(pair[0].float(), patterns[layer, 0, head], atol=1e-3, rtol=0)
            torch.testing.assert_close(
                pair[1].float(), patterns[layer, v + 1, head], atol=1e-3, rtol=0
            )


def test_where_no_head_is_wanted_or_there_is_none_nothing_is_kept():
    nothing = no_heads_yet(2, 1, 4, most=2)
    places, both = nothing.kept()
    assert (places.shape, both.shape) == ((2, 0, 2), (2, 0, 2, 0, 0))
    unwanted = no_heads_yet(2, 1, 4, most=0)
    unwanted.look(0, torch.rand(3, 4, 5, 5))
    assert unwanted.kept()[0].shape == (2, 0, 2)
    assert not bool(unwanted.change.isnan().any())
