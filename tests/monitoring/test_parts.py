"""Scoring requests under way: the parts of whole requests, by a shorter way that is counted."""

import math

import pytest
import torch
from tiny_monitor import monitor_without_a_model, synthetic
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tl_steer.monitoring.detectors import detector as d, fitted
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
    """With a mean and a deviation of every vector that matter."""
    given, shift, inverse = reference(clean), 2 * draw(VEC, seed=6), 0.5 + draw(VEC, seed=7).abs()
    return Phase(
        tuple(Standard(score(given), shift, inverse) for score in known),
        None if unknown is None else unknown(given),
        None,
    )


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


@pytest.mark.parametrize("m", [50, 32 * 9, 32 * 40 + 5])
def test_the_best_of_very_many_are_the_best_of_the_best_groups(m):
    scores = draw(6, m, seed=m)
    scores[:, -1] += 5  # it may be in no whole group
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
    """The two scores that are looked for and the unexplained energy: exactly so many products.
    Little else is read, and no vector's score a second time."""
    looked_for = d.WhitenedCosine(), d.LocalMatchedFilter()
    parts = Parts.of(phase_of(looked_for, d.Unexplained(), thin(CLEAN, 2)))
    operations, read, flops = cost(parts, thin(n, 4))
    products = D * (D + CLEAN + 2 * VEC)
    assert flops == 2 * n * products
    assert read <= 4 * (products + n * (3 * CLEAN + 40 * D))
    assert operations <= 33


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
    assert counts[3] <= 81, "the prompt's end, its category, and three tokens together"
