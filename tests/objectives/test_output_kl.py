"""KL at the output is that of the model's own logits; weighted divergences equal their parts."""

import importlib
import math

import conftest
import numpy as np
import pytest
import torch
from conftest import KINDS, PROMPTS, SOURCE, TARGET
from hypothesis import given, settings, strategies as st
from linear import LinearHost

import tl_steer as ts
from tl_steer.errors import ModelError, SettingError
from tl_steer.files.describe import describe
from tl_steer.models.hooks import installed, perturbing
from tl_steer.models.state import frozen
from tl_steer.objectives.divergence import Cosine, Displacement
from tl_steer.objectives.objective import Objective
from tl_steer.objectives.output_kl import OutputKL, next_token, readout
from tl_steer.objectives.weighted import Weighted

VEC, BATCH, POS, D = 3, 4, 5, 6
LONG = [PROMPTS[0], PROMPTS[2]]
PENALISED = Weighted(((2.0, Displacement()), (-0.5, Cosine())))


def activations(seed):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randn(BATCH, POS, D, generator=generator, dtype=torch.float64)
    moved = torch.randn(VEC, BATCH, POS, D, generator=generator, dtype=torch.float64)
    measured = torch.rand(BATCH, POS, generator=generator) < 0.6
    measured[:, -1] = True
    return clean + moved, clean, measured


seeds = st.integers(0, 10_000)


def test_nothing_moved_gives_zero_with_a_zero_gradient():
    _, clean, measured = activations(1)
    steered = clean.expand(VEC, -1, -1, -1).clone().requires_grad_(True)
    value = PENALISED(steered, clean, measured)
    (gradient,) = torch.autograd.grad(value.sum(), steered)
    torch.testing.assert_close(value, torch.zeros(VEC, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


def test_gradient_equals_finite_differences():
    steered, clean, measured = activations(3)
    steered.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda s: PENALISED(s, clean, measured), (steered,))


def test_unmeasured_tokens_change_nothing():
    steered, clean, measured = activations(2)
    noisy = torch.where(measured[None, :, :, None], steered, 1e6)
    torch.testing.assert_close(
        PENALISED(noisy, clean, measured), PENALISED(steered, clean, measured)
    )


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(-3, 3), st.floats(-3, 3))
def test_weighted_is_the_sum_of_its_parts(seed, a, b):
    steered, clean, measured = activations(seed)
    whole = Weighted(((a, Displacement(p=4)), (b, Cosine())))(steered, clean, measured)
    first, second = (f(steered, clean, measured) for f in (Displacement(p=4), Cosine()))
    torch.testing.assert_close(whole, a * first + b * second)


def everywhere(model):
    """Last block, every real token."""
    tokens = ts.tokenize(model, PROMPTS)
    return tokens, ts.Segment(model, tokens, SOURCE, TARGET)


def test_output_kl_is_that_of_the_models_own_logits(model):
    tokens, segment = everywhere(model)
    generator = torch.Generator().manual_seed(0)
    edit = ts.Additive.random(segment.source, 2, radius=3.0, generator=generator)
    with torch.no_grad():
        got = OutputKL(model)(segment.run(edit), segment.clean, tokens.mask)
        for row in range(2):
            expected = 0.0
            for ids in tokens.rows():
                before = model(ids[None]).double().log_softmax(dim=-1)
                with perturbing(model, edit.select([row])):
                    after = model(ids[None]).double().log_softmax(dim=-1)
                expected += float((before.exp() * (before - after)).sum())
            assert float(got[row]) == pytest.approx(expected, rel=1e-3, abs=1e-4)
            assert expected > 0.1


def test_output_kl_of_nothing_is_zero(model):
    tokens, segment = everywhere(model)
    steered = segment.clean.expand(2, -1, -1, -1)
    with torch.no_grad():
        value = OutputKL(model)(steered, segment.clean, tokens.mask)
    torch.testing.assert_close(value, torch.zeros_like(value), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [n for n in KINDS if n in ("bridge-gpt2", "hooked-gpt2")])
