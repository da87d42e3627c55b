"""A bank on a plain transformers model: what TransformerLens gives, without it."""

import contextlib
import subprocess
import sys
import textwrap

import pytest
import torch
from conftest import HAS_BRIDGE, PROMPTS
from plain_families import CONFIGS, bridged, fresh, module_at, plain

import tl_steer as ts
from tl_steer.errors import (
    ForeignModelError,
    HookPointError,
    ModelError,
    PromptError,
    SettingError,
    ShapeError,
)
from tl_steer.hook_points import GENERATED, PROMPT
from tl_steer.perturbations import (
    Ablation,
    Additive,
    Clamp,
    Gated,
    MultiSite,
    NormPreserving,
)

# What is installed is compared with the bridge around the same model.
pytestmark = pytest.mark.skipif(not HAS_BRIDGE, reason="this TransformerLens has no bridge")

IDS = torch.tensor([[5, 9, 30, 7, 61], [8, 3, 70, 1, 44]])
POINTS = ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "attn.hook_z")


def rows(width, n=2, *, length=3.0):
    made = torch.randn(n, width, generator=torch.Generator().manual_seed(1))
    return length * made / made.norm(dim=1, keepdim=True)


def bank_at(kind, where="hook_resid_post", *, make=Additive, positions=None):
    model = bridged(kind)
    site = ts.models.resolve(model, f"blocks.1.{where}")
    edits = make(site, rows(site.width))
    if positions is not None:
        edits = edits.at(positions)
    return ts.Bank.from_vectors(model, edits, prompts=PROMPTS[:1], target=3)


@contextlib.contextmanager
def adding(model, kind, where, vector):
    """A vector added by a hook of the test's own; `vector` may be one for each token."""
    module, before = module_at(model, kind, where)

    def behind(_m, _args, out):
        return (out[0] + vector, *out[1:]) if isinstance(out, tuple) else out + vector

    def front(_m, args):
        return (args[0] + vector, *args[1:])

    handle = (
        module.register_forward_pre_hook(front) if before else module.register_forward_hook(behind)
    )
    yield
    handle.remove()


def state_of(model):
    return [
        (list(m._forward_hooks), list(m._forward_pre_hooks), list(m._forward_pre_hooks_with_kwargs))
        for m in model.modules()
    ]


@pytest.mark.parametrize("where", POINTS)
@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_logits_are_the_bridges_and_those_of_a_hook_by_hand(kind, where):
    if (kind, where) == ("opt", "hook_mlp_out"):
        pytest.skip("refused: see below")
    model, bank = plain(kind), bank_at(kind, where)[1]
    clean = model(IDS).logits
    with bank.install(model) as same:
        assert same is model
        found = model(IDS).logits
    with adding(model, kind, where, bank.vectors[0]):
        torch.testing.assert_close(found, model(IDS).logits, rtol=1e-5, atol=1e-5)
    with ts.perturbing(bridged(kind), bank):
        there = bridged(kind)(IDS, attention_mask=torch.ones_like(IDS))
    torch.testing.assert_close(found, there, rtol=1e-5, atol=1e-5)
    assert float((found - clean).abs().max()) > 0.01


EDITS = {
    "additive": Additive,
    "ablation": Ablation,
    "clamp": lambda site, v: Clamp(site, v, radius=2.0),
    "norm_preserving": NormPreserving,
    "gated": lambda site, v: Gated(site, v, v.flip(0), threshold=0.05),
    "multi_site": lambda site, v: MultiSite(
        [
            Additive(site, v),
            Ablation("blocks.2.hook_mlp_out", v),
            Additive("blocks.0.attn.hook_z", v),
        ]
    ),
}


@pytest.mark.parametrize("what", EDITS)
@pytest.mark.parametrize("kind", ["gpt2", "olmo2"])
@torch.no_grad()
def test_every_kind_acts_as_it_does_in_transformer_lens(kind, what):
    model, bank = plain(kind), bank_at(kind, make=EDITS[what])
    which = torch.tensor([1, 0])
    with bank.install(model, rows=which, scale=[0.5, 1.5]):
        found = model(IDS).logits
    with ts.perturbing(bridged(kind), bank, rows=which, scale=[0.5, 1.5]):
        there = bridged(kind)(IDS, attention_mask=torch.ones_like(IDS))
    torch.testing.assert_close(found, there, rtol=1e-5, atol=1e-5)
    assert float((found - model(IDS).logits).abs().max()) > 0.01


