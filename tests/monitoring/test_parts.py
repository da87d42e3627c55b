"""Scoring requests under way: the parts of whole requests, by a shorter way that is counted."""

import math

import pytest
import torch
from tiny_monitor import monitor_without_a_model, synthetic
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tl_steer.monitoring.detectors import detector as d, fitted, nearest
from tl_steer.monitoring.detectors.nearest import Nearest, Sketch
from tl_steer.monitoring.parts import Parts
from tl_steer.monitoring.reader import Phase, Standard
from tl_steer.monitoring.session import Watch

D, VEC, CLEAN = 64, 40, 1200


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def thin(n, seed):
    """Activations that differ mostly in a few directions, as a model's do."""
    mixing = torch.linalg.qr(draw(D, D, seed=1)).Q * 0.6 ** torch.arange(D)
    return 10 * draw(n, D, seed=seed) @ mixing.T + 3


def reference(clean):
    responses = draw(VEC, D, seed=5)
    return d.Reference(clean, responses, clean[:VEC, None] + responses[:, None], clean)


def phase_of(known, unknown, clean):
    given = reference(clean)
    return Phase(
        tuple(Standard.bare(score(given), VEC) for score in known),
        None if unknown is None else unknown(given),
        None,
    ).standardised(clean[:100])


def own(reference):
    return lambda activations: activations @ reference.responses.T


KNOWN = [
    d.MatchedFilter(),
    d.WhitenedCosine(),
    d.LocalMatchedFilter(),
    d.Search(rank=8, candidates=4),
    d.Recurrence(),
    own,
]
UNKNOWN = [d.Unexplained(), d.Mahalanobis(), d.Outlier(), lambda r: lambda h: h[:, :1], None]


@pytest.mark.parametrize(
    ("known", "unknown"),
    [
        *(((score,), d.Unexplained()) for score in KNOWN),
        *(((d.WhitenedCosine(),), unknown) for unknown in UNKNOWN),
        (tuple(KNOWN), d.Unexplained()),
        ((), d.Outlier()),
    ],
)
def test_they_are_the_parts_of_the_phase(known, unknown):
    phase, tokens = phase_of(known, unknown, thin(CLEAN, 2)), 1.5 * thin(30, 3)
    expected = phase.parts(*phase.read(tokens))
    parts = Parts.of(phase)
    found = torch.tensor(parts(tokens))
    assert parts.count == len(expected) == len(known) + (unknown is not None)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(
        found[: parts.count], torch.stack(list(expected.values())), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e20])
@pytest.mark.parametrize("known", KNOWN[:5])
def test_a_token_that_is_broken_is_told_and_changes_no_other(known, value):
    parts, tokens = Parts.of(phase_of((known,), None, thin(CLEAN, 2))), thin(5, 3)
    plain = torch.tensor(parts(tokens))
    tokens[2, 7] = value
    found = torch.tensor(parts(tokens))
    assert found.isfinite().all(dim=0).tolist() == [True, True, False, True, True]
    others = [0, 1, 3, 4]
    torch.testing.assert_close(found[:, others], plain[:, others])


def test_a_cosine_of_what_is_too_large_to_be_squared_is_told():
    """The activations' own squares are finite; those of their white coordinates are not."""
    cosines = fitted.Cosines(1e20 * torch.eye(3), torch.zeros(3), torch.eye(3))
    parts = Parts.of(Phase((Standard.bare(cosines, 3),), None, None))
    [value], *needed = parts(torch.ones(1, 3))
    assert not all(math.isfinite(number) for [number] in needed)
    assert math.isfinite(value)


# --- neighbours -----------------------------------------------------------------------------------


def by_hand(clean, tokens, k):
    cosines = torch.cosine_similarity(tokens[:, None].double(), clean[None].double(), dim=2)
    return cosines.topk(k, dim=1).indices.sort(dim=1).values


def watched(monkeypatch):
    """How many tokens were compared with all rows, call by call."""
    calls, plain = [], Nearest._of_all

    def counted(self, centred):
        calls.append(len(centred))
        return plain(self, centred)

    monkeypatch.setattr(Nearest, "_of_all", counted)
    return calls


