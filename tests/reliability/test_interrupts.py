"""A bounded part of `torture_interrupts.py`, and the clean-ups' own parts."""

import inspect
import random
import signal
import threading

import interrupts
import pytest
import torch
from conftest import KINDS, make
from state import snapshot

import tl_steer as ts
from tl_steer.files.undo import Scope, innermost, scoped, whole

QUICK = ("generate", "inspect", "perturbing", "rank", "segment", "shuffled", "sweep")
BOTH = [name for name in ("bridge-llama", "hooked-llama", "compat-gpt2") if name in KINDS]


@pytest.fixture(autouse=True)
def heard():
    """What a shell starts in the background ignores SIGINT, and so would these tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("way", interrupts.WAYS)
@pytest.mark.parametrize("name", BOTH)
def test_an_interrupted_call_leaves_nothing_changed(name, way, times):
    draw = random.Random(f"{name} {way} {times}")
    model = make(name)
    for verb in draw.sample(QUICK, 3):
        interrupt = interrupts.interrupt(model, verb, draw, way=way, times=times)
        assert interrupts.broken_by(model, verb, interrupt) == []


def test_weights_are_whole_again_when_ctrl_c_is_pressed_while_they_are_put_back(one, monkeypatch):
    before, copied = snapshot(one), []
    copy = torch.Tensor.copy_

    def pressed(self, *args):
        copied.append(1)
        if len(copied) in (2, 3):
            signal.raise_signal(signal.SIGINT)
        return copy(self, *args)

    with pytest.raises(KeyboardInterrupt), ts.models.shuffled(one):
        monkeypatch.setattr(torch.Tensor, "copy_", pressed)
    monkeypatch.undo()
    assert len(copied) > 3
    assert snapshot(one) == before


def test_ctrl_c_during_a_clean_up_is_heard_when_the_clean_up_is_done():
    done = []

    def undo():
        done.append("before")
        signal.raise_signal(signal.SIGINT)
        done.append("behind")

    with pytest.raises(KeyboardInterrupt):
        with Scope() as scope:
            scope.undo(done.append, "first")
            scope.undo(undo)
    assert done == ["before", "behind", "first"]


def test_an_undoing_that_is_interrupted_is_done_again():
    tries = []

    def undo():
        tries.append(1)
        if len(tries) < 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with Scope() as scope:
            scope.undo(undo)
    assert len(tries) == 3


def test_an_undoing_is_done_once_when_nothing_interrupts_it():
    done = []
    with Scope() as scope:
        scope.undo(done.append, 1)
        scope.undo(done.append, 2)
    assert done == [2, 1]


def test_a_handler_of_ones_own_gets_the_signal_and_stays():
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    own = signal.getsignal(signal.SIGINT)
    try:
        with Scope():
            signal.raise_signal(signal.SIGINT)
        assert heard == [1]
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_that_is_set_inside_stays():
    before = signal.getsignal(signal.SIGINT)
    try:
        with Scope():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_a_broken_scope_left_is_put_back_by_the_call_around_it():
    state = {"flag": False}

    @scoped
    def flagged(scope):
        scope.undo(state.__setitem__, "flag", False)
        state["flag"] = True
        return scope

    @whole
    def call():
        kept.append(flagged())
        kept[0].__enter__()  # nobody closes it
        assert state["flag"]

    kept = []
    call()
    assert not state["flag"]
    assert innermost() is None


def test_a_scope_opened_before_an_undoing_is_closed_after_it():
    order = []
    inner, newest = Scope(), Scope()

    @whole
    def call():
        outer = Scope().__enter__()
        outer.undo(order.append, "outer, first")
        inner.__enter__()
        inner.undo(order.append, "inner")
        inner.close()
        outer.undo(order.append, "outer, last")
        newest.__enter__()
        newest.undo(order.append, "newest")

    call()
    assert order == ["inner", "newest", "outer, last", "outer, first"]


def test_an_error_while_setting_up_puts_back_what_was_done():
    done = []

    @scoped
    def broken(scope):
        scope.undo(done.append, 1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        with broken():
            pass
    assert done == [1]


def test_the_gradient_mode_is_put_back_by_a_whole_call():
    @whole
    def call():
        torch.set_grad_enabled(False)

    call()
    assert torch.is_grad_enabled()


def test_signatures_of_context_managers_do_not_show_the_scope():
    assert next(iter(inspect.signature(ts.perturbing).parameters)) == "model"


def test_a_thread_leaves_the_handler_alone():
    seen = []

    def work():
        with Scope():
            seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
