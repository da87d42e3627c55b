"""An adapter through hooks is the same thing as an adapter added to the weights."""

import contextlib
import dataclasses
import json

import pytest
import torch
from conftest import KINDS, PROMPTS, TARGET, make
from linear import LinearHost
from torch import nn

import tl_steer as ts
from tl_steer.elicitation.start import Adapters, own_output
from tl_steer.errors import BankFileError, HookPointError, SettingError, ShapeError
from tl_steer.models.hooks import capturing, perturbing
from tl_steer.models.linear_map import departures
from tl_steer.models.state import frozen
from tl_steer.objectives.objective import Objective
from tl_steer.perturbations.adapter import Adapter

LONG = [PROMPTS[0], PROMPTS[2]]
SOURCES = {"mlp": "blocks.1.hook_mlp_out", "attn": "blocks.1.hook_attn_out"}
# The name of each map's weight in the model's own parameters, class by class.
WEIGHTS = {
    "mlp": ("W_out", "down_proj", "c_proj", "dense_4h_to_h"),
    "attn": ("W_O", "o_proj", "attn.o", "attention.o"),
}
POST_NORM_ONLY = ("hooked-gemma2",)


def segment_of(model, map_="mlp", target=TARGET, prompts=PROMPTS):
    return ts.Segment(model, ts.tokenize(model, prompts), SOURCES[map_], target)


def adapters(segment, n=3, rank=2, layers=(1, 2), radius=0.7, seed=4, **kwargs):
    positions = kwargs.get("positions", ts.Positions())
    return Adapters(rank=rank, layers=layers)(segment, n, radius, seed, positions)


@pytest.fixture(params=["mlp", "attn"])
def map_(request):
    return request.param


@pytest.fixture(params=[name for name in KINDS if name not in POST_NORM_ONLY])
def adaptable(request):
    return make(request.param)


def module_with_weight(model, layer, map_):
    for name, parameter in model.named_parameters():
        plain = name.replace("._original_component", "").removesuffix(".weight")
        if f".{layer}." in plain and plain.endswith(WEIGHTS[map_]):
            owners = [m for m in model.modules() if parameter is m._parameters.get("weight")]
            return owners[0] if owners else None, parameter
    raise AssertionError(f"no weight for {map_} in layer {layer}")


@contextlib.contextmanager
def merged(model, map_, changes):
    """The model with the changes added to its weights, by hand."""
    kept = []
    try:
        for layer, change in changes.items():
            owner, weight = module_with_weight(model, layer, map_)
            kept.append((weight, weight.detach().clone()))
            change = change.T if isinstance(owner, nn.Linear) else change  # else [in, out]
            with torch.no_grad():
                weight += change.reshape(weight.shape)
        yield
    finally:
        with torch.no_grad():
            for weight, before in kept:
                weight.copy_(before)


def logits(model, ids):
    with torch.no_grad():
        return model(ids).float()


def test_hooks_equal_an_adapter_added_to_the_weights(adaptable, map_):
    adapter = adapters(segment_of(adaptable, map_))
    ids = ts.tokenize(adaptable, PROMPTS[:1]).ids
    clean = logits(adaptable, ids)
    for row in range(len(adapter)):
        with merged(adaptable, map_, adapter.weight_changes(row)):
            expected = logits(adaptable, ids)
        with perturbing(adaptable, adapter.select([row])):
            got = logits(adaptable, ids)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(expected, clean, atol=1e-2)
    assert torch.equal(logits(adaptable, ids), clean)


def test_weight_changes_are_r_times_b_a_transposed(one):
    adapter = adapters(segment_of(one), n=2, rank=3, radius=1.7)
    for index, (layer, change) in enumerate(adapter.weight_changes(1).items()):
        a, b = adapter.reads.detach()[1, index], adapter.writes.detach()[1, index]
        slowly = sum(1.7 * torch.outer(a[r], b[r]) for r in range(3))
        torch.testing.assert_close(change, slowly)
        assert layer == (1, 2)[index]


