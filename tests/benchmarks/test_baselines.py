"""The baselines of monitors that are not in the package, against slow restatements."""

import pytest
import torch
from baselines import WeightWatch, locked, written_to
from conftest import KINDS, LLAMAS, SOURCE, D, make
from torch.nn.functional import cosine_similarity, normalize

from tl_steer.monitoring.detectors import Reference


def test_the_surest_window_is_the_one_whose_least_sure_token_is_the_surest():
    generator = torch.Generator().manual_seed(0)
    sure = -torch.rand(30, 9, generator=generator)
    lengths = torch.randint(1, 10, (30,), generator=generator).tolist()
    said = torch.arange(9) < torch.tensor(lengths)[:, None]
    told = locked(sure, said, window=3)
    for row, length, found in zip(sure.tolist(), lengths, told, strict=True):
        windows = [row[i : i + 3] for i in range(max(1, length - 2))]
        kept = [window[: length - i] for i, window in enumerate(windows)]
        assert float(found) == pytest.approx(max(min(window) for window in kept))


def test_what_a_model_is_sure_of_throughout_is_locked_and_one_doubt_breaks_it():
    steady, doubtful = [-0.01] * 4, [-0.001, -0.001, -3.0, -0.001]
    sure = torch.tensor([steady, doubtful])
    assert locked(sure, torch.ones(2, 4, dtype=torch.bool), window=4).tolist() == pytest.approx(
        [-0.01, -3.0]
    )


def reference(clean):
    nothing = clean.new_zeros(1, clean.shape[1])
    return Reference(clean=clean, responses=nothing, steered=nothing[:, None], background=clean)


def test_a_token_is_as_odd_as_the_cosine_that_is_farthest_outside_of_its_clean_range():
    generator = torch.Generator().manual_seed(1)
    clean, new = (torch.randn(n, 6, generator=generator) for n in (40, 12))
    directions = torch.linalg.qr(torch.randn(6, 3, generator=generator)).Q.T
    found = WeightWatch(directions)(reference(clean))(new)
    for token, told in zip(new, found[:, 0].tolist(), strict=True):
        outside = []
        for direction in directions:
            seen = [float(cosine_similarity(row, direction, dim=0)) for row in clean]
            here = float(cosine_similarity(token, direction, dim=0))
            outside.append(max(here - max(seen), min(seen) - here) / (max(seen) - min(seen)))
        assert told == pytest.approx(max(outside), abs=1e-5)


def test_no_clean_token_is_outside():
    clean = torch.randn(40, 6, generator=torch.Generator().manual_seed(2))
    found = WeightWatch(torch.eye(6)[:2])(reference(clean))(clean)
    assert float(found.max()) == pytest.approx(0, abs=1e-6)


def test_directions_are_where_the_change_of_weights_writes_to():
    model, base = KINDS[LLAMAS[0]](), make(LLAMAS[0])
    writes = normalize(torch.randn(D, generator=torch.Generator().manual_seed(3)), dim=0)
    (weight,) = [p for n, p in model.blocks[1].named_parameters() if "down_proj" in n]
    with torch.no_grad():
        weight += torch.outer(writes, torch.ones(weight.shape[1]))
    found = written_to(model, base, SOURCE)
    assert len(found) == 1
    assert float((found @ writes).abs()) == pytest.approx(1, abs=1e-4)
