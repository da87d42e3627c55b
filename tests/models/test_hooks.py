"""Hooks act where they should, and nothing stays behind. One test per trap of the libraries
below."""

import inspect
import typing
from types import SimpleNamespace

import pytest
import torch
from conftest import HAS_BRIDGE, PROMPTS, SOURCE, TARGET, bank_of, bridge, tokenizer
from families import FAMILIES
from state import snapshot

import tl_steer as ts
from tl_steer.errors import HookPointError, SettingError, ShapeError
from tl_steer.models.hooks import capturing, installed, perturbing
from tl_steer.models.lookup import resolve
from tl_steer.models.state import frozen


def vector(model, name=SOURCE, n=1, **knobs):
    site = ts.models.resolve(model, name)
    generator = torch.Generator().manual_seed(2)
    return ts.Additive.random(site, n, radius=2.0, generator=generator, **knobs)


def logits(model, ids, **knobs):
    with torch.no_grad():
        return model(ids, **knobs).float()


def test_models_are_known_by_what_they_answer_to_as_python_3_12_looks_at_protocols(
    model, monkeypatch
):
    """Its check calls no `__getattr__`, through which torch finds a model's blocks."""

    def statically(instance, name):
        return inspect.getattr_static(instance, name, None) is not None

    monkeypatch.setattr(typing, "hasattr", statically, raising=False)
    assert isinstance(model, ts.models.HookedModel)
    assert not isinstance(torch.nn.Linear(2, 2), ts.models.HookedModel)
    needs = ("cfg", "hook_dict", "blocks", "to_tokens", "parameters")
    assert not isinstance(SimpleNamespace(**dict.fromkeys(needs)), ts.models.HookedModel)

    class Declared(ts.models.HookedModel):
        pass

    assert isinstance(Declared(), Declared)
    assert not isinstance(model, Declared)


def test_perturbing_adds_the_vector_and_takes_it_off_again(model):
    ids = ts.tokenize(model, PROMPTS[:1]).ids
    before, clean = snapshot(model), logits(model, ids)
    edit = vector(model)
    with capturing(model, [SOURCE]) as unsteered, torch.no_grad():
        model(ids)
    with perturbing(model, edit), capturing(model, [SOURCE]) as steered, torch.no_grad():
        model(ids)
    added = steered[SOURCE] - unsteered[SOURCE]
    torch.testing.assert_close(
        added, edit.vectors[0].detach().expand_as(added), atol=1e-5, rtol=1e-4
    )
    assert snapshot(model) == before
    assert torch.equal(logits(model, ids), clean)


def test_hooks_are_data_for_run_with_hooks(model):
    ids = ts.tokenize(model, PROMPTS[:1]).ids
    edit = vector(model)
    with perturbing(model, edit):
        expected = logits(model, ids)
    with torch.no_grad():
        got = model.run_with_hooks(ids, fwd_hooks=edit.hooks())
    assert torch.equal(got.float(), expected)
    assert not torch.allclose(expected, logits(model, ids), atol=1e-3)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_inside_leaves_no_hook(model, error):
    before = snapshot(model)
    with pytest.raises(error), perturbing(model, vector(model)), capturing(model, [SOURCE]):
        raise error
    with pytest.raises(error), frozen(model):
        raise error
    assert snapshot(model) == before


def test_hooks_of_the_user_stay_in_their_order(model):
    calls = []
    model.hook_dict[SOURCE].add_hook(lambda t, hook: calls.append("user"))
    before = snapshot(model)
    ids = ts.tokenize(model, PROMPTS[:1]).ids
    with perturbing(model, vector(model)):
        logits(model, ids)
    assert snapshot(model) == before
    assert calls == ["user"]
    model.reset_hooks()


def test_a_failed_installation_leaves_nothing(one):
    before = snapshot(one)
    hooks = [(SOURCE, lambda t, hook: t), ("blocks.99.hook_resid_post", lambda t, hook: t)]
    with pytest.raises(KeyError), installed(one, hooks):
        pass
    assert snapshot(one) == before


def test_an_unknown_hook_point_is_refused_with_the_nearest_names(model):
    with pytest.raises(HookPointError, match="hook_resid_post") as caught:
        resolve(model, "blocks.1.hook_resid_pots")
    assert "Did you mean" in str(caught.value)
    with pytest.raises(HookPointError, match="layers 0 to 3"):
        resolve(model, "blocks.17.hook_resid_post")


def test_points_that_never_fire_are_refused(llama):
    gated = [n for n in llama.hook_dict if n.endswith(("1.attn.hook_result", "1.hook_mlp_in"))]
    assert gated
    for name in gated:
        with pytest.raises(HookPointError, match="never fires"):
            resolve(llama, name)


