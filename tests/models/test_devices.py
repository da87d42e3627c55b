"""One model over several devices, as stand-ins (`devices.py`): everything follows its block."""

import conftest
import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET
from devices import Devices, spread
from tiny_monitor import QUIET, prompts

import tl_steer as ts
from tl_steer.elicitation.checkpoint import Checkpoint
from tl_steer.monitoring.file import panel_digest

pytestmark = pytest.mark.skipif(not conftest.HAS_BRIDGE, reason="bridges are spread over devices")
K = {"source": SOURCE, "target": TARGET, "n": 2, "radius": 3.0, "progress": False}
K["measured"] = ts.Positions(last=1)


HALVES, TURNS = (0, 0, 1, 1), (0, 1, 0, 1)


@pytest.fixture(params=[HALVES, TURNS])
def model(request):
    """Two blocks on one device and two on another, or in turns."""
    devices = Devices()
    found = conftest.bridge("llama")
    spread(devices, found, lambda layer: f"xpu:{request.param[layer]}")
    with devices:
        yield found


def plain():
    return conftest.make("bridge-llama")


@pytest.fixture(scope="module")
def bank():
    return ts.elicit(plain(), PROMPTS, **K)


def test_the_stand_ins_fail_where_devices_would():
    with Devices():
        here, there = torch.ones(2, device="xpu:0"), torch.ones(2, device="xpu:1")
        assert here.device == torch.device("xpu:0")
        assert (here.to(there) + there).device == torch.device("xpu:1")
        for fails in (lambda: here + there, lambda: torch.cat([here, torch.ones(2)])):
            with pytest.raises(RuntimeError, match="same device"):
                fails()
        with pytest.raises(TypeError):
            here.numpy()
        assert here.cpu().numpy().tolist() == [1, 1]


def test_vectors_are_learned_as_on_one_device(model, bank):
    found = ts.elicit(model, PROMPTS, **K)
    assert found.vectors.device == torch.device("cpu")
    assert torch.equal(found.vectors, bank.vectors)
    assert torch.equal(found.responses, bank.responses)


class Died(BaseException):
    """Stands for a process that ends without a word."""


METHODS = {
    "power": ts.methods.Power(steps=3, tolerance=0),
    "melbo": ts.methods.Melbo(steps=3),
    "sogi": ts.methods.Sogi(steps=3),
    "dct": ts.methods.Dct(steps=3),
    "quadratic": ts.methods.Quadratic(steps=3),
    "jacobian": ts.methods.Jacobian(passes=3),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_kind_of_climb_follows_the_blocks_and_goes_on_from_a_file(model, name, tmp_path):
    given, writes = K | {"method": METHODS[name]}, []
    expected = ts.elicit(plain(), PROMPTS, **given)
    with pytest.MonkeyPatch.context() as patch:
        write = Checkpoint.write

        def dying(self, *args, **kwargs):
            write(self, *args, **kwargs)
            writes.append(1)
            if len(writes) == 2:
                raise Died

        patch.setattr(Checkpoint, "write", dying)
        with pytest.raises(Died):
            ts.elicit(model, PROMPTS, **given, checkpoint=tmp_path / "b", every=0)
    found = ts.elicit(model, PROMPTS, **given, resume=tmp_path / "b")
    assert torch.equal(found.vectors, expected.vectors)
    assert torch.equal(found.objective, expected.objective)


def test_hooks_edit_and_capture_each_point_on_its_own_device(model, bank):
    names = [f"blocks.{i}.hook_resid_post" for i in range(4)]

    def seen(host):
        with torch.no_grad(), ts.perturbing(host, bank[1]), ts.capturing(host, names) as found:
            host(ts.tokenize(host, PROMPTS[:1]).ids)
        return found

    found = seen(model)
    assert len({str(values.device) for values in found.values()}) == 2
    for name, expected in seen(plain()).items():
        assert torch.equal(found[name].cpu(), expected)


ADAPTERS = {"perturbation": ts.elicitation.Adapters(rank=1, layers=(1, 3))}
ADAPTERS |= {"source": "blocks.1.hook_mlp_out", "target": "blocks.3.hook_resid_post"}


def test_adapters_of_maps_on_several_devices_are_where_each_map_is(model):
    expected = ts.elicit(plain(), PROMPTS, **K | ADAPTERS)
    found = ts.elicit(model, PROMPTS, **K | ADAPTERS)
    assert torch.equal(found.vectors, expected.vectors)
    assert VERBS["generate"](model, found) == VERBS["generate"](plain(), found)


def test_an_objective_reads_the_output_on_its_own_device(model):
    def learned(host):
        return ts.elicit(host, PROMPTS, **K, divergence=ts.objectives.OutputKL(host)).vectors

    assert torch.equal(learned(model), learned(plain()))


def test_a_monitor_reads_points_on_several_devices(model, bank):
    sites = ["blocks.1.hook_resid_post", TARGET]

    def heard(host):
        monitor = ts.Monitor.fit(host, bank, prompts(60), sites=sites, horizon=2, effect_prompts=4)
        with ts.watch(host, monitor, alpha=0.2) as session:
            for text in PROMPTS:
                host.generate(ts.tokenize(host, [text]).ids, max_new_tokens=3, **QUIET)
        return panel_digest(monitor), [alert.row() for alert in session.alerts]

    assert heard(model) == heard(plain())


VERBS = {
    "generate": lambda m, b: ts.generate(m, b, PROMPTS, max_new_tokens=3).texts,
    "sweep": lambda m, b: ts.sweep(m, b, PROMPTS, n_random=1, progress=False).rows(),
    "inspect": lambda m, b: ts.inspect(m, b, PROMPTS[0]).kl.tolist(),
    "switch": lambda m, b: ts.rank(m, b, PROMPTS, by="switch").scores["switch"].tolist(),
    "flatness": lambda m, b: ts.rank(m, b, PROMPTS, by="flatness").scores["flatness"].tolist(),
    "given": lambda m, b: ts.Bank.from_vectors(m, b, prompts=PROMPTS).responses.tolist(),
    "dose": lambda m, b: ts.dose_response(
        m, b, PROMPTS[:1], shares=(0.5,), max_new_tokens=2
    ).table(),
    "contrast": lambda m, b: ts.contrast(m, PROMPTS[:2], PROMPTS[2:], source=2).tolist(),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_says_what_it_says_of_the_model_on_one_device(model, bank, verb):
    assert str(VERBS[verb](model, bank)) == str(VERBS[verb](plain(), bank))