@pytest.mark.parametrize("source", ["hook_mlp_out", "hook_attn_out"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "neox", "gemma2", "olmo2"])
@torch.no_grad()
def test_adapters_change_the_last_map_of_a_part(kind, source):
    """Compared with the weights changed by hand."""
    bank = ts.elicit(
        bridged(kind),
        PROMPTS[:1],
        source=f"blocks.1.{source}",
        target=3,
        n=1,
        radius=2.0,
        perturbation=ts.elicitation.Adapters(),
        progress=False,
    )
    model, changed = plain(kind), fresh(kind)
    with bank.install(model):
        found = model(IDS).logits
    reads = {"hook_mlp_out": "mlp.hook_post", "hook_attn_out": "attn.hook_z"}[source]
    weight = module_at(changed, kind, reads)[0].weight
    change = bank.perturbation().weight_changes(0)[1]
    weight += change if kind == "gpt2" else change.T
    torch.testing.assert_close(found, changed(IDS).logits, rtol=1e-4, atol=2e-5)
    assert float((found - model(IDS).logits).abs().max()) > 1e-3


def strengths(positions, length, total, *, bos):
    """How strongly each token of a text is edited, as `Positions` says it, one by one."""
    out = []
    for place in range(total):
        there = positions.generated
        if place < length:
            there = positions.last is None or place >= length - positions.last
            there = there and (positions.bos or place > 0 or not bos)
        there = there and place >= positions.start
        known = positions.weights[place] if place < len(positions.weights) else 1.0
        decay = positions.decay ** max(0, place - length + 1)
        out.append(float(there) * known * decay)
    return torch.tensor(out)


CHOICES = [
    PROMPT,
    GENERATED,
    ts.Positions(last=2),
    ts.Positions(start=2),
    ts.Positions(bos=False),
    ts.Positions(weights=(0.5, 2.0)),
    ts.Positions(decay=0.5),
    ts.Positions(last=1, decay=0.8, weights=(3.0,), generated=True),
]


