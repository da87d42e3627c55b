"""Divergences equal the published equations, written out slowly."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from tl_steer.errors import SettingError
from tl_steer.objectives.divergence import Cosine, Displacement, mean_response

VEC, BATCH, POS, D = 3, 2, 4, 5


def activations(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    steered = torch.randn(VEC, BATCH, POS, D, generator=generator, dtype=dtype)
    clean = torch.randn(BATCH, POS, D, generator=generator, dtype=dtype)
    measured = torch.rand(BATCH, POS, generator=generator) < 0.6
    measured[:, -1] = True
    return steered, clean, measured


def melbo_slowly(steered, clean, measured, p, q):
    """sum_i (sum_tau ||Z_tau(theta) - Z_tau(0)||^p)^(1/q), loop by loop."""
    total = []
    for v in range(len(steered)):
        prompts = 0.0
        for i in range(len(clean)):
            tokens = 0.0
            for t in range(clean.shape[1]):
                if measured[i, t]:
                    squares = sum(
                        (float(steered[v, i, t, d]) - float(clean[i, t, d])) ** 2 for d in range(D)
                    )
                    tokens += math.sqrt(squares) ** p
            prompts += tokens ** (1 / q)
        total.append(prompts)
    return torch.tensor(total, dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(2, 1), (2, 2), (4, 1), (4, 4), (1, 1), (3, 2)]))
def test_displacement_is_melbos_equation(seed, powers):
    p, q = powers
    steered, clean, measured = activations(seed)
    fast = Displacement(p=p, q=q)(steered, clean, measured)
    torch.testing.assert_close(
        fast, melbo_slowly(steered, clean, measured, p, q), rtol=1e-9, atol=0
    )


def test_the_norm_runs_over_d_model_and_not_over_tokens():
    # At p = 4 the two differ: the original code sums over tokens inside the norm.
    steered, clean, measured = activations(0)
    measured[:] = True
    over_tokens = ((steered - clean).norm(dim=2) ** 4).sum(dim=-1).pow(1 / 4).sum(dim=-1)
    fast = Displacement(p=4)(steered, clean, measured)
    assert not torch.allclose(fast, over_tokens, rtol=1e-2)


@pytest.mark.parametrize("p", [2, 4])
def test_gradient_equals_finite_differences(p):
    steered, clean, measured = activations(3)
    steered.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda s: Displacement(p=p)(s, clean, measured), (steered,))
    assert torch.autograd.gradcheck(lambda s: Cosine()(s, clean, measured), (steered,))


@pytest.mark.parametrize("divergence", [Displacement(), Displacement(p=4), Displacement(p=2, q=1)])
def test_no_displacement_gives_zero_with_a_zero_gradient(divergence):
    _, clean, measured = activations(1)
    steered = clean.expand(VEC, -1, -1, -1).clone().requires_grad_(True)
    value = divergence(steered, clean, measured)
    value.sum().backward()
    assert torch.equal(value, torch.zeros(VEC, dtype=value.dtype))
    assert torch.equal(steered.grad, torch.zeros_like(steered))


def test_unmeasured_tokens_change_nothing_even_if_not_finite():
    steered, clean, measured = activations(2)
    for divergence in (Displacement(), Displacement(p=4), Cosine(), mean_response):
        before = divergence(steered, clean, measured)
        noisy = torch.where(measured[None, :, :, None], steered, torch.full_like(steered, 1e6))
        assert torch.equal(divergence(noisy, clean, measured), before)


def test_half_precision_does_not_overflow():
    steered = torch.full((1, 1, 1, D), 300.0, dtype=torch.float16)
    clean = torch.zeros(1, 1, D, dtype=torch.float16)
    value = Displacement(p=4)(steered, clean, torch.ones(1, 1, dtype=torch.bool))
    assert float(value) == pytest.approx(300 * math.sqrt(D), rel=1e-3)


def test_cosine_is_zero_for_a_longer_copy_and_two_for_the_opposite():
    _, clean, measured = activations(4)
    steered = torch.stack([clean * 3, -clean, clean])
    expected = torch.tensor([0.0, 2.0 * BATCH, 0.0], dtype=torch.float64)
    torch.testing.assert_close(Cosine()(steered, clean, measured), expected)


def test_the_response_weighs_prompts_equally():
    clean = torch.zeros(2, 3, 1)
    steered = torch.tensor([[[[1.0], [1.0], [1.0]], [[9.0], [7.0], [3.0]]]])
    measured = torch.tensor([[True, True, True], [False, False, True]])
    assert mean_response(steered, clean, measured).tolist() == [[2.0]]


@pytest.mark.parametrize("setting", [{"p": 0}, {"p": float("nan")}, {"q": 0.5}])
def test_powers_below_one_are_refused(setting):
    with pytest.raises(SettingError, match="at least 1"):
        Displacement(**setting)
