"""Files that version 0.1.0 wrote, before the package had wings, load and say what they said."""

import json
from pathlib import Path

import pytest

import tl_steer as ts
from tl_steer.monitoring.file import panel_digest

FILES = Path(__file__).parents[1] / "fixtures" / "0.1.0"
EXPECTED = json.loads((FILES / "expected.json").read_text())


@pytest.mark.parametrize("name", ["bank", "adapters", "checkpoint"])
def test_banks_and_checkpoints(name):
    assert ts.load_bank(FILES / f"{name}.safetensors").digest() == EXPECTED[name]


def test_labels_and_scores():
    bank = ts.load_bank(FILES / "bank.safetensors")
    assert list(bank.labels) == EXPECTED["labels"]
    assert bank.scores["other"].tolist() == [0, 1, 2, 3]
    assert bank.provenance.measured == ts.Positions(last=1, bos=False)


def test_a_checkpoint_is_still_one_that_a_run_can_go_on_from():
    from tl_steer.elicitation.checkpoint import read

    saved = read(FILES / "checkpoint.safetensors")
    assert not saved.finished
    assert saved.record is not None
    assert saved.record.step == 2
    assert saved.state.keys() >= {"here.vectors", "best.vectors", "step"}


def test_inspections():
    seen = ts.inspection.load_inspection(FILES / "inspection.safetensors")
    assert seen.kl[:, -1].tolist() == EXPECTED["inspection kl"]


def test_sweeps():
    found = ts.load_sweep(FILES / "sweep").evidence()
    assert [one.p for one in found] == EXPECTED["sweep p"]
    assert [one.verdict for one in found] == EXPECTED["sweep verdicts"]


def test_monitors():
    monitor = ts.Monitor.load(FILES / "monitor.safetensors")
    assert panel_digest(monitor) == EXPECTED["monitor"]
    assert float(monitor.calibration.statistic.max()) == EXPECTED["threshold"]
