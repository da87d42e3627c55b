"""A score of one's own is saved with its monitor by registration, and read where its class is."""

import subprocess
import sys
import textwrap
from dataclasses import dataclass

import pytest
import torch
from test_monitor import monitor_without_a_model
from tiny_monitor import WIDTH, scores_of, synthetic
from torch import Tensor

import tl_steer as ts
from tl_steer.errors import BankFileError, SettingError
from tl_steer.monitoring import detectors as d, file as panelfile
from tl_steer.monitoring.detectors.registry import FITTED, register

MODULE = """
    from dataclasses import dataclass

    import torch
    from torch import Tensor
    from torch.nn.functional import normalize

    from tl_steer.monitoring.detectors import register

    print("imported")

    @register("along")
    @dataclass(frozen=True, eq=False)
    class Along:
        centre: Tensor
        directions: Tensor
        power: float
        times: int = 1

        def __call__(self, activations):
            along = (activations - self.centre) @ self.directions
            return self.times * along.abs() ** self.power

    def score(reference):
        directions = normalize(reference.responses, dim=1).T.contiguous()
        return Along(reference.clean.mean(dim=0), directions, 1.5, times=2)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that registers a detector, not imported yet, and forgotten afterwards."""
    (tmp_path / "my_scores.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(FITTED)
    yield tmp_path
    FITTED.clear()
    FITTED.update(before)
    sys.modules.pop("my_scores", None)


def elsewhere(folder, program):
    """What a fresh process prints."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": ":".join([str(folder), *sys.path])},
    )


def test_a_registered_detector_comes_back_in_a_process_that_imported_its_module(module):
    import my_scores

    monitor = monitor_without_a_model(score=[my_scores.score, d.MatchedFilter()])
    path = monitor.save(module / "m.safetensors")
    traffic = synthetic(6, 3)
    here, there = (scores_of(m, traffic) for m in (monitor, ts.Monitor.load(path)))
    assert torch.equal(here.statistic, there.statistic)
    torch.save((traffic.activations, traffic.mask), module / "traffic.pt")
    program = """
        import torch, tl_steer as ts
        {first}
        monitor = ts.Monitor.load("m.safetensors")
        activations, mask = torch.load("traffic.pt")
        print(monitor.score(activations, mask=mask).statistic.tolist())
    """
    found = elsewhere(module, program.format(first="import my_scores"))
    assert found.stdout.splitlines() == ["imported", str(here.statistic.tolist())], found.stderr
    refused = elsewhere(module, program.format(first=""))
    assert "imported" not in refused.stdout, "a file imports nothing"
    assert (
        "m.safetensors holds the detector 'along', which is registered in the module 'my_scores': "
        "import that first."
    ) in refused.stderr


def test_files_of_our_own_detectors_name_no_module():
    meta, _ = panelfile._pack(monitor_without_a_model())
    assert all(set(kind) == {"kind", "numbers"} for kind in meta["detectors"].values())


@pytest.mark.parametrize(
    "change",
    [
        lambda meta, tensors, at: meta["detectors"][at]["numbers"].update(power="x"),
        lambda meta, tensors, at: meta["detectors"][at]["numbers"].update(power=1e300),
        lambda meta, tensors, at: meta["detectors"][at]["numbers"].update(times=-1),
        lambda meta, tensors, at: meta["detectors"][at]["numbers"].update(other=1),
        lambda meta, tensors, at: meta["detectors"][at]["numbers"].pop("times"),
        lambda meta, tensors, at: tensors.update({f"{at}.centre": torch.full((WIDTH,), torch.nan)}),
        lambda meta, tensors, at: tensors.update({f"{at}.directions": torch.ones(WIDTH, 1)}),
    ],
)
def test_what_a_file_says_of_a_registered_detector_is_not_trusted(module, change):
    import my_scores

    meta, tensors = panelfile._pack(monitor_without_a_model(score=my_scores.score))
    change(meta, tensors, "detector.0.1.known.0")
    path = panelfile._FILE.write(module / "m.safetensors", meta, tensors)
    with pytest.raises(BankFileError):
        ts.Monitor.load(path)


def test_what_is_not_registered_says_how_it_is(tmp_path):
    @dataclass(frozen=True, eq=False)
    class Mine:
        directions: Tensor

        def __call__(self, activations):
            return activations @ self.directions

    monitor = monitor_without_a_model(score=lambda reference: Mine(reference.responses.T))
    with pytest.raises(SettingError, match=r"A Mine cannot be saved.*register\('a_name'\) above"):
        monitor.save(tmp_path / "m.safetensors")


def registered(name="mine", **fields):
    made = type("Mine", (), {"__annotations__": fields, "__call__": lambda self, h: h})
    return register(name)(dataclass(frozen=True)(made))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda: register("two words"), "expected a name for the detector"),
        (
            lambda: registered("Affine"),
            "The detector 'Affine' is tl_steer.* already; register Mine",
        ),
        (lambda: registered(words=str), r"Mine.words is <class 'str'>; a monitor's file holds"),
        (lambda: registered(words="Nowhere"), "a type in Mine: name 'Nowhere' is not defined"),
        (lambda: register("mine")(dataclass(type("Mine", (), {}))), r"dataclass\(frozen=True\)"),
        (
            lambda: register("mine")(dataclass(frozen=True)(type("Mine", (), {}))),
            r"Mine has no __call__\(activations\)",
        ),
    ],
)
def test_what_no_file_can_hold_is_not_registered(how, words):
    before = dict(FITTED)
    with pytest.raises(SettingError, match=words):
        how()
    assert before == FITTED


def test_a_class_may_be_registered_again_by_its_own_name(monkeypatch):
    monkeypatch.delitem(FITTED, "mine", raising=False)
    registered()
    again = registered()
    assert FITTED.pop("mine") is again


def test_classes_stand_for_scores():
    first = monitor_without_a_model(score=d.MatchedFilter, unknown=d.Mahalanobis, namer=None)
    second = monitor_without_a_model(score=d.MatchedFilter(), unknown=d.Mahalanobis(), namer=None)
    assert first.settings == second.settings
    assert torch.equal(first.calibration.statistic, second.calibration.statistic)
