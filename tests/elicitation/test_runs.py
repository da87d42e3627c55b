"""Long runs: memory that runs out, checkpoints, and going on from them."""

import contextlib
import os
import signal
import warnings
from types import SimpleNamespace

import pytest
import tiny_run
import torch
from conftest import HAS_BRIDGE, HAS_HOOKED, PROMPTS, SOURCE, TARGET, bridge, hooked
from linear import LinearHost

import tl_steer as ts
from tl_steer.banks.file import load_checkpoint
from tl_steer.elicitation import checkpoint
from tl_steer.elicitation.checkpoint import Checkpoint
from tl_steer.errors import BankFileError, SettingError, TooLargeError
from tl_steer.methods import METHODS, Iterate, evaluated
from tl_steer.models.calls import Call
from tl_steer.models.state import frozen
from tl_steer.objectives.objective import Evaluation, Objective
from tl_steer.objectives.parts import in_parts

BUILDERS = {"bridge": bridge} if HAS_BRIDGE else {}
BUILDERS |= {"hooked": hooked} if HAS_HOOKED else {}
CPU_ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 9000000000000 bytes. Error code 12 (Cannot allocate memory)"
)


def holder(vec_batch):
    return SimpleNamespace(vec_batch=vec_batch, said_smaller=False)


def room_for(most, error, seen):
    """A function of rows that runs out of memory above `most` rows."""

    def function(rows):
        if rows.stop - rows.start > most:
            raise error
        seen.append(rows)
        return list(range(rows.start, rows.stop))

    return function


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU_ALLOCATOR), MemoryError()],
)
def test_when_memory_runs_out_parts_are_halved_and_nothing_is_done_twice(error):
    own, seen = holder(16), []
    with pytest.warns(UserWarning, match="vec_batch=4") as warned:
        done = in_parts(21, own, room_for(5, error, seen))
    assert [i for part in done for i in part] == list(range(21))
    assert [rows.stop - rows.start for rows in seen] == [4, 4, 4, 4, 4, 1]
    assert own.vec_batch == 4
    assert len(warned) == 1


def test_the_warning_comes_once_and_the_smaller_number_is_kept():
    own, seen = holder(8), []
    with pytest.warns(UserWarning, match="vec_batch=4"):
        in_parts(8, own, room_for(4, MemoryError(), seen))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        in_parts(8, own, room_for(2, MemoryError(), seen))
        in_parts(8, own, room_for(8, MemoryError(), seen))
    assert [rows.stop - rows.start for rows in seen] == [4, 4, 2, 2, 2, 2, 2, 2, 2, 2]


def test_a_single_row_that_does_not_fit_is_an_error_that_says_what_to_do():
    with pytest.raises(TooLargeError, match=r"single perturbation.*Use fewer or shorter prompts"):
        in_parts(4, holder(4), room_for(0, MemoryError("no room"), []))


def test_other_errors_are_passed_on_at_once():
    own = holder(4)
    with pytest.raises(RuntimeError, match="size mismatch"):
        in_parts(4, own, room_for(0, RuntimeError("size mismatch"), []))
    assert own.vec_batch == 4


# Going on from a checkpoint


FAST = {
    "source": SOURCE,
    "target": TARGET,
    "n": 4,
    "radius": 1.0,
    "progress": False,
    "measured": ts.Positions(last=2, bos=False),
}
LONG = {
    "power": ts.methods.Power(steps=6, tolerance=0),
    "power, stopping early": ts.methods.Power(steps=30, tolerance=0.5),
    "power, orthogonal": ts.methods.Power(steps=5, tolerance=0, spread=1),
    "melbo": ts.methods.Melbo(steps=6, lr=0.05),
    "melbo, orthogonal": ts.methods.Melbo(steps=6, lr=0.05, orthogonal=True),
    **{name: new() for name, new in METHODS.items() if name not in ("power", "melbo")},
}


def same(a, b):
    """Equal in every bit and every word."""
    assert torch.equal(a.vectors, b.vectors)
    assert torch.equal(a.responses, b.responses)
    assert torch.equal(a.objective, b.objective)
    assert a.scores.keys() == b.scores.keys()
    assert all(torch.equal(a.scores[name], b.scores[name]) for name in a.scores)
    assert a.provenance == b.provenance
    assert (a.radius, a.radius_share, a.labels) == (b.radius, b.radius_share, b.labels)


class Died(BaseException):
    """Stands for a process that ends without a word."""