def test_a_segment_equals_the_merged_model_for_every_vector_and_prompt(adaptable, map_):
    segment = segment_of(adaptable, map_)
    adapter = adapters(segment)
    with torch.no_grad():
        steered = segment.run(adapter)
    for row in range(len(adapter)):
        with merged(adaptable, map_, adapter.weight_changes(row)):
            for prompt, text in enumerate(PROMPTS):
                ids = ts.tokenize(adaptable, [text]).ids
                with capturing(adaptable, [TARGET]) as seen:
                    logits(adaptable, ids)
                got = steered[row, prompt, : ids.shape[1]]
                torch.testing.assert_close(got, seen[TARGET][0], atol=1e-5, rtol=1e-4)


def test_together_equals_one_at_a_time(adaptable, map_):
    segment = segment_of(adaptable, map_)
    adapter = adapters(segment, n=4)
    with torch.no_grad():
        together = segment.run(adapter)
        alone = torch.cat([segment.run(adapter.select([i])) for i in range(4)])
    real = segment.mask
    torch.testing.assert_close(together[:, real], alone[:, real], atol=1e-5, rtol=1e-4)


def test_zero_factors_change_nothing(adaptable, map_):
    segment = segment_of(adaptable, map_)
    adapter = adapters(segment, n=1)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.zero_()
        steered = segment.run(adapter)
    real = segment.mask
    torch.testing.assert_close(steered[0, real], segment.clean[real], atol=1e-5, rtol=1e-5)


# Hugging Face's Llama computes its norms in float32, whatever the model's dtype.
DOUBLES = [name for name in KINDS if name in ("bridge-gpt2", "hooked-gpt2", "hooked-llama")]


@pytest.mark.parametrize("name", DOUBLES)
def test_gradients_equal_finite_differences(name, map_):
    model = KINDS[name](dtype=torch.float64)
    with frozen(model):
        segment = segment_of(model, map_, prompts=PROMPTS[:2])
        adapter = adapters(segment, n=2, rank=2)
        objective = Objective(segment, ts.objectives.Displacement(), segment.tokens.select(LAST))
        gradients = objective(adapter).gradients
        step, generator = 1e-5, torch.Generator().manual_seed(0)
        for k, parameter in enumerate(adapter.parameters()):
            assert parameter.dtype == torch.float64
            direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            values = []
            for sign in (1, -1):
                moved = adapter.select(slice(None))
                with torch.no_grad():
                    list(moved.parameters())[k].add_(sign * step * direction)
                values.append(objective(moved, gradient=False).value)
            finite = (values[0] - values[1]) / (2 * step)
            exact = (gradients[k] * direction).flatten(1).sum(dim=1)
            torch.testing.assert_close(exact, finite, rtol=1e-5, atol=1e-7)


LAST = ts.Positions(last=1)


@pytest.mark.parametrize("positions", [ts.Positions(last=2), ts.Positions(bos=False)])
def test_only_chosen_tokens_are_edited_in_a_padded_batch(llama, map_, positions):
    segment = segment_of(llama, map_, target="blocks.1.hook_resid_post")
    # One layer, and a target right behind it: a token shows whether it was edited itself.
    adapter = adapters(segment, n=2, layers=(1,), positions=positions)
    with torch.no_grad():
        moved = (segment.run(adapter) - segment.clean).norm(dim=-1) > 1e-4
    expected = segment.tokens.select(positions)
    for row in moved:
        assert torch.equal(row[segment.mask], expected[segment.mask])


@pytest.mark.parametrize(
    ("which", "positions"),
    [("mlp", ts.Positions(last=0)), ("attn", ts.Positions()), ("attn", ts.Positions(last=2))],
)
def test_cached_generation_equals_uncached(llama, which, positions):
    bank = bank_of(llama, which, positions=positions)
    cached = ts.generate(llama, bank, PROMPTS[:1], max_new_tokens=3)
    uncached = ts.generate(llama, bank, PROMPTS[:1], max_new_tokens=3, use_past_kv_cache=False)
    assert cached.texts == uncached.texts
    assert cached.changed() > 0


