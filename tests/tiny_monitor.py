"""Monitors of tiny models, and of a world without a model."""

import dataclasses
import functools
import random
from typing import Any

import torch
from conftest import TARGET, bank_of

import tl_steer as ts
from tl_steer.models import Fingerprint
from tl_steer.monitoring import Effects, Traffic, split_of
from tl_steer.monitoring.detectors import MatchedFilter
from tl_steer.monitoring.identity import Identity

ALPHA = 0.05
QUIET = {"do_sample": False, "verbose": False, "return_type": "tokens"}
HORIZON = 4


def prompts(n, seed=0):
    draw = random.Random(seed)
    return [
        " ".join(f"t{draw.randrange(3, 98)}" for _ in range(draw.randrange(3, 8))) for _ in range(n)
    ]


@functools.cache
def monitor_of(model, sites=(TARGET,), ends=0):
    return ts.Monitor.fit(
        model,
        bank_of(model),
        prompts(150),
        sites=list(sites),
        # Cosines saturate in 24 dimensions: random tokens of a random model reach .9 of most.
        score=MatchedFilter(),
        horizon=HORIZON,
        effect_prompts=8,
        ends=ends,
    )


def scores_of(monitor, traffic):
    return monitor.score(traffic.activations, mask=traffic.mask)


# --- a world without a model ------------------------------------------------------------------

WIDTH, VEC, POS = 24, 3, 5


def synthetic(n, seed, *, response=None, at=2):
    """Requests with Gaussian activations, their lengths at random; `response` is added at a
    token."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.linspace(0.5, 2, WIDTH)
    activations = torch.randn(n, POS, WIDTH, generator=generator) * mixing
    activations[:, 0] += 3
    lengths = torch.randint(at + 1, POS + 1, (n,), generator=generator)
    if response is not None:
        activations[:, at] += response
    return Traffic(
        activations={"here": activations},
        mask=torch.arange(POS) < lengths[:, None],
        ids=torch.zeros(n, POS, dtype=torch.long),
        prompts=(torch.arange(3),) * n,
        texts=("",) * n,
        answers=("",) * n,
    )


def responses():
    return (
        8
        * torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(4))).Q[
            :VEC
        ]
    )


def bank_without_a_model():
    mark = Fingerprint((0.0,) * 48, WIDTH, 2, 11, "float32")
    site = ts.hook_points.Site("here", 1, "hook_resid_post", WIDTH)
    return ts.Bank(
        vectors=torch.eye(WIDTH)[:VEC],
        responses=responses(),
        objective=torch.ones(VEC),
        source=ts.hook_points.Site("there", 0, "hook_resid_post", WIDTH),
        target=site,
        radius=1.0,
        radius_share=0.1,
        provenance=ts.banks.Provenance("none", mark),
    )


def examples(seed):
    """Activations under every vector on ten prompts: their ends, and two tokens of each."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(VEC, 10, 3, WIDTH, generator=generator) + responses()[:, None, None]
    drawn[:, :, 0] += 3
    return drawn[:, :, :1], drawn[:, :, 1:]


def monitor_without_a_model(n=200, seed=0, *, traffic=None, dtype="float32", **how):
    traffic, effect = traffic or synthetic(n, seed), responses()
    ends, said = (each.flatten(1, 2) for each in examples(seed))
    found = {"here": Effects((effect, effect), (ends, said))}
    bank = bank_without_a_model()
    mark = dataclasses.replace(bank.provenance.fingerprint, dtype=dtype)
    identity = Identity("none", mark, torch.zeros(1, 8, WIDTH), (), (), None)
    return ts.Monitor.of(
        bank, traffic, found, identity, split=split_of(n, seed=seed), sites=[bank.target], **how
    )


def answer(model: Any, ids: torch.Tensor, n: int = HORIZON + 1, **how: Any) -> Any:
    return model.generate(ids, max_new_tokens=n, **QUIET, **how)
