"""KL at the output is that of the model's own logits; weighted divergences equal their parts."""

import math

import pytest
import torch
from conftest import KINDS, PROMPTS, SOURCE, TARGET
from hypothesis import given, settings, strategies as st
from linear import LinearHost

import tl_steer as ts
from tl_steer.banks.provenance import describe
from tl_steer.errors import ModelError, SettingError
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