@pytest.mark.parametrize("positions", CHOICES, ids=str)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@torch.no_grad()
def test_cached_generation_of_left_padded_prompts_edits_the_tokens_that_are_chosen(kind, positions):
    """Each prompt alone, without padding and without a cache, under a hook by hand."""
    model, bank = plain(kind), bank_at(kind)[0]
    prompts = [[0, 9, 30, 7, 61], [8, 3]]  # 0 is BOS
    ids = torch.tensor([prompts[0], [1, 1, 1, *prompts[1]]])
    mask = torch.tensor([[1] * 5, [0, 0, 0, 1, 1]])
    with bank.install(model, positions=positions):
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=4,
            min_new_tokens=4,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    for row, prompt in enumerate(prompts):
        for step in range(4):
            text = torch.tensor([prompt + made.sequences[row, 5 : 5 + step].tolist()])
            share = strengths(positions, len(prompt), text.shape[1], bos=prompt[0] == 0)
            with adding(model, kind, "hook_resid_post", share[:, None] * bank.vectors[0]):
                alone = model(text).logits[0, -1]
            torch.testing.assert_close(made.logits[step][row], alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_block_takes_one_batch_of_prompts_after_another():
    model, bank = plain("llama"), bank_at("llama", positions=ts.Positions(last=1))[0]
    with bank.install(model):
        model(IDS)
        model.generate(IDS[:1], attention_mask=torch.ones(1, 5).long(), max_new_tokens=3)
        found = model(IDS[:, :3]).logits
    share = torch.tensor([0.0, 0.0, 1.0])[:, None]
    with adding(model, "llama", "hook_resid_post", share * bank.vectors[0]):
        torch.testing.assert_close(found, model(IDS[:, :3]).logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_right_padding_is_told_by_the_mask_too():
    model, bank = plain("llama"), bank_at("llama", positions=ts.Positions(last=1))[0]
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    share = torch.tensor([[0.0, 0, 0, 0, 1], [0, 1, 0, 0, 0]])[..., None]
    with bank.install(model):
        found = model(IDS, mask).logits[mask.bool()]
        with pytest.raises(PromptError, match="padded on the right"):
            model.generate(IDS, attention_mask=mask, max_new_tokens=2)
    with adding(model, "llama", "hook_resid_post", share * bank.vectors[0]):
        there = model(IDS, mask).logits[mask.bool()]
    torch.testing.assert_close(found, there, rtol=1e-5, atol=1e-5)


def test_what_may_be_a_prompt_or_generated_is_refused():
    model, bank = plain("llama"), bank_at("llama", positions=PROMPT)[0]
    asked = {"attention_mask": torch.ones(1, 5).long(), "do_sample": False, "max_new_tokens": 3}
    with bank.install(model), pytest.raises(PromptError, match="use_cache=True"):
        model.generate(IDS[:1], use_cache=False, **asked)
    cache = model(IDS, use_cache=True).past_key_values
    with bank.install(model), pytest.raises(PromptError, match="filled before this block"):
        model(IDS[:, :1], past_key_values=cache)
    with bank.install(model):
        cache = model(IDS, use_cache=True).past_key_values
        with pytest.raises(PromptError, match="5 tokens at once behind a cache"):
            model(IDS, past_key_values=cache)
    embedded = model.get_input_embeddings()(IDS)
    with bank.install(model), pytest.raises(PromptError, match="token ids"):
        model(inputs_embeds=embedded)
    with bank.install(model), pytest.raises(PromptError, match=r"\[2, 1, 5, 5\]"):
        model(IDS, attention_mask=torch.zeros(2, 1, 5, 5))
    with bank.install(model), pytest.raises(PromptError, match="nothing but padding"):
        model(IDS, attention_mask=torch.tensor([[1] * 5, [0] * 5]))


@torch.no_grad()
def test_a_pass_that_was_refused_says_nothing_of_the_next():
    bank = bank_at("llama", positions=ts.Positions(start=3))[0]
    model = plain("llama")
    with bank.install(model):
        with pytest.raises(PromptError, match="padding"):
            model(IDS, attention_mask=torch.tensor([[1] * 5, [0] * 5]))
        found = model.model(IDS).last_hidden_state  # as a wrapper calls it
        with pytest.raises(PromptError, match="padding"):
            model(IDS, attention_mask=torch.tensor([[1] * 5, [0] * 5]))
        same = model.model(IDS, attention_mask=torch.ones_like(IDS)).last_hidden_state
        embedded = model.get_input_embeddings().weight[IDS]
        with pytest.raises(PromptError, match="token ids"):
            model(inputs_embeds=embedded, attention_mask=torch.tensor([[1] * 5, [0, 0, 1, 1, 1]]))
        again = model(IDS, output_hidden_states=True).hidden_states[-1]
    share = torch.tensor([0.0, 0, 0, 1, 1])[:, None]
    with adding(model, "llama", "hook_resid_post", share * bank.vectors[0]):
        there = model.model(IDS).last_hidden_state
    torch.testing.assert_close(found, there, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(same, there, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again, there, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_model_is_as_before_after_errors_too_and_banks_nest():
    model, bank = plain("gpt2"), bank_at("gpt2")
    other = bank_at("gpt2", "hook_mlp_out")
    before, clean = state_of(model), model(IDS).logits
    with pytest.raises(ZeroDivisionError), bank[0].install(model):
        raise ZeroDivisionError
    with other[1].install(model), bank[0].install(model):
        found = model(IDS).logits
    with (
        adding(model, "gpt2", "hook_mlp_out", other.vectors[1]),
        adding(model, "gpt2", "hook_resid_post", bank.vectors[0]),
    ):
        torch.testing.assert_close(found, model(IDS).logits, rtol=1e-5, atol=1e-5)
    assert state_of(model) == before
    assert torch.equal(model(IDS).logits, clean)


@torch.no_grad()
def test_a_hook_of_ones_own_inside_of_a_block_makes_no_other_model_of_it():
    model, bank = plain("gpt2"), bank_at("gpt2")[0]
    norm = model.transformer.h[0].ln_2
    handle = norm.register_forward_hook(lambda _m, _args, out: 5 * out)
    with bank.install(model):
        found = model(IDS).logits
    with adding(model, "gpt2", "hook_resid_post", bank.vectors[0]):
        torch.testing.assert_close(found, model(IDS).logits, rtol=1e-5, atol=1e-5)
    handle.remove()


def test_a_hook_that_somebody_takes_off_is_noticed():
    model, bank = plain("gpt2"), bank_at("gpt2")[0]
    with pytest.raises(HookPointError, match="fired 0 times"), bank.install(model):
        model.transformer.h[1]._forward_hooks.popitem(last=False)
        model(IDS)


def test_models_that_the_bank_was_not_made_for_are_refused_with_the_reason():
    bank = bank_at("llama")[0]
    with pytest.raises(ForeignModelError, match="other residual streams"):
        bank.install(fresh("llama", seed=1)).__enter__()
    wider = CONFIGS["llama"]()
    wider.vocab_size = 50
    import transformers

    with pytest.raises(ForeignModelError, match="d_vocab 101, this one 50"):
        bank.install(transformers.AutoModelForCausalLM.from_config(wider)).__enter__()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda: "gpt2", "str is no model of transformers"),
        (lambda: torch.nn.Linear(2, 2), "Linear is no model"),
        (lambda: bridged("llama"), r"use tl_steer\.perturbing"),
        (lambda: encoder_decoder(), "two stacks"),
        (lambda: without_blocks(), "0 lists"),
    ],
)
def test_what_is_no_plain_decoder_is_refused(given, words):
    with pytest.raises(ModelError, match=words), bank_at("llama")[0].install(given()):
        pass


def encoder_decoder():
    import transformers

    config = transformers.T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=1, vocab_size=20)
    return transformers.T5ForConditionalGeneration(config)


