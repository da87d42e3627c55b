"""A search where everything but the CPU's own work lies on another device, by stand-ins.

Two things that a card refuses are asked for here: a least-squares driver that only the CPU has, and
comparing what came back from a bank, which is on the CPU, with edits that are not.
"""

import conftest
import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET
from devices import Devices, spread

import tl_steer as ts
from tl_steer.methods import Dct

pytestmark = pytest.mark.skipif(not conftest.HAS_BRIDGE, reason="bridges can be placed")
ASKED = {"n": 3, "radius": 3.0, "measured": ts.Positions(last=1), "progress": False}


@pytest.fixture
def elsewhere():
    devices, model = Devices(), conftest.bridge("llama")
    spread(devices, model, lambda layer: "xpu:0")
    with devices:
        yield model


def test_factors_and_their_weights_are_those_of_the_cpu(elsewhere, monkeypatch):
    solve, asked = torch.linalg.lstsq, []

    def as_on_a_card(a, b, *, rcond=None, driver=None):
        asked.append(driver)
        if "cpu" not in (a.device.type, b.device.type) and driver != "gels":
            raise RuntimeError("torch.linalg.lstsq: parameter `driver` should be one of (gels)")
        return solve(a, b, rcond=rcond, driver=driver)

    monkeypatch.setattr(torch.linalg, "lstsq", as_on_a_card)
    found = ts.elicit(elsewhere, PROMPTS, SOURCE, TARGET, method=Dct(steps=2), **ASKED)
    here = ts.elicit(
        conftest.make("bridge-llama"), PROMPTS, SOURCE, TARGET, method=Dct(steps=2), **ASKED
    )
    assert asked == ["gelsd", "gelsd"]
    torch.testing.assert_close(found.vectors, here.vectors, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.scores["alpha"], here.scores["alpha"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["additive", "gated", "clamp"])
def test_edits_that_lie_elsewhere_come_back_from_a_bank_and_are_compared_there(elsewhere, kind):
    segment = ts.Segment(elsewhere, ts.tokenize(elsewhere, PROMPTS), SOURCE, TARGET)
    assert segment.clean.device.type == "xpu"
    bank = ts.elicit(elsewhere, PROMPTS, SOURCE, TARGET, perturbation=kind, **ASKED)
    assert len(bank) == 3