def bank_of(model, map_="mlp", n=3, **kwargs):
    settings = {"radius": 3.0, "method": ts.methods.Power(steps=2), "progress": False, **kwargs}
    kind = Adapters(rank=1, layers=(1, 2))
    return ts.elicit(
        model, LONG, source=SOURCES[map_], target=TARGET, n=n, perturbation=kind, **settings
    )


def test_greedy_generation_equals_the_merged_models(llama, map_):
    bank = bank_of(llama, map_)
    steered = ts.generate(llama, bank, PROMPTS[:2], max_new_tokens=5)
    tokens = ts.tokenize(llama, PROMPTS[:2])
    for row in range(len(bank)):
        with merged(llama, map_, bank.perturbation().weight_changes(row)):
            expected = [greedily(llama, prompt, 5) for prompt in tokens.rows()]
        assert list(steered.texts[row]) == expected
    assert steered.changed() > 0


def greedily(model, ids, n):
    """Argmax by argmax, each from a whole forward pass, up to the end-of-text token."""
    new = []
    for _ in range(n):
        new.append(
            int(logits(model, torch.cat([ids, torch.tensor(new, dtype=int)])[None])[0, -1].argmax())
        )
        if new[-1] == model.tokenizer.eos_token_id:
            break
    return model.tokenizer.decode(new, skip_special_tokens=True)


def test_project_restores_unit_columns_and_depends_on_direction_alone(one):
    adapter = adapters(segment_of(one))
    before = [p.detach().clone() for p in adapter.parameters()]
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter *= 7
    adapter.project_()
    for parameter, was in zip(adapter.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), was)
        norms = parameter.detach().norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms))


def test_power_climbs_with_a_and_b_together(one, map_):
    with frozen(one):
        segment = segment_of(one, map_, prompts=LONG)
        start = adapters(segment, n=3, rank=1)
        objective = Objective(segment, ts.objectives.Displacement(), segment.tokens.select(LAST))
        before = objective(start, gradient=False).value
        *_, last = ts.methods.Power(steps=8, spread=0)(objective, start)
    assert float(last.value.sum()) > 1.5 * float(before.sum())
    for after, was in zip(last.perturbation.parameters(), start.parameters(), strict=True):
        assert float((after - was).norm()) > 0.1
        torch.testing.assert_close(after.norm(dim=-1), torch.ones_like(after.norm(dim=-1)))


def test_power_keeps_the_best_even_where_spread_costs(one):
    with frozen(one):
        segment = segment_of(one, prompts=LONG)
        start = adapters(segment, n=3, rank=1, layers=(1,))
        objective = Objective(segment, ts.objectives.Displacement(), segment.tokens.select(LAST))
        *_, last = ts.methods.Power(steps=6, spread=1)(objective, start)
        again = objective(last.perturbation, gradient=False).value
    torch.testing.assert_close(again, last.value)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_melbo_climbs_adapters_at_p_4(one, orthogonal):
    with frozen(one):
        segment = segment_of(one, prompts=LONG)
        start = adapters(segment, n=3, rank=2)
        objective = Objective(segment, ts.objectives.Displacement(p=4), segment.tokens.select(LAST))
        first, *_, last = ts.methods.Melbo(steps=10, lr=0.05, orthogonal=orthogonal)(
            objective, start
        )
    assert float(last.value.sum()) > 1.2 * float(first.value.sum())
    for parameter in last.perturbation.parameters():
        norms = parameter.norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms))
        if orthogonal:  # column by column, each vector to those before it
            columns = parameter.flatten(1, 2).transpose(0, 1)
            gram = columns @ columns.transpose(1, 2)
            torch.testing.assert_close(gram, torch.eye(3).expand_as(gram), atol=1e-5, rtol=0)