def without_blocks():
    model = fresh("llama")
    del model.model.layers[0]
    return model


def test_points_that_a_plain_model_does_not_have_are_refused_with_those_that_it_has():
    with (
        pytest.raises(HookPointError, match=r"attn\.hook_q cannot.*blocks\.1\.hook_resid_pre"),
        bank_at("llama", "attn.hook_q")[0].install(plain("llama")),
    ):
        pass


def test_prompts_and_tokens_in_one_axis_are_refused():
    with (
        pytest.raises(HookPointError, match="one axis"),
        bank_at("opt", "hook_mlp_out")[0].install(plain("opt")),
    ):
        pass


def test_a_block_that_scales_what_it_adds_has_no_such_point():
    import transformers

    config = transformers.GraniteConfig(**CONFIGS["llama"]().to_dict() | {"model_type": "granite"})
    config.residual_multiplier = 0.5
    model = transformers.AutoModelForCausalLM.from_config(config)
    from tl_steer.models.plain import PlainModel
    from tl_steer.models.plain_parts import find_parts

    found = PlainModel(model)
    find_parts(found)
    assert {n.split(".", 2)[2] for n in found.hook_dict} == {"hook_resid_pre", "hook_resid_post"}


def test_several_vectors_want_rows_and_rows_that_there_are():
    bank = bank_at("llama")
    with pytest.raises(SettingError, match="rows="), bank.install(plain("llama")):
        pass
    wrong = torch.tensor([0, 2])
    with pytest.raises(ShapeError, match="vector 2"), bank.install(plain("llama"), rows=wrong):
        pass


@torch.no_grad()
def test_what_wraps_a_model_generates_with_what_it_wraps():
    peft = pytest.importorskip("peft")
    bank = bank_at("llama", positions=ts.Positions(last=1, generated=False))[0]
    config = peft.LoraConfig(r=1, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(fresh("llama"), config).eval()  # B = 0: the same model
    ids = torch.tensor([[1, 1, 5, 9]])
    mask = torch.tensor([[0, 0, 1, 1]])
    asked = {"attention_mask": mask, "max_new_tokens": 3, "do_sample": False}
    asked |= {"return_dict_in_generate": True, "output_logits": True}
    with bank.install(model):
        wrapped = model.generate(input_ids=ids, **asked)
    with bank.install(plain("llama")):
        bare = plain("llama").generate(input_ids=ids, **asked)
    torch.testing.assert_close(torch.stack(wrapped.logits), torch.stack(bare.logits))


def test_there_is_no_transformer_lens_in_the_process(tmp_path):
    bank_at("llama").save(tmp_path / "bank.safetensors")
    plain("llama").save_pretrained(tmp_path / "model")
    code = f"""
        import sys
        import torch
        from transformers import AutoModelForCausalLM
        import tl_steer as ts

        model = AutoModelForCausalLM.from_pretrained({str(tmp_path / "model")!r})
        bank = ts.load_bank({str(tmp_path / "bank.safetensors")!r})
        ids = torch.tensor([[5, 9, 30]])
        clean = model(ids).logits
        with bank[0].install(model, positions=ts.Positions(last=1)):
            assert not torch.equal(model(ids).logits, clean)
            model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3)
        assert torch.equal(model(ids).logits, clean)
        assert "transformer_lens" not in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
