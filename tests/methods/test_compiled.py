"""A method with compiled blocks finds what it finds alone. Most tests trace the blocks and leave
out the C++ compiler, which takes half a minute."""

import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET, make

import tl_steer as ts
from tl_steer.errors import SettingError
from tl_steer.methods import Compiled, Melbo, Power
from tl_steer.models import unbridged
from tl_steer.models.state import frozen
from tl_steer.objectives import Objective, compiled

METHODS = [Melbo(steps=3), Power(steps=3, tolerance=0)]


@pytest.fixture
def traced(monkeypatch):
    monkeypatch.setattr(compiled, "_BACKEND", "aot_eager")
    monkeypatch.setattr(compiled.shutil, "which", lambda name: name)


def problem(kind="bridge-llama", n=3):
    model = make(kind)
    tokens = ts.tokenize(model, PROMPTS[:1])
    segment = ts.Segment(model, tokens, SOURCE, TARGET)
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(n, segment.source.width, generator=draw)
    return Objective(segment, "displacement", tokens.mask), ts.Additive(
        segment.source, rows, radius=2.0
    )


def steps_of(method, objective, start):
    with frozen(objective.segment.model):
        return list(method(objective, start))


@pytest.mark.parametrize("method", METHODS, ids=["melbo", "power"])
def test_every_step_is_that_of_the_method_alone(traced, method, monkeypatch):
    objective, start = problem()
    alone = steps_of(method, objective, start)
    ran = []
    monkeypatch.setattr(
        compiled, "called", lambda *a: [ran.append(1), unbridged.called(*a)][1], raising=True
    )
    found = steps_of(Compiled(method), objective, start)
    for a, b in zip(alone, found, strict=True):
        torch.testing.assert_close(b.value, a.value, rtol=1e-4, atol=0)
        torch.testing.assert_close(
            b.perturbation.vectors, a.perturbation.vectors, rtol=1e-3, atol=1e-4
        )
    assert ran


def test_afterwards_blocks_run_as_they_were_written(traced):
    objective, start = problem()
    steps = Compiled(METHODS[1])(objective, start)
    with frozen(objective.segment.model):
        next(steps)
        during = {block.run for block in objective.segment.unbridged.values()}
        steps.close()
    assert unbridged.called not in during
    assert {block.run for block in objective.segment.unbridged.values()} == {unbridged.called}


def test_whoever_listens_inside_is_heard_still(traced):
    objective, start = problem()
    heard = []
    point = objective.segment.model.blocks[2].mlp.hook_out
    handle = point.register_forward_hook(lambda *_: heard.append(1))
    try:
        steps_of(Compiled(METHODS[1]), objective, start)
    finally:
        handle.remove()
    assert len(heard) >= METHODS[1].steps


def test_a_compiler_that_changes_the_numbers_is_refused(traced, monkeypatch):
    def wrong(graph, _):
        return lambda *args: tuple(out * 1.01 for out in graph(*args))

    monkeypatch.setattr(compiled, "_BACKEND", wrong)
    objective, start = problem()
    with pytest.raises(SettingError, match="give something else"):
        steps_of(Compiled(METHODS[1]), objective, start)
    assert {block.run for block in objective.segment.unbridged.values()} == {unbridged.called}


def test_what_the_compiler_says_is_one_sentence(traced, monkeypatch):
    def broken(graph, _):
        raise RuntimeError("no kernel for it")

    monkeypatch.setattr(compiled, "_BACKEND", broken)
    objective, start = problem()
    with pytest.raises(SettingError, match=r"does not take this model's blocks.*no kernel for it"):
        steps_of(Compiled(METHODS[1]), objective, start)


def test_models_whose_blocks_cannot_do_without_the_bridge_are_refused(traced):
    objective, start = problem()
    objective.segment.unbridged = {}
    with pytest.raises(SettingError, match="TransformerLens's parts"):
        steps_of(Compiled(METHODS[1]), objective, start)


def test_without_a_compiler_it_is_refused_and_nothing_is_run(monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    objective, start = problem()
    with pytest.raises(SettingError, match=r"needs a C\+\+ compiler"):
        steps_of(Compiled(METHODS[1]), objective, start)


@pytest.mark.skipif(compiled.shutil.which("g++") is None, reason="no g++ (apt-get install g++)")
def test_with_the_real_compiler_a_bank_is_the_same_and_says_how_it_was_made():
    model = make("bridge-llama")
    asked = {"n": 3, "radius": 2.0, "progress": False}
    banks = [
        ts.elicit(model, PROMPTS[:1], SOURCE, TARGET, method=method, **asked)
        for method in (METHODS[1], Compiled(METHODS[1]))
    ]
    torch.testing.assert_close(banks[1].vectors, banks[0].vectors, rtol=1e-3, atol=1e-4)
    assert banks[1].provenance.method == "compiled"
    assert "Power" in str(banks[1].provenance.settings)