def test_a_bank_of_adapters_is_saved_and_loaded(one, map_, tmp_path):
    bank = bank_of(one, map_)
    again = ts.load_bank(bank.save(tmp_path / "adapters.safetensors"))
    assert (again.kind, dict(again.form), again.radius) == ("adapter", dict(bank.form), 3.0)
    assert torch.equal(again.vectors, bank.vectors)
    for a, b in zip(again.perturbation().hooks(rows=ROW), bank[:1].hooks(), strict=True):
        assert a[0] == b[0]
    ids = ts.tokenize(one, PROMPTS[:1]).ids
    outputs = []
    for kept in (bank, again):
        with perturbing(one, kept[1]):
            outputs.append(logits(one, ids))
    assert torch.equal(*outputs)


ROW = torch.zeros(1, dtype=torch.long)


def test_a_bank_is_hooks_for_run_with_hooks(one, map_):
    bank = bank_of(one, map_)
    ids = ts.tokenize(one, PROMPTS[:1]).ids
    with perturbing(one, bank[2]):
        expected = logits(one, ids)
    with torch.no_grad():
        assert torch.equal(one.run_with_hooks(ids, fwd_hooks=bank[2].hooks()).float(), expected)


def test_random_controls_have_unit_columns(one):
    control = ts.random_bank(bank_of(one), n=5)
    for factor in control.perturbation().parameters():
        norms = factor.detach().norm(dim=-1)
        assert norms.shape == (5, 2, 1)
        torch.testing.assert_close(norms, torch.ones_like(norms))


def test_adapter_banks_merge_if_they_share_their_one_radius(one):
    bank = bank_of(one)
    assert len(bank.merge(bank)) == 2 * len(bank)
    with pytest.raises(SettingError, match="share one radius"):
        bank.merge(dataclasses.replace(bank, radius=2 * bank.radius))


def test_a_bank_says_what_it_is(one):
    bank = bank_of(one)
    assert bank.radius_share != bank.radius_share
    assert "adapter" in repr(bank)
    assert "nan" not in repr(bank)


@pytest.mark.parametrize("change", [{"rank": 3}, {"layers": [2, 1]}, {"output": "evil"}, {"d": 1}])
def test_a_form_that_does_not_fit_is_refused(one, change):
    bank = bank_of(one)
    with pytest.raises(SettingError):
        dataclasses.replace(bank, form={**bank.form, **change})


def test_a_file_with_a_hostile_form_is_refused(one, tmp_path, monkeypatch):
    bank = bank_of(one)
    meta, tensors = bank.contents()
    for form in ({}, {**bank.form, "layers": "12"}, {**bank.form, "rank": None}, {"layers": {}}):
        hostile = {**meta, "form": form}, tensors
        monkeypatch.setattr(ts.Bank, "contents", lambda _, hostile=hostile: hostile)
        path = bank.save(tmp_path / "hostile.safetensors")
        with pytest.raises(BankFileError):
            ts.load_bank(path)
    assert json.dumps(dict(bank.form))


def test_a_radius_rule_is_refused_and_auto_is_one(one):
    with pytest.raises(SettingError, match="Give a number"):
        bank_of(one, radius=ts.radii.ShareOfNorm(0.1))
    assert bank_of(one, radius="auto").radius == 1


@pytest.mark.parametrize(
    ("kind", "source", "message"),
    [
        (Adapters(layers=(2, 3)), SOURCES["mlp"], "start at 1"),
        (Adapters(layers=(1, 3)), SOURCES["mlp"], "beyond the target"),
        (Adapters(), "blocks.1.hook_resid_post", "not the output of a linear map"),
    ],
)
def test_layers_that_cannot_work_are_refused(one, kind, source, message):
    with pytest.raises(SettingError, match=message):
        ts.elicit(
            one,
            LONG,
            source=source,
            target="blocks.2.hook_resid_post",
            perturbation=kind,
            radius=1.0,
        )


def test_post_norm_models_are_refused_or_edited_before_the_norm(map_):
    names = [name for name in KINDS if name.endswith("gemma2")]
    assert names
    for name in names:
        model = make(name)
        segment = segment_of(model, map_)
        if name in POST_NORM_ONLY:
            with pytest.raises(HookPointError, match="a norm lies between"):
                own_output(segment, (1, 2))
        else:
            assert own_output(segment, (1, 2))[0] == {"mlp": "mlp.hook_out"}.get(
                map_, "attn.hook_out"
            )