def dying(monkeypatch, at_write):
    """Let the process end right after checkpoint number `at_write`."""
    writes = {"n": 0}
    write = Checkpoint.write

    def then_die(self, *args, **kwargs):
        write(self, *args, **kwargs)
        writes["n"] += 1
        if writes["n"] == at_write:
            raise Died

    monkeypatch.setattr(Checkpoint, "write", then_die)


@pytest.mark.parametrize(
    ("name", "after"), [(name, 3) for name in LONG] + [("melbo", 1), ("auto", -1)]
)
def test_going_on_from_any_step_gives_the_same_bank_bit_for_bit(one, tmp_path, name, after):
    whole = ts.elicit(one, PROMPTS, **FAST, method=LONG[name])
    path = tmp_path / "b.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        writes = []
        patch.setattr(Checkpoint, "write", lambda self, *given: writes.append(given))
        ts.elicit(one, PROMPTS, **FAST, method=LONG[name], checkpoint=path, every=0)
    last = len(writes) - 1  # the very last write is the finished bank
    after = last if after == -1 else min(after, last)
    with pytest.MonkeyPatch.context() as patch:
        dying(patch, after)
        with pytest.raises(Died):
            ts.elicit(one, PROMPTS, **FAST, method=LONG[name], checkpoint=path, every=0)
    bank, state = load_checkpoint(ts.Bank, path)
    assert state
    assert bank.provenance.notes[0].startswith(f"checkpoint after step {after} of ")
    same(ts.elicit(one, PROMPTS, **FAST, method=LONG[name], resume=path), whole)
    same(ts.load_bank(path), whole)
    assert load_checkpoint(ts.Bank, path)[1] == {}


def test_a_checkpoint_is_a_bank_that_tells_the_truth_about_its_vectors(one, tmp_path, monkeypatch):
    path = tmp_path / "b.safetensors"
    dying(monkeypatch, 2)
    with pytest.raises(Died):
        ts.elicit(
            one, PROMPTS, **FAST, method=ts.methods.Melbo(steps=9, lr=0.1), checkpoint=path, every=0
        )
    bank = ts.load_bank(path)
    segment = ts.Segment(one, ts.tokenize(one, PROMPTS), SOURCE, TARGET)
    measured = FAST["measured"].measure(segment.mask, segment.tokens.has_bos)
    at = Objective(segment, ts.objectives.Displacement(), measured)(
        bank.perturbation(), gradient=False
    )
    torch.testing.assert_close(bank.objective, at.value)
    torch.testing.assert_close(bank.responses, at.response)
    assert bank.objective.tolist() == sorted(bank.objective.tolist(), reverse=True)
    torch.testing.assert_close(bank.vectors.norm(dim=1), torch.ones(4))


def test_the_radius_is_not_sought_again(one, tmp_path, monkeypatch):
    path = tmp_path / "b.safetensors"
    sought = []

    class Rule:
        def __call__(self, segment, measured, seed):
            sought.append(seed)
            return 0.75

    dying(monkeypatch, 1)
    with pytest.raises(Died):
        ts.elicit(one, PROMPTS, **FAST | {"radius": Rule()}, checkpoint=path)
    assert ts.elicit(one, PROMPTS, **FAST | {"radius": Rule()}, resume=path).radius == 0.75
    assert len(sought) == 1


DIFFERENT = {
    "method": {"method": ts.methods.Melbo(steps=3)},
    "settings": {"method": ts.methods.Power(steps=7)},
    "seed": {"seed": 1},
    "source": {"source": "blocks.0.hook_resid_post"},
    "target": {"target": "blocks.2.hook_resid_post"},
    "n": {"n": 5},
    "radius": {"radius": 2.0},
    "radius is 1.0 there and InBand": {"radius": "auto"},
    "divergence": {"divergence": ts.objectives.Cosine()},
    "measured": {"measured": ts.Positions(last=1)},
    "positions": {"positions": ts.Positions(last=1)},
}