def test_the_gradient_of_output_kl_equals_finite_differences(name):
    model = KINDS[name](dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(1, 1, 24, generator=generator, dtype=torch.float64)
    steered = torch.randn(2, 1, 1, 24, generator=generator, dtype=torch.float64).requires_grad_()
    with frozen(model):
        kl, measured = OutputKL(model), torch.ones(1, 1, dtype=torch.bool)
        assert torch.autograd.gradcheck(lambda s: kl(s, clean, measured), (steered,))


def test_maximising_output_kl_moves_the_output_more_than_displacement_does(one):
    def kl_of(divergence):
        tokens = ts.tokenize(one, LONG)
        with frozen(one):
            segment = ts.Segment(one, tokens, SOURCE, TARGET)
            generator = torch.Generator().manual_seed(0)
            start = ts.Additive.random(segment.source, 4, radius=2.0, generator=generator)
            last = tokens.select(ts.Positions(last=1))
            *_, end = ts.methods.Power(steps=10, spread=0)(
                Objective(segment, divergence, last), start
            )
            return float(
                Objective(segment, OutputKL(one), last)(
                    end.perturbation, gradient=False
                ).value.sum()
            )

    free, sought = kl_of(Displacement()), kl_of(OutputKL(one))
    held = kl_of(Weighted(((1.0, Displacement()), (-10.0, OutputKL(one)))))
    assert held < free < sought


def test_a_model_whose_logits_are_made_otherwise_is_refused(llama):
    with pytest.raises(ModelError, match="no ln_final"):
        OutputKL(LinearHost([torch.eye(4), torch.eye(4)]))
    own = llama.ln_final.register_forward_hook(_first_call_only())
    try:
        with pytest.raises(ModelError, match="do not give the logits"):
            OutputKL(llama)
    finally:
        own.remove()


def test_hooks_of_ones_own_behind_the_last_block_do_not_make_a_model_one_of_those(llama):
    calls = []

    def louder(activation, hook=None):
        calls.append(1)
        return 3 * activation

    point = next(name for name in llama.hook_dict if name.startswith("ln_final."))
    with installed(llama, [(point, louder)]):
        OutputKL(llama)
    assert calls == []


def _first_call_only():
    """Something that the model's own pass has and a later call has not."""
    calls = []

    def hook(_module, _args, out):
        calls.append(1)
        return out * 3 if len(calls) == 1 else out

    return hook


def test_provenance_holds_settings_and_no_address(one):
    text = describe(Weighted(((1, Displacement(p=4)), (-0.1, OutputKL(one)))))
    assert "0x" not in text
    for part in ("Displacement(p=4", "OutputKL()", "-0.1"):
        assert part in text


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(SettingError, match="at least one finite weight"):
        Weighted(())
    with pytest.raises(SettingError, match="at least one finite weight"):
        Weighted(((math.nan, Displacement()),))


class Capped(LinearHost):
    """Logits are the last residual stream, squeezed into (-cap, cap)."""

    def __init__(self, cap):
        super().__init__([torch.eye(6), 2 * torch.eye(6)])
        self.cfg.output_logits_soft_cap = cap
        self.ln_final, self.unembed = torch.nn.Identity(), torch.nn.Identity()

    def forward(self, ids, attention_mask=None, stop_at_layer=None, return_type=None):
        logits = super().forward(ids, stop_at_layer=stop_at_layer)
        cap = self.cfg.output_logits_soft_cap
        squeezed = cap * torch.tanh(logits / cap) if cap else logits
        return squeezed if return_type == "logits" else logits


@pytest.mark.parametrize("cap", [0.5, 1.0, 30.0, 0.0, None])
def test_capped_logits_are_read_as_the_model_caps_them(cap):
    host = Capped(cap)
    residual = 3 * torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0))
    expected = cap * torch.tanh(residual / cap) if cap else residual
    torch.testing.assert_close(readout(host)(residual), expected)


def test_the_next_token_is_read_from_logits_and_not_from_the_stream():
    host, ids = Capped(0.5), torch.tensor([[1, 2, 3], [4, 5, 6]])
    expected = host(ids, return_type="logits")[:, -1].log_softmax(dim=-1)
    torch.testing.assert_close(next_token(host, ids), expected)
    half = next_token(Capped(0.5).to(torch.bfloat16), ids)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.exp().sum(dim=1), torch.ones(2))


@pytest.mark.parametrize(
    ("off", "dtype", "refused"),
    [
        (0.004, torch.float32, False),
        (0.02, torch.float32, True),
        (0.02, torch.float64, True),
        (0.2, torch.bfloat16, False),
        (0.6, torch.bfloat16, True),
        (math.nan, torch.float32, True),
    ],
)
def test_logits_may_be_off_by_rounding_alone(off, dtype, refused):
    """By a hundredth of a nat; in half precision by a third."""

    class Shifted(Capped):
        def forward(self, ids, attention_mask=None, stop_at_layer=None, return_type=None):
            out = super().forward(ids, stop_at_layer=stop_at_layer, return_type=return_type)
            if return_type == "logits":
                # One of two tokens that share all of the probability, by so many nats.
                out = torch.full_like(out, -1e4)
                out[..., :2] = 0.0
                out[..., 0] += 2 * off
            return out

    host = Shifted(None).to(dtype)
    host.unembed = _Even()
    if refused:
        with pytest.raises(ModelError, match="do not give the logits"):
            readout(host)
    else:
        readout(host)


