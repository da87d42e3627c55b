"""The band of random vectors: quantiles of what they did, on the same prompt and nowhere else."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import PROMPTS, bank_of

import tl_steer as ts
from tl_steer.errors import SettingError
from tl_steer.views.control import band, kl_band, refuse_other, told


@pytest.mark.parametrize("n", [1, 2, 8, 20, 21, 64, 100])
def test_the_band_is_numpys_quantiles_rounded_outwards(n):
    torch.manual_seed(n)
    values = torch.randn(n, 3, 5)
    low, high = band(values)
    own = np.quantile(values.double().numpy(), 0.05, axis=0, method="lower")
    other = np.quantile(values.double().numpy(), 0.95, axis=0, method="higher")
    np.testing.assert_array_equal(low.double().numpy(), own)
    np.testing.assert_array_equal(high.double().numpy(), other)


def test_few_vectors_give_their_lowest_and_highest():
    values = torch.tensor([[3.0], [-1.0], [2.0]])
    assert [float(end) for end in band(values)] == [-1, 3]


def test_what_is_missing_is_left_out_and_infinity_stays():
    values = torch.tensor([[torch.nan, torch.nan], [1.0, torch.nan], [torch.inf, torch.nan]])
    low, high = band(values)
    assert low[0] == 1
    assert high[0] == torch.inf
    assert low[1].isnan()
    assert high[1].isnan()


def controlled(one, n=3):
    bank = bank_of(one)
    seen = ts.inspect(one, bank, PROMPTS[0])
    return seen, ts.inspect(one, ts.random_bank(bank, n=n), PROMPTS[0])


def test_the_band_of_kl_is_that_behind_the_prompt(one):
    _, control = controlled(one)
    last = control.kl[:, -1].double().numpy()
    assert kl_band(control) == (last.min(), last.max())
    assert told(control) == {"vectors": 3, "whole": True}
    assert told(None) is None


def test_a_band_of_many_vectors_leaves_out_its_tails(one):
    _, control = controlled(one, n=21)
    assert told(control) == {"vectors": 21, "whole": False}
    assert kl_band(control)[1] < float(control.kl[:, -1].max())


def test_a_control_of_another_prompt_place_or_bank_is_refused(one):
    seen, control = controlled(one)
    refuse_other(seen, control)
    refuse_other(seen, None)
    other = ts.inspect(one, ts.random_bank(bank_of(one), n=2), PROMPTS[1])
    with pytest.raises(SettingError, match="its prompt is"):
        refuse_other(seen, other)
    for name in ("source", "target", "model"):
        with pytest.raises(SettingError, match=f"its {name} is 'elsewhere'"):
            refuse_other(seen, dataclasses.replace(control, **{name: "elsewhere"}))
    with pytest.raises(SettingError, match="the very bank"):
        refuse_other(seen, seen)