def test_resid_mid_is_refused_only_where_edits_would_vanish(llama):
    name = "blocks.1.hook_resid_mid"
    views = [n for n, p in llama.hook_dict.items() if n != name and p is llama.hook_dict[name]]
    if views:
        with pytest.raises(HookPointError, match="only a view of another hook point"):
            resolve(llama, name)
    else:
        ids = ts.tokenize(llama, PROMPTS[:1]).ids
        edit = vector(llama, name)
        with perturbing(llama, edit), capturing(llama, ["blocks.1.hook_resid_post"]) as steered:
            logits(llama, ids)
        assert edit.site.kind == "hook_resid_mid"
        assert steered


def test_a_hook_removed_inside_the_block_is_an_error(model):
    ids = ts.tokenize(model, PROMPTS[:1]).ids
    with pytest.raises(HookPointError, match="not steered"), perturbing(model, vector(model)):
        model.reset_hooks()
        logits(model, ids)
    assert model.hook_dict[SOURCE].fwd_hooks == []


def test_names_are_those_asked_for_and_not_the_hook_points_own(model):
    names = ["blocks.1.hook_resid_pre", "blocks.2.hook_mlp_out", SOURCE]
    ids = ts.tokenize(model, PROMPTS[:1]).ids
    with capturing(model, names) as seen:
        logits(model, ids)
    assert set(seen) == set(names)


def test_captured_activations_carry_gradients(model):
    ids = ts.tokenize(model, PROMPTS[:1]).ids
    edit = vector(model)
    with (
        frozen(model),
        perturbing(model, edit),
        capturing(model, ["blocks.3.hook_resid_post"]) as seen,
    ):
        model(ids)
        seen["blocks.3.hook_resid_post"].square().sum().backward()
    assert float(edit.vectors.grad.norm()) > 0
    assert all(p.grad is None for p in model.parameters())


def test_each_row_gets_its_own_vector(model):
    ids = ts.tokenize(model, PROMPTS[:1]).ids
    edit = vector(model, n=3)
    with perturbing(model, edit, rows=torch.tensor([2, 0])):
        together = logits(model, ids.repeat(2, 1))
    for row, chosen in enumerate([2, 0]):
        with perturbing(model, edit.select([chosen])):
            alone = logits(model, ids)[0]
        torch.testing.assert_close(together[row], alone, atol=1e-4, rtol=1e-4)


def test_several_vectors_without_rows_are_refused(one):
    with pytest.raises(SettingError, match=r"bank\[4\]"):
        vector(one, n=3).hooks()
    with (
        pytest.raises(ShapeError, match="2 rows"),
        perturbing(one, vector(one, n=3), rows=torch.tensor([0, 1, 2])),
    ):
        logits(one, ts.tokenize(one, PROMPTS[:1]).ids.repeat(2, 1))


def test_a_vector_of_the_wrong_width_is_refused(one):
    site = ts.hook_points.Site(SOURCE, 1, "hook_resid_post", 7)
    with (
        pytest.raises(ShapeError, match="24 wide"),
        perturbing(one, ts.Additive(site, torch.ones(1, 7))),
    ):
        pass
    with pytest.raises(ShapeError, match=r"\(1, 5\) do not fit"):
        ts.Additive(site, torch.ones(1, 5))


@pytest.mark.skipif(not HAS_BRIDGE, reason="only the bridge makes this model")
def test_the_width_of_hook_z_is_the_models_own_whatever_its_config_says():
    """DeepSeek's values are wider than its queries without the rotary part, which `d_head` is."""
    from transformer_lens.model_bridge import TransformerBridge

    module = FAMILIES["deepseek3"].make()
    deepseek = TransformerBridge.boot_transformers("t", hf_model=module, tokenizer=tokenizer())
    site = resolve(deepseek, "blocks.1.attn.hook_z")
    assert site.width == 3 * 6  # heads, and the width of one's values
    bank = ts.elicit(
        deepseek, PROMPTS[:1], source=site.name, target=TARGET, n=2, radius=3.0, progress=False
    )
    with ts.perturbing(deepseek, bank[0]), torch.no_grad():
        assert deepseek(deepseek.to_tokens(PROMPTS[0])).isfinite().all()