class _Even(torch.nn.Module):
    """Two tokens, equally probable."""

    def forward(self, residual):
        out = torch.full_like(residual, -1e4)
        out[..., :2] = 0.0
        return out


def scaled(kind):
    """Models that do something to their logits behind the unembedding."""
    import transformers as hf
    from transformer_lens.model_bridge import TransformerBridge

    common = {
        "vocab_size": 101, "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3,
        "num_key_value_heads": 3, "intermediate_size": 40, "max_position_embeddings": 64,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "initializer_range": 0.15,
    }  # fmt: skip
    made = {
        "granite": lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**common, logits_scaling=3.0)),
        "cohere": lambda: hf.CohereForCausalLM(hf.CohereConfig(**common, logit_scale=0.25)),
        "cohere2": lambda: hf.Cohere2ForCausalLM(hf.Cohere2Config(**common, logit_scale=5.0)),
        "gemma2": lambda: hf.Gemma2ForCausalLM(
            hf.Gemma2Config(**common, head_dim=8, final_logit_softcapping=0.7)
        ),
    }
    torch.manual_seed(0)
    weights = made[kind]()
    weights.config.architectures = [type(weights).__name__]
    return TransformerBridge.boot_transformers(
        f"tiny-{kind}", hf_model=weights, tokenizer=conftest.tokenizer()
    ).eval()


@pytest.mark.skipif(not conftest.HAS_BRIDGE, reason="transformers models come in bridges")
@pytest.mark.parametrize("told", [True, False], ids=["as it is", "no word of a cap"])
@pytest.mark.parametrize("kind", ["granite", "cohere", "cohere2", "gemma2"])
def test_scales_and_caps_of_logits_are_found(kind, told):
    model = scaled(kind)
    if not told:
        model.cfg.output_logits_soft_cap = None
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    tokens = ts.tokenize(model, PROMPTS[:1])
    with torch.no_grad(), ts.capturing(model, [last]) as seen:
        logits = model(tokens.ids, return_type="logits")
        ours = readout(model)(seen[last])
    torch.testing.assert_close(ours, logits, atol=1e-4, rtol=1e-4)
    bank = ts.elicit(
        model, PROMPTS[:1], source=SOURCE, target=last, n=2, radius=3.0, progress=False,
        divergence=OutputKL(model), measured=ts.Positions(last=1),
    )  # fmt: skip
    # The objective is the KL of the model's own next-token distributions.
    with torch.no_grad(), ts.perturbing(model, bank[0]):
        steered = model(tokens.ids, return_type="logits")[0, -1].log_softmax(dim=-1)
    clean = logits[0, -1].log_softmax(dim=-1)
    expected = float((clean.exp() * (clean - steered)).sum())
    assert float(bank.objective[0]) == pytest.approx(expected, rel=1e-3, abs=1e-5)
    swept = ts.sweep(model, bank, PROMPTS[:1], n_random=0, metrics=["kl"], progress=False)
    assert swept.prompts == 1
    seen_inside = ts.inspect(model, bank, PROMPTS[0])
    whole = seen_inside.direct.sum(dim=(1, 2))
    torch.testing.assert_close(whole, seen_inside.moved, atol=2e-3, rtol=2e-3)


def test_metrics_that_look_at_no_logits_need_none(one, monkeypatch):
    bank = conftest.bank_of(one)
    at_target = ["divergence", "alignment"]
    K = {"n_random": 1, "progress": False}
    read = ts.sweep(one, bank, PROMPTS, metrics=[*at_target, "kl"], **K)

    def none(_):
        raise ModelError("no logits")

    file = importlib.import_module("tl_steer.sweeps.bench")
    monkeypatch.setattr(file, "readout", none)
    swept = ts.sweep(one, bank, PROMPTS, metrics=at_target, **K)
    for name in at_target:
        found, expected = (s.cells([name])[name].to_numpy() for s in (swept, read))
        np.testing.assert_array_equal(found, expected)
    assert swept.failures() == []
    with pytest.raises(ModelError, match="no logits"):
        ts.sweep(one, bank, PROMPTS, metrics=["kl"], **K)
