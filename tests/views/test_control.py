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


def test_views_of_an_inspection_carry_the_band_of_every_number(one):
    seen, control = controlled(one)
    last = ts.views.logit_change(seen, 1, control=control)
    rows = control.kl.double().numpy()
    assert last.data["band"][0] == pytest.approx(rows.min(axis=0), rel=1e-2)
    assert last.data["band"][1] == pytest.approx(rows.max(axis=0), rel=1e-2)
    assert "(random " in repr(last)
    response = ts.views.residual_response(seen, 1, control=control).data["band"]
    share = (control.response / control.clean).double().numpy()
    np.testing.assert_allclose(response[0], share.min(axis=0), rtol=0.1, atol=1e-6)
    np.testing.assert_allclose(response[1], share.max(axis=0), rtol=0.1, atol=1e-6)
    added = ts.views.steered_tokens(seen, 1, control=control).data["band"]
    share = (control.added / control.entering).double().numpy()
    np.testing.assert_allclose(added[1], share.max(axis=0), rtol=1e-2)


def test_attribution_is_held_against_the_pair_that_each_random_vector_moves_most(one):
    seen, control = controlled(one)
    band = ts.views.logit_attribution(seen, 0, control=control).data["band"]
    # Tokens gained come first in `toward`, then as many lost.
    both = zip(control.gained[:, -1, 0].tolist(), control.lost[:, -1, 0].tolist(), strict=True)
    pairs = list(both)
    parts, heads = [], []
    for v, pair in enumerate(pairs):
        i, j = (control.toward[v].tolist().index(token) for token in pair)
        parts.append((control.direct[v, ..., i] - control.direct[v, ..., j]).double().numpy())
        heads.append(float((control.heads[v, ..., i] - control.heads[v, ..., j]).abs().max()))
    np.testing.assert_allclose(band["direct"][0], np.min(parts, axis=0), rtol=1e-2, atol=1e-6)
    np.testing.assert_allclose(band["direct"][1], np.max(parts, axis=0), rtol=1e-2, atol=1e-6)
    assert band["head"] == pytest.approx([min(heads), max(heads)], rel=1e-2)


def test_views_without_a_control_say_nothing_of_random_vectors(one):
    seen, _ = controlled(one)
    for view in (ts.views.logit_change, ts.views.residual_response, ts.views.logit_attribution):
        data = view(seen, 0).data
        assert data["band"] is None
        assert data["control"] is None


@pytest.mark.parametrize(
    "name", ["logit_change", "residual_response", "logit_attribution", "steered_tokens"]
)
def test_views_refuse_a_control_of_another_prompt(one, name):
    seen, _ = controlled(one)
    other = ts.inspect(one, ts.random_bank(bank_of(one), n=2), PROMPTS[1])
    with pytest.raises(SettingError, match="its prompt is"):
        getattr(ts.views, name)(seen, 0, control=other)
