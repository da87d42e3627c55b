"""The arithmetic behind docs/scale.md."""

import math

import pytest
import torch
from gpu_cost import Cost, fitted, saved_bytes
from scale import Card, Large, searched, wider

POINTS = (
    (2, 10, 4, 16),
    (4, 10, 4, 16),
    (2, 20, 8, 32),
    (8, 5, 2, 64),
    (3, 7, 5, 48),
    (2, 40, 900, 64),
    (8, 90, 500, 32),
    (3, 90, 700, 128),
)


def line(cost, point):
    """What that law says of a point, written out."""
    blocks, tokens, vectors, width = point
    flops, numbers = 48 * math.prod(point) * width, math.prod(point)
    work = flops * cost.flop + numbers * cost.number
    launch = blocks * cost.launch
    seconds = (launch if launch > work else work) if cost.overlapped else launch + work
    kept = sum(cost.kept + tokens * cost.attention / 128 for _ in range(blocks))
    kept *= tokens * vectors * width
    return {"point": point, "flops": flops, "seconds": seconds, "kept_bytes": kept}


@pytest.mark.parametrize("overlapped", [True, False])
def test_the_fit_finds_costs_that_were_put_in_and_predicts_what_it_did_not_see(overlapped):
    cost = Cost(0.004, 2e-10, 3e-9, 30.0, 5.0, overlapped)
    lines = [line(cost, point) for point in POINTS]
    # Both laws have points that launching rules and points that it does not.
    assert any(x["seconds"] == pytest.approx(0.004 * x["point"][0]) for x in lines) == overlapped
    found = fitted(lines, overlapped=overlapped)
    for name in ("launch", "flop", "number", "kept", "attention"):
        assert getattr(found, name) == pytest.approx(getattr(cost, name), rel=1e-6), name
    other = line(cost, (5, 30, 60, 80))
    assert found.seconds(other["point"], other["flops"]) == pytest.approx(other["seconds"])
    assert found.kept_bytes(other["point"]) == pytest.approx(other["kept_bytes"])


def test_a_term_that_would_be_negative_is_left_out():
    lines = [line(Cost(0.004, 2e-10, 0.0, 30.0, 0.0, False), point) for point in POINTS]
    for x in lines:
        x["kept_bytes"] -= 2 * math.prod(x["point"]) * x["point"][1] / 128
    found = fitted(lines, overlapped=False)
    assert found.attention == 0 < found.kept < 30


def test_what_autograd_keeps_is_counted_once_and_without_weights():
    layer = torch.nn.Linear(4, 6, device="cpu", dtype=torch.float32).requires_grad_(False)
    given = torch.ones(3, 4, device="cpu", dtype=torch.float32, requires_grad=True)

    def work():
        out = layer(given).exp()  # keeps its result, 3 x 6; the product keeps the weights only
        return out * out  # keeps the same once more, twice

    assert saved_bytes(work, layer) == 3 * 6 * 4


def test_a_large_search_is_its_passes_one_after_the_other_on_every_copy():
    of = Large(layers=10, width=64, inner=352, key_width=16, vocabulary=100, blocks=5)
    block = 64 * 64 + 2 * 64 * 16 + 64 * 64 + 3 * 64 * 352
    assert of.block == block
    assert of.weights == 10 * block + 2 * 100 * 64
    cost = Cost(0.001, 1e-9, 2e-9, 30.0, 5.0, True)
    card = Card("a card", 0.02, 0.5, 2)
    got = searched(cost, of, card, vectors=1000, steps=3)
    numbers = 5 * 27 * 64  # of one vector
    kept = numbers * (2 * 30 + 5 * 27 / 128)  # twice the width inside is twice the rest
    free = 0.02e9 - 2 * of.weights / 2
    assert got["kept_gb"] == pytest.approx(kept / 1e9)
    # All five blocks lie on one of the two cards.
    assert got["vec_batch"] == int(0.8 * free / kept)
    share, step = 250, 0.0  # of four copies
    passes = math.ceil(share / got["vec_batch"])
    for _ in range(passes):
        n = math.ceil(share / passes)
        work = 4 * 5 * block * 27 * n * 1e-9 + numbers * n * (2 * 2e-9) / 0.5
        step += max(work, 5 * 0.001)
    assert passes > 1
    assert got["step_s"] == pytest.approx(step)
    assert got["all_s"] == pytest.approx(4 * step)


def test_blocks_as_wide_inside_as_those_measured_cost_what_those_cost():
    cost = Cost(0.001, 1e-9, 2e-9, 30.0, 5.0, True)
    assert wider(cost, Large(width=64, inner=176)) == cost