def test_hook_z_is_steered_as_one_width(model):
    name = "blocks.1.attn.hook_z"
    site = ts.models.resolve(model, name)
    ids = ts.tokenize(model, PROMPTS[:1]).ids
    with capturing(model, [name]) as clean:
        logits(model, ids)
    edit = vector(model, name)
    with perturbing(model, edit), capturing(model, [name]) as steered:
        logits(model, ids)
    added = (steered[name] - clean[name]).flatten(2)
    assert site.width == 24
    torch.testing.assert_close(
        added, edit.vectors[0].detach().expand_as(added), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (ts.Positions(last=1), [0, 0, 0, 1, 1, 1]),
        (ts.Positions(last=0), [0, 0, 0, 0, 1, 1]),
        (ts.Positions(last=2, generated=False), [0, 0, 1, 1, 0, 0]),
        (ts.Positions(bos=False), [0, 1, 1, 1, 1, 1]),
    ],
)
def test_positions_hold_during_generation(llama, cached, positions, expected):
    tokens = ts.tokenize(llama, ["t5 t9 t30"])
    edited = []
    edit = vector(llama, positions=positions)

    def compare(activation, hook):
        if edited and activation.shape[1] > 1:
            edited.clear()
        edited.extend(((activation - before[-1]).norm(dim=-1)[0] > 1e-3).int().tolist())

    before = []
    with (
        installed(llama, [(SOURCE, lambda t, hook: before.append(t.clone()))]),
        perturbing(llama, edit, tokens=tokens),
        installed(llama, [(SOURCE, compare)]),
    ):
        llama.generate(
            tokens.ids,
            max_new_tokens=3,
            do_sample=False,
            stop_at_eos=False,
            use_past_kv_cache=cached,
            verbose=False,
        )
    # The last generated token is never fed back, so 4 prompt tokens and 2 generated ones were seen.
    assert edited == expected


def test_a_one_token_prompt_is_told_from_generated_tokens(one):
    tokens = ts.tokenize(one, [torch.tensor([5])])
    edit = vector(one, positions=ts.Positions(last=0))
    hook = edit.hooks(prompt=tokens.select(edit.positions))[0][1]
    x = torch.zeros(1, 1, 24)
    assert hook(x).norm().item() == 0
    assert hook(x).norm().item() == pytest.approx(2.0, rel=1e-4)


def test_a_choice_of_tokens_needs_the_prompt(one):
    edit = vector(one, positions=ts.Positions(last=2))
    with pytest.raises(SettingError, match="tokens=tokenize"):
        edit.hooks()
    tokens = ts.tokenize(one, PROMPTS[:1])
    with pytest.raises(ShapeError, match="pass the prompts"), perturbing(one, edit, tokens=tokens):
        logits(one, tokens.ids[:, :3])


def test_frozen_restores_flags_that_differ_and_works_without_gradients(model):
    parameters = list(model.parameters())
    parameters[1].requires_grad_(False)
    model.train()
    try:
        before = snapshot(model)
        with torch.no_grad(), frozen(model):
            assert torch.is_grad_enabled()
            assert not any(p.requires_grad for p in model.parameters())
            assert not any(m.training for m in model.modules())
        assert snapshot(model) == before
    finally:
        parameters[1].requires_grad_(True)
        model.eval()


def test_a_perturbation_is_never_put_on_the_model(model):
    names = [name for name, _ in model.named_parameters()]
    with perturbing(model, vector(model)):
        assert [name for name, _ in model.named_parameters()] == names


def test_compatibility_mode_steers_alike():
    if not HAS_BRIDGE:
        pytest.skip("compatibility mode is TransformerBridge's")
    ids = torch.tensor([[0, 8, 12, 33]])
    raw, compatible = bridge("llama"), bridge("llama", compatibility=True)
    outputs = []
    for model in (raw, compatible):
        with perturbing(model, vector(model)):
            outputs.append(torch.log_softmax(logits(model, ids), dim=-1))
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-4)


def test_whatever_gives_a_perturbation_for_this_model_can_steer_it(one):
    bank, asked = bank_of(one), []

    class Own:
        def for_model(self, model):
            asked.append(model)
            return bank[1].perturbation()

    ids = ts.tokenize(one, PROMPTS[:1]).ids
    with torch.no_grad():
        with ts.perturbing(one, bank[1]):
            expected = one(ids)
        with ts.perturbing(one, Own()):
            assert torch.equal(one(ids), expected)
    assert asked == [one]


def test_a_model_is_known_without_making_its_table_of_hook_points(one):
    made = []

    class Counting(type(one)):
        @property
        def hook_dict(self):
            made.append(1)
            return super().hook_dict

    model = object.__new__(Counting)
    model.__dict__.update(vars(one))
    assert isinstance(model, ts.models.HookedModel)
    assert made == []


def test_what_was_opened_without_with_says_so(one):
    steered = ts.perturbing(one, vector(one))
    with pytest.raises(AttributeError, match=r"write `with \.\.\. as model:`"):
        steered.generate("t1")


def test_one_head_is_captured_by_its_name(one):
    ids = ts.tokenize(one, PROMPTS[:1]).ids
    whole, name = "blocks.1.attn.hook_z", "blocks.1.attn.hook_z[2]"
    with capturing(one, [whole, name]) as seen, torch.no_grad():
        one(ids)
    assert torch.equal(seen[name], seen[whole][:, :, 2])
    with pytest.raises(HookPointError, match="heads 0 to 2"), capturing(one, [f"{whole}[3]"]):
        pass
