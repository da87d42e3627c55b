"""Grids, sweeps and monitors on workers of a Ray cluster: what one process gives, whoever dies."""

import multiprocessing
import os

import pytest
import tiny_grid
import tiny_sweep
import torch

import tl_steer as ts
from tl_steer.models import Ray
from tl_steer.monitoring.detectors import MatchedFilter

ray = pytest.importorskip("ray", reason="ray is not installed")
TWO = Ray(workers=2)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two CPUs of this machine, whose workers find the tiny models by their names."""
    folder = str(tiny_grid.installed(tmp_path_factory.mktemp("named")))
    here = os.path.dirname(tiny_grid.__file__)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([folder, here]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


@pytest.fixture(scope="module")
def undisturbed(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "marks").mkdir()
    return tiny_grid.search(folder / "grid", folder / "marks").folder


@pytest.fixture
def marks(tmp_path):
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "_grid.json"}


def test_a_cell_whose_worker_is_killed_is_searched_again(undisturbed, tmp_path, marks):
    found = tiny_grid.search(tmp_path / "g", marks, deaths=1, engine=TWO)
    assert len(list(marks.iterdir())) == 1
    assert contents(found.folder) == contents(undisturbed)


def test_a_grid_whose_driver_is_killed_goes_on(undisturbed, tmp_path, marks, cluster):
    away = Ray(workers=2, address=cluster)
    args = (tmp_path / "g", marks, 4, away)
    # A fork of a server that was there before the cluster would not have the cluster's password.
    one = multiprocessing.get_context("spawn").Process(target=tiny_grid.keep_going, args=args)
    one.start()
    one.join()
    assert one.exitcode == -9
    assert not ts.elicitation.load_grid(tmp_path / "g").finished
    tiny_grid.search(tmp_path / "g", marks)
    assert contents(tmp_path / "g") == contents(undisturbed)


def test_a_sweep_writes_the_folder_that_one_process_writes(cluster, tmp_path):
    torch.set_num_threads(1)
    model = ts.load_model("tiny-reading")
    asked = {"n_random": 4, "part": 2, "metrics": ["kl", "divergence", lambda r: r.steered[..., 3]]}
    for name, engine in (("alone", None), ("dealt", TWO)):
        ts.sweep(
            model, tiny_sweep.bank(model), tiny_sweep.prompts(11), save=tmp_path / name,
            engine=engine, progress=False, **asked,
        )  # fmt: skip
    alone, dealt = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("alone", "dealt")
    )
    assert len(alone) == 6 + 2
    assert dealt == alone


def test_a_monitors_effects_are_those_that_one_process_measures(cluster, tmp_path):
    model = ts.load_model("tiny-heard")
    for name, engine in (("alone", None), ("dealt", Ray(workers=1))):
        ts.Monitor.fit(
            model, tiny_sweep.bank(model, 9), tiny_sweep.prompts(60), sites=[tiny_sweep.TARGET],
            horizon=0, ends=1, effect_prompts=8, score=MatchedFilter(), engine=engine,
        ).save(tmp_path / name)  # fmt: skip
    assert (tmp_path / "dealt").read_bytes() == (tmp_path / "alone").read_bytes()
