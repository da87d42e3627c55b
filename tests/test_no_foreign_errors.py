"""Whatever is given to a public call, it works or says in a `SteerError` what is wrong."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET, bank_of
from hypothesis import HealthCheck, given, settings, strategies as st
from state import snapshot
from tiny_monitor import monitor_of

import tl_steer as ts
from tl_steer.monitoring import detectors
from tl_steer.monitoring.statistics.categories import Clusters

LAST = ts.Positions(last=1, bos=False)


def entered(opened: Callable[..., Any]) -> Callable[..., None]:
    """A context manager, opened and closed."""

    def call(**arguments: Any) -> None:
        with opened(**arguments):
            pass

    return call


def lengths(texts: Any, _prompts: Any) -> list[float]:
    return [float(len(text)) for text in texts]


# What is called, and arguments with which it works.
CALLS: dict[str, tuple[Callable[..., Any], Callable[[Any], dict[str, Any]]]] = {
    "tokenize": (ts.tokenize, lambda m: {"model": m, "prompts": PROMPTS}),
    "elicit": (
        ts.elicit,
        lambda m: {
            "model": m,
            "prompts": PROMPTS,
            "source": SOURCE,
            "target": TARGET,
            "n": 2,
            "radius": 2.0,
            "perturbation": ts.Additive,
            "method": "power",
            "divergence": ts.objectives.Displacement(),
            "measured": LAST,
            "positions": ts.Positions(),
            "seed": 0,
            "vec_batch": 2,
            "progress": False,
        },
    ),
    "elicit against": (
        ts.elicit,
        lambda m: {
            "model": m,
            "prompts": PROMPTS,
            "against": m,
            "source": SOURCE,
            "target": TARGET,
            "n": 2,
            "radius": 2.0,
            "method": ts.methods.Ascent(steps=1),
            "progress": False,
        },
    ),
    "contrast": (
        ts.objectives.Contrast,
        lambda m: {"base": m, "along": 2, "share": 0.5, "bound": 5.0},
    ),
    "ascent": (
        ts.methods.Ascent,
        lambda m: {"steps": 2, "stride": 0.2, "decline": 0.5, "momentum": 0.5, "keep": "lead"},
    ),
    "generate": (
        ts.generate,
        lambda m: {
            "model": m,
            "bank": bank_of(m),
            "prompts": PROMPTS,
            "max_new_tokens": 2,
            "temperature": None,
            "top_k": None,
            "top_p": None,
            "seed": 0,
            "batch_rows": 4,
        },
    ),
    "sweep": (
        ts.sweep,
        lambda m: {
            "model": m,
            "bank": bank_of(m),
            "prompts": PROMPTS,
            "metrics": None,
            "generate": 0,
            "n_random": 1,
            "doses": (1.0,),
            "truncate": None,
            "part": 4,
            "budget_gib": 0.5,
            "batch_rows": 8,
            "seed": 0,
            "progress": False,
        },
    ),
    "inspect": (
        ts.inspect,
        lambda m: {
            "model": m,
            "bank": bank_of(m),
            "prompt": PROMPTS[0],
            "vectors": [0, 1],
            "toward": (5,),
            "heads": 2,
            "top": 3,
            "batch_rows": 2,
        },
    ),
    "strengths": (
        ts.inspection.strengths,
        lambda m: {
            "model": m,
            "bank": bank_of(m),
            "prompt": PROMPTS[0],
            "vectors": [0, 1],
            "control": bank_of(m),
            "scales": (0.5, 1),
            "max_new_tokens": 2,
            "top": 3,
            "seed": 0,
            "batch_rows": 2,
            "positions": None,
        },
    ),
    "continuations": (
        ts.inspection.continuations,
        lambda m: {
            "model": m,
            "bank": bank_of(m),
            "prompt": PROMPTS[0],
            "vectors": [0, 1],
            "max_new_tokens": 2,
            "heads": 2,
            "top": 3,
            "batch_rows": 2,
            "scale": 1,
            "positions": None,
        },
    ),
    "rank": (
        ts.rank,
        lambda m: {
            "model": m,
            "bank": bank_of(m),
            "prompts": PROMPTS,
            "by": "next_token_kl",
            "name": None,
        },
    ),
    "halve": (
        ts.halve,
        lambda m: {
            "model": m,
            "bank": bank_of(m),
            "metric": lengths,
            "validation": PROMPTS,
            "held_out": ["t4 t5 t6", "t7 t8"],
            "keep": 1,
            "max_new_tokens": 2,
            "seed": 0,
            "batch_rows": 4,
        },
    ),
    "grid plan": (
        ts.elicitation.GridPlan,
        lambda _: {
            "sources": [1],
            "targets": [3],
            "prompts": {"set": PROMPTS},
            "radii": [2.0],
            "methods": ["power"],
            "seeds": [0],
            "n": 2,
            "last": 1,
            "random": 0,
            "sweep": {},
        },
    ),
    "swept": (ts.sweeps.Swept, lambda _: {"prompts": tuple(PROMPTS), "n_random": 1}),
    "ray": (ts.models.Ray, lambda _: {"workers": 1, "cpus": 1, "gpus": 0, "tries": 1}),
    "scan": (
        ts.scan,
        lambda m: {
            "model": m,
            "prompts": PROMPTS,
            "pairs": [(SOURCE, TARGET)],
            "top": 2,
            "read": None,
            "measured": LAST,
            "seed": 0,
        },
    ),
    "Directions.of": (ts.interop.Directions.of, lambda m: {"given": {1: [1.0, 2.0]}}),
    "dose_response": (
        ts.dose_response,
        lambda m: {
            "model": m,
            "bank": bank_of(m)[:1],
            "prompts": PROMPTS,
            "shares": (0.5,),
            "signs": (1,),
            "n_random": 1,
            "max_new_tokens": 2,
            "seed": 0,
            "batch_rows": 4,
        },
    ),
    "random_bank": (ts.random_bank, lambda m: {"like": bank_of(m), "n": 2, "seed": 0}),
    "ladder": (ts.banks.ladder, lambda m: {"bank": bank_of(m), "lengths": (1, 2)}),
    "difference": (
        ts.contrast,
        lambda m: {
            "model": m,
            "positive": PROMPTS[:1],
            "negative": PROMPTS[1:],
            "source": SOURCE,
            "at": ts.Positions(last=1),
        },
    ),
    "from_vectors": (
        ts.Bank.from_vectors,
        lambda m: {
            "model": m,
            "vectors": bank_of(m).vectors,
            "prompts": PROMPTS,
            "source": SOURCE,
            "target": TARGET,
            "labels": None,
            "divergence": ts.objectives.Displacement(),
            "measured": ts.Positions(last=1, bos=False),
            "positions": None,
        },
    ),
    "mark": (ts.mark, lambda m: {"bank": bank_of(m), "row": 0, "verdict": "benign", "note": ""}),
    "report": (
        ts.report,
        lambda m: {
            "bank": bank_of(m),
            "inspections": (),
            "generations": None,
            "control": None,
            "doses": None,
            "selection": None,
            "sweep": None,
            "alerts": None,
            "title": "",
        },
    ),
    "serve": (
        entered(ts.serve),
        lambda m: {
            "model": m,
            "bank": bank_of(m),
            "report": None,
            "monitor": None,
            "log": None,
            "alpha": 0.01,
            "notes": None,
            "port": 0,
        },
    ),
    "perturbing": (
        entered(ts.perturbing),
        lambda m: {"model": m, "perturbation": bank_of(m)[0], "rows": None, "tokens": None},
    ),
    "install": (
        entered(ts.Bank.install),
        lambda m: {
            "self": bank_of(m)[0],
            "model": m.original_model,
            "rows": None,
            "scale": 2,
            "positions": ts.Positions(last=1),
        },
    ),
    "capturing": (entered(ts.capturing), lambda m: {"model": m, "names": [SOURCE]}),
    "shuffled": (entered(ts.models.shuffled), lambda m: {"model": m, "seed": 0}),
    "watch": (
        entered(ts.watch),
        lambda m: {
            "model": m,
            "monitor": monitor_of(m),
            "alpha": 0.05,
            "log": None,
            "drift": 0.001,
            "on_alert": None,
            "chunk": 2,
        },
    ),
    "score": (
        lambda monitor, activations, mask: monitor.score(activations, mask=mask),
        lambda m: {
            "monitor": monitor_of(m),
            "activations": {TARGET: torch.zeros(1, 3, 24)},
            "mask": torch.ones(1, 3, dtype=torch.bool),
        },
    ),
    "Segment": (
        ts.Segment,
        lambda m: {
            "model": m,
            "tokens": ts.tokenize(m, PROMPTS),
            "source": SOURCE,
            "target": TARGET,
        },
    ),
    "Additive": (
        ts.Additive,
        lambda m: {
            "site": ts.models.resolve(m, SOURCE),
            "vectors": torch.ones(2, 24),
            "radius": 1.0,
            "positions": ts.Positions(),
        },
    ),
    "Positions": (ts.Positions, lambda m: {"last": 2, "bos": True, "generated": True}),
    "chat": (ts.chat, lambda m: {"text": "t3", "system": None}),
    "load_bank": (ts.load_bank, lambda m: {"path": "nowhere.safetensors"}),
    "notes": (ts.views.notes, lambda m: {"path": "nowhere.html"}),
    "from_pretrained": (
        ts.Bank.from_pretrained,
        lambda m: {"where": "nowhere", "revision": None, "token": None},
    ),
    "push_to_hub": (
        lambda bank, **asked: bank.push_to_hub(**asked),
        lambda m: {
            "bank": bank_of(m),
            "repo_id": "me/reams",
            "base_model": None,
            "control": None,
            "private": True,
            "token": None,
        },
    ),
    "words": (
        ts.banks.words,
        lambda m: {"model": m, "bank": bank_of(m), "lens": None, "most": 2, "seed": 0},
    ),
    "decompose": (
        ts.interop.decompose,
        lambda m: {
            "bank": bank_of(m),
            "dictionary": torch.eye(24),
            "labels": None,
            "most": 2,
            "seed": 0,
        },
    ),
    "load_sweep": (ts.load_sweep, lambda m: {"path": "nowhere"}),
    "bank[...]": (lambda bank, row: bank[row], lambda m: {"bank": bank_of(m), "row": 0}),
    "WeightDifference": (
        ts.methods.WeightDifference,
        lambda m: {"base": m, "maps": ("mlp",), "blocks": 1, "top": 2, "signs": (1,)},
    ),
    "MeanDifference": (
        ts.methods.MeanDifference,
        lambda m: {"base": m, "at": ts.Positions(bos=False), "signs": (1,)},
    ),
    "CleanComponents": (
        ts.methods.CleanComponents,
        lambda m: {"base": m, "at": ts.Positions(bos=False), "top": 2, "signs": (1,)},
    ),
    "Compiled": (ts.methods.Compiled, lambda m: {"method": ts.methods.Melbo()}),
    "Replayed": (ts.methods.Replayed, lambda m: {"method": ts.methods.Melbo()}),
    "Within": (
        ts.methods.Within,
        lambda m: {"span": ts.methods.MeanDifference(m), "method": ts.methods.Power()},
    ),
}
SETTINGS = (
    ts.methods.Power,
    ts.methods.Melbo,
    ts.methods.Dct,
    ts.methods.Jacobian,
    ts.methods.Quadratic,
    ts.methods.Sogi,
    ts.radii.InBand,
    ts.radii.Calibrated,
    ts.radii.ShareOfNorm,
    ts.elicitation.Adapters,
    ts.objectives.Displacement,
    detectors.Search,
    detectors.Outlier,
    detectors.LocalMatchedFilter,
    Clusters,
)
for kind in SETTINGS:
    defaults = {
        f.name: 0.5 if f.default is dataclasses.MISSING else f.default
        for f in dataclasses.fields(kind)
    }
    CALLS[kind.__name__] = kind, lambda _, defaults=defaults: dict(defaults)
# Whose place is taken by something else is not this call at all.
OWN = {("install", "self"), ("score", "monitor"), ("bank[...]", "bank"), ("push_to_hub", "bank")}

WITHOUT = {kind.__name__ for kind in SETTINGS if not dataclasses.fields(kind)}
WITH_ARGUMENTS = sorted(set(CALLS) - WITHOUT)
VALUES: dict[str, Any] = {
    "None": None,
    "True": True,
    "0": 0,
    "-1": -1,
    "2**80": 2**80,
    ".5": 0.5,
    "nan": float("nan"),
    "inf": float("inf"),
    "''": "",
    "'x'": "x",
    "a NUL": "a\0b",
    "a lone surrogate": "\ud83d",
    "bytes": b"t3 t4",
    "[]": [],
    "[None]": [None],
    "[[]]": [[]],
    "['']": [""],
    "[-1]": [-1],
    "[2**40]": [2**40],
    "[nan]": [float("nan")],
    "{}": {},
    "a dict": {"t3": "t4"},
    "a set": {"t3"},
    "an object": object(),
    "a class": ts.Positions,
    "numpy 1": np.int64(1),
    "numpy floats": np.ones(3),
    "numpy words": np.array(["t3", "t4"]),
    "a number in a tensor": torch.tensor(1),
    "ids": torch.tensor([3, 4]),
    "ids in rows": torch.tensor([[3, 4], [5, 6]]),
    "strange ids": [torch.tensor([-3, 10**6])],
    "floats": torch.ones(2, 24),
    "no rows": torch.ones(0, 24),
    "NaN in rows": torch.full((2, 24), torch.nan),
    "on meta": torch.ones(2, 24, device="meta"),
}


def attempt(model: Any, name: str, argument: str, value: Any) -> None:
    call, good = CALLS[name]
    with contextlib.suppress(ts.SteerError):
        call(**(good(model) | {argument: value}))


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_value_that_does_not_belong_there_is_refused_in_a_sentence(
    one, data, tmp_path_factory, monkeypatch
):
    monkeypatch.chdir(tmp_path_factory.getbasetemp())  # "x" is a good name for a log
    name = data.draw(st.sampled_from(WITH_ARGUMENTS))
    places = [a for a in CALLS[name][1](one) if (name, a) not in OWN]
    argument, value = data.draw(st.sampled_from(places)), data.draw(st.sampled_from(sorted(VALUES)))
    before = snapshot(one)
    attempt(one, name, argument, VALUES[value])
    assert snapshot(one) == before


@pytest.mark.parametrize("name", sorted(CALLS))
def test_the_arguments_that_are_said_to_work_do(name, one):
    call, good = CALLS[name]
    missing = {
        "from_pretrained": ts.errors.BankFileError,
        "load_bank": ts.errors.BankFileError,
        "load_sweep": ts.errors.SweepFileError,
        "notes": ts.errors.ReportFileError,
        "push_to_hub": ts.errors.WriteError,
    }
    expected = pytest.raises(missing[name]) if name in missing else contextlib.nullcontext()
    with expected:
        call(**good(one))


@pytest.mark.parametrize("name", sorted(set(CALLS) - {"bank[...]", "score"}))
def test_arguments_that_there_are_not_are_refused_in_a_sentence(name, one):
    call, good = CALLS[name]
    with pytest.raises(ts.SteerError, match="nonsense"):
        call(**good(one), nonsense=1)