@pytest.mark.parametrize(
    ("clean", "all_read"),
    [(thin(CLEAN, 2) - 3, 0), (draw(CLEAN, D, seed=2), 50), (draw(40, D, seed=2), 50)],
    ids=["few directions", "all directions alike", "few rows"],
)
def test_the_nearest_are_found_with_and_without_reading_all(monkeypatch, clean, all_read):
    calls = watched(monkeypatch)
    tokens = clean.roll(7, 0)[:30].repeat(2, 1)[:50] + 0.3 * clean.std() * draw(50, D, seed=4)
    if not all_read:
        tokens = thin(50, 4) - 3
    near = Nearest.among(clean, 1 / clean.norm(dim=1), 5).of(tokens)
    assert torch.equal(near.sort(dim=1).values, by_hand(clean, tokens, 5))
    assert sum(calls) == all_read


def test_no_product_is_above_its_bound():
    clean = draw(CLEAN, D, seed=2) * torch.linspace(0.1, 2, D)
    unit = clean / clean.norm(dim=1, keepdim=True)
    tokens = 100 * draw(50, D, seed=3)
    bounds = Sketch.of(unit, 8).bounds(tokens, tokens.square().sum(dim=1, keepdim=True))
    products = tokens @ unit.T
    assert bool((bounds + 1e-5 * tokens.norm(dim=1, keepdim=True) >= products).all())
    assert float((bounds - products).mean() / tokens.norm(dim=1).mean()) < 1, "they tell something"


def test_a_row_that_the_axes_do_not_know_is_found_all_the_same(monkeypatch):
    """One clean token lies where no other does, and so does what is asked."""
    clean = thin(CLEAN, 2) - 3
    axes = Sketch.of(clean / clean.norm(dim=1, keepdim=True), D // 8).axes
    aside = draw(D, seed=9)
    aside -= axes @ (axes.T @ aside)
    clean[1000] = aside
    calls = watched(monkeypatch)
    near = Nearest.among(clean, 1 / clean.norm(dim=1), 5).of((aside + 0.01 * clean[3])[None])
    assert 1000 in near[0].tolist()
    assert torch.equal(near.sort(dim=1).values, by_hand(clean, (aside + 0.01 * clean[3])[None], 5))
    assert calls in ([], [1])


@pytest.mark.parametrize("m", [50, 32 * 9, 32 * 40 + 5])
def test_the_best_of_very_many_are_the_best_of_the_best_groups(m):
    scores = draw(6, m, seed=m)
    expected = scores.topk(8, dim=1).indices.sort(dim=1).values
    assert torch.equal(fitted._best(scores, 8).sort(dim=1).values, expected)


# --- what a token costs ---------------------------------------------------------------------------


class Reads(TorchDispatchMode):
    """Operations, and bytes of what they read: of rows that are picked out, the picked ones."""

    def __init__(self):
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.operations += 1
        if function.is_view:
            return out
        given = [out] if "index" in str(function) or "gather" in str(function) else args
        self.bytes += sum(x.nbytes for x in given if isinstance(x, torch.Tensor))
        return out


def cost(parts, tokens):
    with Reads() as reads, FlopCounterMode(display=False) as flops:
        parts(tokens)
    return reads.operations, reads.bytes, flops.get_total_flops()


@pytest.mark.parametrize("n", [1, 8])
def test_tokens_cost_no_more_than_they_did(n):
    """The two scores that are looked for and the unexplained energy, exactly so many products: the
    map, two of vectors, the sketch and a few rows. Little else is read. Not all clean tokens are,
    and no vector's score is written down a second time."""
    looked_for = d.WhitenedCosine(), d.LocalMatchedFilter()
    parts = Parts.of(phase_of(looked_for, d.Unexplained(), thin(CLEAN, 2)))
    axes, rows = D // 8, nearest.FEW * D
    maps = D * D + VEC * VEC + D * VEC + D * axes + (axes + 1) * CLEAN
    operations, read, flops = cost(parts, thin(n, 4))
    assert flops == 2 * n * (maps + rows)
    assert read <= 4 * (maps + n * (2 * rows + 4 * CLEAN))
    assert operations <= 56


def test_a_token_that_waits_costs_a_copy_of_its_activation():
    monitor = monitor_without_a_model()
    session, at = Watch(monitor, alpha=0.1, chunk=4), synthetic(1, 9).activations["here"]
    session.begin(torch.tensor([[5, 5]]), torch.ones(1, 2, dtype=torch.bool))
    counts = []
    for step in range(4):
        with Reads() as reads:
            if step:
                session.token(torch.tensor([5]))
            session.activation(0, at[:, step])
        counts.append(reads.operations)
    assert max(counts[:3]) <= 3
    assert counts[3] <= 80, "the prompt's end, its category, and three tokens together"