# A finished bank knows its radius, and no longer by which rule it was found.
@pytest.mark.parametrize(
    ("word", "finished"),
    [(w, f) for w in DIFFERENT for f in (False, True) if not (f and "there and" in w)],
)
def test_a_run_that_was_asked_for_differently_is_refused_and_named(one, tmp_path, word, finished):
    path = tmp_path / "b.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        if not finished:
            dying(patch, 1)
        with contextlib.suppress(Died):
            ts.elicit(one, PROMPTS, **FAST, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(SettingError, match=rf"another run: .*{word}"):
        ts.elicit(one, PROMPTS, **FAST | DIFFERENT[word], resume=path)
    assert path.read_bytes() == before


def test_other_prompts_and_another_model_are_refused(tmp_path):
    path = tmp_path / "b.safetensors"
    tiny = {"source": "blocks.0.hook_resid_post", "target": "blocks.2.hook_resid_post"}
    generator = torch.Generator().manual_seed(0)
    hosts = [LinearHost([torch.randn(8, 8, generator=generator)] * 3) for _ in range(2)]
    knobs = tiny | {"n": 2, "radius": 1, "progress": False, "measured": ts.Positions(last=1)}
    ts.elicit(hosts[0], ["1 2 3"], **knobs, checkpoint=path)
    with pytest.raises(SettingError, match="prompts is"):
        ts.elicit(hosts[0], ["1 2 4"], **knobs, resume=path)
    with pytest.raises(SettingError, match="model is linear"):
        ts.elicit(hosts[1], ["1 2 3"], **knobs, resume=path)


def test_a_finished_bank_comes_back_as_it_is(one, tmp_path):
    path, other = tmp_path / "b.safetensors", tmp_path / "c.safetensors"
    whole = ts.elicit(one, PROMPTS, **FAST, checkpoint=path)
    before = path.read_bytes()
    same(ts.elicit(one, PROMPTS, **FAST, resume=path, checkpoint=other), whole)
    assert path.read_bytes() == before
    same(ts.load_bank(other), whole)


def test_ctrl_c_leaves_a_checkpoint_that_can_be_resumed(one, tmp_path):
    path = tmp_path / "b.safetensors"
    whole = ts.elicit(one, PROMPTS, **FAST)
    calls = {"n": 0}
    measure = Objective.__call__

    def ctrl_c(self, *args, **kwargs):
        calls["n"] += kwargs.get("gradient", True)
        if calls["n"] == 4:
            calls["n"] += 1
            raise KeyboardInterrupt
        return measure(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objective, "__call__", ctrl_c)
        found = ts.elicit(one, PROMPTS, **FAST, checkpoint=path)
    assert found.provenance.notes == ("interrupted after step 3 of 12",)
    same(ts.load_bank(path), found)
    same(ts.elicit(one, PROMPTS, **FAST, resume=path), whole)
    # Saved by hand, the bank has no state any more.
    found.save(path)
    with pytest.raises(SettingError, match="without the run's state"):
        ts.elicit(one, PROMPTS, **FAST, resume=path)


def test_an_unfinished_run_and_foreign_files_are_not_replaced(one, tmp_path, monkeypatch):
    path = tmp_path / "b.safetensors"
    dying(monkeypatch, 1)
    with pytest.raises(Died):
        ts.elicit(one, PROMPTS, **FAST, checkpoint=path)
    with pytest.raises(SettingError, match=r"unfinished run \(checkpoint after step 1 of 12\)"):
        ts.elicit(one, PROMPTS, **FAST, checkpoint=path)
    path.write_text("my thesis")
    with pytest.raises(SettingError, match="is not a bank"):
        ts.elicit(one, PROMPTS, **FAST, checkpoint=path)
    assert path.read_text() == "my thesis"
    with pytest.raises(BankFileError, match="No bank at"):
        ts.elicit(one, PROMPTS, **FAST, resume=tmp_path / "typo.safetensors")
    with pytest.raises(SettingError, match="every=-1"):
        ts.elicit(one, PROMPTS, **FAST, checkpoint=tmp_path / "new", every=-1)


def stateless(objective, start):
    for step in (1, 2, 3):
        yield ts.methods.Iterate(start, objective(start).value, step, 3)


def test_a_method_without_a_state_says_so_when_a_checkpoint_is_asked_for(one, tmp_path):
    path = tmp_path / "b.safetensors"
    says_so = pytest.warns(UserWarning, match="'stateless' takes no resume=")
    with pytest.MonkeyPatch.context() as patch, says_so, pytest.raises(Died):
        dying(patch, 2)
        ts.elicit(one, PROMPTS, **FAST, method=stateless, checkpoint=path, every=0)
    assert ts.load_bank(path).provenance.notes == ("checkpoint after step 2 of 3",)
    with pytest.raises(SettingError, match="cannot be resumed"):
        ts.elicit(one, PROMPTS, **FAST, method=stateless, resume=path)


def test_checkpoints_come_after_the_first_step_and_then_by_the_clock(one, monkeypatch, tmp_path):
    bank = ts.elicit(one, PROMPTS, **FAST, method=ts.methods.Power(steps=1))
    now = [0.0]
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(checkpoint, "save_checkpoint", lambda *_, **__: None)
    file = Checkpoint(tmp_path / "b", every=5, resumed=False)
    due = []
    for now[0] in (10.0, 20.0, 309.0, 310.0, 320.0, 900.0):
        due.append(file.due())
        if due[-1]:
            file.write(bank)
    assert due == [True, False, False, True, False, True]


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(one, tmp_path, monkeypatch):
    path = tmp_path / "b.safetensors"
    saves = {"n": 0}
    save = checkpoint.save_checkpoint

    def fails_later(*args, **kwargs):
        saves["n"] += 1
        if saves["n"] > 1:
            raise OSError("No space left on device")
        return save(*args, **kwargs)

    monkeypatch.setattr(checkpoint, "save_checkpoint", fails_later)
    with pytest.warns(UserWarning, match="No checkpoint could be written.*No space"):
        bank = ts.elicit(one, PROMPTS, **FAST, checkpoint=path, every=0)
    assert bank.provenance.notes == ()
    assert ts.load_bank(path).provenance.notes == ("checkpoint after step 1 of 12",)
    saves["n"] = 1
    with pytest.raises(OSError, match="No space"):  # the first one: nothing is lost yet
        ts.elicit(one, PROMPTS, **FAST, checkpoint=tmp_path / "c.safetensors")


def test_a_death_between_write_and_rename_keeps_the_checkpoint_before(one, tmp_path, monkeypatch):
    path = tmp_path / "b.safetensors"
    whole = ts.elicit(one, PROMPTS, **FAST)
    renames = {"n": 0}
    rename = os.replace

    def dies(draft, final):
        renames["n"] += 1
        if renames["n"] == 3:
            raise Died
        rename(draft, final)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", dies)
        patch.setattr(type(path), "unlink", lambda *_, **__: None)  # the dead do not tidy up
        with pytest.raises(Died):
            ts.elicit(one, PROMPTS, **FAST, checkpoint=path, every=0)
    assert len(list(tmp_path.iterdir())) == 2
    assert ts.load_bank(path).provenance.notes == ("checkpoint after step 2 of 12",)
    same(ts.elicit(one, PROMPTS, **FAST, resume=path), whole)
    assert list(tmp_path.iterdir()) == [path]


def test_kill_9_at_any_moment_leaves_a_bank_that_loads_and_goes_on(tmp_path, processes):
    path = tmp_path / "b.safetensors"
    torch.set_num_threads(1)
    whole = tiny_run.run()

    def start(*arguments):
        process = processes.Process(target=tiny_run.keep_going, args=(path, *arguments))
        process.start()
        return process

    def killed(process):
        process.join()
        assert process.exitcode == -signal.SIGKILL
        bank, state = load_checkpoint(ts.Bank, path)
        assert len(bank) == 5
        assert state

    killed(start(3))  # with a complete draft that was not renamed
    process, seen = start(), {path.stat().st_mtime_ns}
    while len(seen) < 9 and process.is_alive():
        process.join(timeout=0.001)
        seen.add(path.stat().st_mtime_ns)
    process.kill()  # at whatever it does after so many writes
    killed(process)
    process = start()
    process.join()
    assert process.exitcode == 0
    same(ts.load_bank(path), whole)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("method", [ts.methods.Power(steps=4), ts.methods.Melbo(steps=4, lr=0.05)])
def test_half_precision_models_get_float32_vectors_in_the_same_direction(build, dtype, method):
    wide, half = BUILDERS[build]("llama"), BUILDERS[build]("llama", dtype=dtype)
    half.load_state_dict(wide.state_dict())
    kept = []

    def watched(objective, start):
        for iterate in method(objective, start):
            kept.append(next(iterate.perturbation.parameters()).dtype)
            yield iterate

    truth = ts.elicit(wide, PROMPTS, **FAST, method=method)
    bank = ts.elicit(half, PROMPTS, **FAST, method=watched)
    assert set(kept) == {torch.float32}
    for values in (bank.vectors, bank.responses, bank.objective):
        assert values.dtype == torch.float32
        assert bool(values.isfinite().all())
    # Four vectors, in whatever order: each has one in the wide model's bank that it resembles.
    alike = torch.nn.functional.normalize(bank.vectors) @ truth.vectors.T
    assert float(alike.max(dim=1).values.min()) > 0.95
    with torch.no_grad(), ts.capturing(half, [SOURCE]) as seen:
        half.run_with_hooks(ts.tokenize(half, PROMPTS[:1]).ids, fwd_hooks=bank[0].hooks())
    assert seen[SOURCE].dtype == dtype


def test_a_replayed_block_gets_the_stream_on_the_device_where_the_model_gave_it():
    # The meta device stands for a second one: it holds no numbers, but knows where a tensor is.
    call = Call((), {}, None, torch.device("meta"))
    assert call(lambda residual: residual, torch.ones(2, 1, 4), 2).device.type == "meta"
    host = LinearHost([torch.eye(4)] * 2)
    segment = ts.Segment(
        host, ts.tokenize(host, ["1 2"]), *[f"blocks.{i}.hook_resid_post" for i in (0, 1)]
    )
    assert {call.device for call in segment.calls.values()} == {torch.device("cpu")}


@pytest.mark.parametrize(
    "method", [ts.methods.Power(steps=5, tolerance=0), ts.methods.Melbo(steps=5, lr=0.05)]
)
def test_states_that_somebody_keeps_stay_what_they_were(one, method):
    segment = ts.Segment(one, ts.tokenize(one, PROMPTS), SOURCE, TARGET)
    objective = Objective(segment, ts.objectives.Displacement(), segment.mask)
    generator = torch.Generator().manual_seed(0)
    start = ts.Additive.random(segment.source, 4, radius=1.0, generator=generator)
    with frozen(one):
        kept = list(method(objective, start))
        again = list(method(objective, start, resume=kept[1].state))
    assert [iterate.step for iterate in again] == [3, 4, 5]
    for now, then in zip(again, kept[2:], strict=True):
        assert torch.equal(now.perturbation.vectors, then.perturbation.vectors)
        assert torch.equal(now.value, then.value)


@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        (ts.methods.Power(steps=3, tolerance=0), [True] * 3),
        (ts.methods.Ascent(steps=3), [True] * 3),
        (ts.methods.Melbo(steps=2, lr=0.05), [True] * 2 + [False]),
        (ts.methods.Dct(steps=2), [False]),
        (ts.methods.Sogi(steps=2), [False]),
        (ts.methods.Jacobian(passes=2), [False]),
    ],
    ids=lambda given: type(given).__name__,
)
def test_the_end_of_a_run_is_evaluated_once(one, monkeypatch, method, kinds):
    passes, one_pass = [], Objective.one_pass

    def counted(self, part, gradient):
        passes.append(gradient)
        return one_pass(self, part, gradient)

    monkeypatch.setattr(Objective, "one_pass", counted)
    bank = ts.elicit(one, PROMPTS, **FAST, method=method)
    assert passes == kinds
    again = ts.Bank.from_vectors(one, bank, prompts=PROMPTS)
    torch.testing.assert_close(bank.objective, again.objective, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bank.responses, again.responses, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_of_the_last_step_is_the_bank_of_the_end(one, monkeypatch, tmp_path):
    method, passes, one_pass = ts.methods.Melbo(steps=3, lr=0.05), [], Objective.one_pass
    whole = ts.elicit(one, PROMPTS, **FAST, method=method)

    def counted(self, part, gradient):
        passes.append(gradient)
        return one_pass(self, part, gradient)

    monkeypatch.setattr(Objective, "one_pass", counted)
    path = tmp_path / "b.safetensors"
    same(ts.elicit(one, PROMPTS, **FAST, method=method, checkpoint=path, every=0), whole)
    assert passes == [True, False] * 3
    same(ts.load_bank(path), whole)


def test_answers_that_are_drawn_are_evaluated_once_more_at_the_end():
    site = ts.hook_points.Site(SOURCE, 1, "hook_resid_post", 3)
    edits = ts.Additive(site, torch.ones(2, 3), radius=1.0)
    before = Evaluation(torch.ones(2), torch.ones(2, 3))
    iterate = Iterate(edits, torch.ones(2), 1, 1, evaluation=before)
    anew = Evaluation(torch.zeros(2), torch.zeros(2, 3))

    class Drawn:
        steady = False

        def __call__(self, perturbation, *, gradient):
            return anew

    assert evaluated(Drawn(), iterate) is anew
    Drawn.steady = True
    assert evaluated(Drawn(), iterate) is before