def test_an_adapter_made_by_hand_behind_a_norm_is_refused(map_):
    for name in (name for name in KINDS if name.endswith("gemma2")):
        model = make(name)
        segment = segment_of(model, map_)
        d_in = {"mlp": 40, "attn": 24}[map_]
        wrong = Adapter(segment.source, torch.ones(1, 1, 1, d_in), torch.ones(1, 1, 1, 24))
        with pytest.raises(HookPointError, match="a norm lies between"):
            segment.run(wrong)
        with pytest.raises(HookPointError, match="a norm lies between"), perturbing(model, wrong):
            pass


def test_a_map_is_told_from_what_is_none(one):
    right = ("blocks.1.mlp.hook_post", "blocks.1.hook_mlp_out")
    wrong = {
        ("blocks.1.hook_mlp_out", "blocks.1.mlp.hook_post"): "does not depend",  # backwards
        ("blocks.1.attn.hook_z", "blocks.1.hook_resid_post"): "a norm lies between",  # MLP too
        ("blocks.1.nowhere", "blocks.1.hook_mlp_out"): "no hook point blocks.1.nowhere",
    }
    assert departures(one, [right]) == {}
    for pair, reason in wrong.items():
        assert reason in departures(one, [pair])[pair]


def test_an_adapter_outside_the_segment_is_an_error(one):
    segment = segment_of(one)
    late = adapters(segment, layers=(1, 3))
    short = segment_of(one, target="blocks.2.hook_resid_post")
    with pytest.raises(HookPointError, match="never fired"):
        short.run(late)


def test_a_source_behind_a_block_can_run_an_adapter_of_later_layers(one):
    segment = segment_of(one)
    early = ts.Segment(one, segment.tokens, "blocks.0.hook_resid_post", TARGET)
    adapter = adapters(segment)
    with torch.no_grad():
        torch.testing.assert_close(early.run(adapter), segment.run(adapter), atol=1e-5, rtol=1e-4)


def test_a_removed_hook_in_any_layer_is_an_error(one):
    adapter = adapters(segment_of(one), n=1)
    ids = ts.tokenize(one, PROMPTS[:1]).ids
    with pytest.raises(HookPointError, match="Block 2 ran 1 times"), perturbing(one, adapter):
        point = one.hook_dict["blocks.2.hook_mlp_out"]
        point.fwd_hooks.pop().hook.remove()
        logits(one, ids)


def test_stopping_between_the_layers_is_no_error(one):
    adapter = adapters(segment_of(one), n=1)
    ids = ts.tokenize(one, PROMPTS[:1]).ids
    with perturbing(one, adapter), torch.no_grad():
        early = one(ids, stop_at_layer=2)
    assert early.shape == (*ids.shape, 24)


def test_factors_that_do_not_fit_are_refused(one):
    site = ts.models.resolve(one, SOURCES["mlp"])
    with pytest.raises(ShapeError, match="expected"):
        Adapter(site, torch.ones(1, 2, 1, 40), torch.ones(1, 2, 1, 24))
    with pytest.raises(ShapeError, match="wide"):
        Adapter(site, torch.ones(1, 1, 1, 40), torch.ones(1, 1, 1, 23))
    narrow = Adapter(site, torch.ones(1, 1, 1, 39), torch.ones(1, 1, 1, 24))
    with pytest.raises(ShapeError, match="made for 39"), perturbing(one, narrow):
        logits(one, ts.tokenize(one, PROMPTS[:1]).ids)
    with pytest.raises(SettingError, match="both of its hooks"):
        narrow(torch.zeros(1, 2, 24), ROW)


def test_a_model_without_the_maps_hook_points_is_refused():
    host = LinearHost([torch.eye(4), torch.eye(4)])
    site = ts.hook_points.Site("blocks.0.hook_mlp_out", 0, "hook_mlp_out", 4)
    wrong = Adapter(site, torch.ones(1, 1, 1, 4), torch.ones(1, 1, 1, 4))
    with pytest.raises(HookPointError, match="no hook point"), perturbing(host, wrong):
        pass
