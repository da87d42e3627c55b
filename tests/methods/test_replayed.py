"""A method on a recorded pass finds what it finds alone. Where the graph comes from is replaced
here: a stand-in that "replays" by running again, into the tensors of the recording."""

import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET, make

import tl_steer as ts
from tl_steer.errors import NotFiniteError, SettingError, ShapeError, TooLargeError
from tl_steer.methods import Ascent, Dct, Melbo, Power, Replayed
from tl_steer.models.state import frozen
from tl_steer.objectives import Displacement, Objective, recorded

METHODS = [Melbo(steps=4), Power(steps=4, tolerance=0)]
LAST = ts.Positions(last=1)
IDS = ["melbo", "power"]
replays = []


def rerun(run):
    """What a CUDA graph does to its tensors, without one."""
    found = run()

    def replay():
        again = run()
        replays.append(1)
        with torch.no_grad():
            for old, new in zip(parts(found), parts(again), strict=True):
                old.copy_(new)

    return found, replay


def parts(found):
    return found.value, found.response, *found.gradients


@pytest.fixture
def graphs(monkeypatch):
    """A CPU for a card."""
    replays.clear()
    monkeypatch.setattr(recorded, "graph_of", rerun)
    monkeypatch.setattr(recorded, "_GRAPHED", "cpu")


def problem(n=3, divergence="displacement", **knobs):
    model = make("bridge-llama")
    tokens = ts.tokenize(model, PROMPTS[:1])
    segment = ts.Segment(model, tokens, SOURCE, TARGET)
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(n, segment.source.width, generator=draw)
    return Objective(segment, divergence, tokens.mask, **knobs), ts.Additive(
        segment.source, rows, radius=2.0
    )


def steps_of(method, objective, start, **knobs):
    with frozen(objective.segment.model):
        return list(method(objective, start, **knobs))


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_every_step_is_that_of_the_method_alone(graphs, method):
    objective, start = problem()
    alone = steps_of(method, objective, start)
    found = steps_of(Replayed(method), objective, start)
    assert len(replays) == 1 + len(found) == 5  # one is the comparison
    # Looked at when all is done: a replay must not reach into steps that went before.
    for a, b in zip(alone, found, strict=True):
        torch.testing.assert_close(b.value, a.value)
        torch.testing.assert_close(b.perturbation.vectors, a.perturbation.vectors)
        assert a.state.keys() == b.state.keys()
    torch.testing.assert_close(start.vectors, problem()[1].vectors)


def test_an_evaluation_is_kept_through_the_replays_that_come_after_it(graphs):
    objective, start = problem()
    other = start.select([2, 0, 1])
    with frozen(objective.segment.model):
        pass_of = recorded.Recorded(objective, start)
        found, _ = pass_of(start), pass_of(other)
        wanted = objective(start)
    for kept, own in zip(parts(found), parts(wanted), strict=True):
        torch.testing.assert_close(kept, own)


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_a_search_goes_on_from_a_state(graphs, method):
    objective, start = problem()
    whole = steps_of(Replayed(method), objective, start)
    rest = steps_of(Replayed(method), objective, start, resume=whole[1].state)
    assert len(rest) == 2
    torch.testing.assert_close(rest[-1].perturbation.vectors, whole[-1].perturbation.vectors)


def test_elicit_takes_it_where_a_method_is_and_the_bank_says_so(graphs):
    model = make("bridge-llama")
    asked = {"n": 3, "radius": 2.0, "measured": LAST, "progress": False}
    banks = [
        ts.elicit(model, PROMPTS, SOURCE, TARGET, method=method, **asked)
        for method in (METHODS[0], Replayed(METHODS[0]))
    ]
    torch.testing.assert_close(banks[1].vectors, banks[0].vectors)
    made = banks[1].provenance
    assert made.method == "replayed"
    assert "Melbo" in str(made.settings)


def test_without_a_card_it_is_refused_and_nothing_is_run_instead():
    with pytest.raises(SettingError, match=r"The model is on cpu, and CUDA graphs are of CUDA"):
        ts.elicit(
            make("bridge-llama"), PROMPTS, SOURCE, TARGET, n=2, radius=2.0, progress=False,
            measured=LAST, method=Replayed(Melbo(steps=2)),
        )  # fmt: skip


@pytest.mark.parametrize("method", [Dct(), Ascent(), 3])
def test_methods_that_climb_by_more_than_the_gradient_are_refused(method):
    with pytest.raises((SettingError, ShapeError)):
        Replayed(method)


def test_an_objective_that_runs_other_tokens_at_every_step_is_refused(graphs):
    model = make("bridge-llama")
    with pytest.raises(SettingError, match=r"ContrastObjective runs other tokens at every step"):
        ts.elicit(
            model, PROMPTS, against=make("bridge-llama"), n=2, radius=2.0, progress=False,
            method=Replayed(Power(steps=2)),
        )  # fmt: skip


def test_more_vectors_than_one_pass_holds_are_refused_with_the_number_to_give(graphs):
    objective, start = problem(n=3, vec_batch=2)
    with pytest.raises(SettingError, match=r"Give vec_batch=3 if memory"):
        steps_of(Replayed(METHODS[0]), objective, start)


def test_a_replay_that_does_not_see_the_edits_is_refused(graphs, monkeypatch):
    monkeypatch.setattr(recorded, "graph_of", lambda run: (run(), lambda: None))
    with pytest.raises(SettingError, match=r"does not give what the pass gives"):
        steps_of(Replayed(METHODS[0]), *problem())


def test_a_divergence_that_is_another_at_every_call_is_refused(graphs):
    calls = []

    def drifting(steered, clean, measured):
        calls.append(1)
        return Displacement()(steered, clean, measured) * len(calls)

    with pytest.raises(SettingError, match=r"do something else at every call"):
        steps_of(Replayed(METHODS[0]), *problem(divergence=drifting))


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (RuntimeError("operation not permitted when stream is capturing"), SettingError,
         r"cannot be recorded as a CUDA graph \(RuntimeError: operation not permitted"),
        (torch.OutOfMemoryError("CUDA out of memory."), TooLargeError, r"pass of 3 vectors"),
    ],
)  # fmt: skip
def test_what_cannot_be_recorded_is_refused_with_what_was_said(
    graphs, monkeypatch, error, kind, told
):
    def fails(run):
        raise error

    monkeypatch.setattr(recorded, "graph_of", fails)
    with pytest.raises(kind, match=told):
        steps_of(Replayed(METHODS[0]), *problem())


def test_a_value_that_is_not_finite_names_its_step_and_vector(graphs):
    objective, start = problem()
    climbed = Replayed(Melbo(steps=3))(objective, start)
    with frozen(objective.segment.model):
        first = next(climbed)
        with torch.no_grad():
            # What the method holds is a copy, so that the NaN comes in by the recorded model.
            objective.segment.clean_source[:] = float("nan")
        with pytest.raises(NotFiniteError, match=r"at step 2 for vector 0"):
            next(climbed)
    assert bool(first.value.isfinite().all())
