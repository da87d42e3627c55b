"""Ctrl-C, once or twice, at any line of the package or at any time, in every public call."""

import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from conftest import PROMPTS, SOURCE, TARGET, bank_of
from state import snapshot
from tiny_monitor import answer, monitor_of

import tl_steer as ts
from tl_steer.files.undo import innermost

_PACKAGE = str(Path(ts.__file__).parent)
_BETWEEN: dict[str, Any] = {"source": SOURCE, "target": TARGET, "progress": False} | {
    "measured": ts.Positions(last=1, bos=False)
}
_OF_AN_MLP = _BETWEEN | {"source": "blocks.1.hook_mlp_out"}


def _ids(model: Any) -> Any:
    return ts.tokenize(model, PROMPTS[:1]).ids


def _watched(model: Any) -> None:
    with ts.watch(model, monitor_of(model), alpha=0.05):
        answer(model, _ids(model))


def _perturbed(model: Any) -> None:
    with ts.perturbing(model, bank_of(model)[0]), ts.perturbing(model, bank_of(model)[1]):
        model(_ids(model))


def _installed(model: Any) -> None:
    plain = getattr(model, "original_model", None)
    if plain is not None:
        with bank_of(model)[0].install(plain, positions=ts.Positions(last=1)):
            plain(_ids(model))


def _shuffled(model: Any) -> None:
    with ts.models.shuffled(model), ts.models.frozen(model):
        model(_ids(model))


def _segment(model: Any) -> None:
    with ts.models.frozen(model):
        segment = ts.models.Segment(model, ts.tokenize(model, PROMPTS), SOURCE, TARGET)
        segment.run(bank_of(model).perturbation()).sum().backward()


def _served(model: Any) -> None:
    with ts.serve(model, bank_of(model)):
        pass


VERBS: dict[str, Callable[[Any], object]] = {
    "elicit": lambda m: ts.elicit(m, PROMPTS, n=2, radius=3.0, **_BETWEEN),
    "elicit, adapters": lambda m: ts.elicit(
        m, PROMPTS, perturbation=ts.elicitation.Adapters(rank=1), n=2, radius=3.0, **_OF_AN_MLP
    ),
    "elicit against": lambda m: ts.elicit(
        m,
        PROMPTS[:2],
        against=m,
        n=2,
        radius=3.0,
        method=ts.methods.Ascent(steps=2),
        progress=False,
    ),
    "elicit, radius in the band": lambda m: ts.elicit(
        m, PROMPTS[:1], n=1, radius=ts.radii.InBand(max_new_tokens=4), **_BETWEEN
    ),
    "generate": lambda m: ts.generate(m, bank_of(m), PROMPTS, max_new_tokens=3),
    "sweep": lambda m: ts.sweep(m, bank_of(m), PROMPTS, generate=2, n_random=1, progress=False),
    "inspect": lambda m: ts.inspect(m, bank_of(m), PROMPTS[0]),
    "strengths": lambda m: ts.inspection.strengths(
        m, bank_of(m)[:1], PROMPTS[0], scales=(1.0,), max_new_tokens=3
    ),
    "continuations": lambda m: ts.inspection.continuations(
        m, bank_of(m)[:2], PROMPTS[0], max_new_tokens=3
    ),
    "rank": lambda m: ts.rank(m, bank_of(m), PROMPTS, by="next_token_kl"),
    "rank, switch": lambda m: ts.rank(m, bank_of(m)[:2], PROMPTS, by="switch"),
    "rank, flatness": lambda m: ts.rank(m, bank_of(m)[:2], PROMPTS, by="flatness"),
    "words": lambda m: ts.banks.words(m, bank_of(m)),
    "dose_response": lambda m: ts.dose_response(
        m, bank_of(m)[:1], PROMPTS[:1], shares=(0.5,), signs=(1,), max_new_tokens=4
    ),
    "from_vectors": lambda m: ts.Bank.from_vectors(m, bank_of(m), prompts=PROMPTS),
    "contrast": lambda m: ts.contrast(m, PROMPTS[:1], PROMPTS[1:], source=SOURCE),
    "watch": _watched,
    "serve": _served,
    "perturbing": _perturbed,
    "install": _installed,
    "shuffled": _shuffled,
    "segment": _segment,
}


@dataclass
class Injection:
    """Interrupts at the given numbers of lines of the package, counted from the start.

    `real` sends the signal, whose handler may hold it back; otherwise the exception is raised then
    and there, as no handler could prevent.
    """

    at: tuple[int, ...]
    real: bool
    lines: int = 0

    def _call(self, frame: Any, event: str, _arg: object) -> Any:
        return self._line if frame.f_code.co_filename.startswith(_PACKAGE) else None

    def _line(self, _frame: Any, event: str, _arg: object) -> Any:
        if event == "line":
            self.lines += 1
            if self.lines in self.at:
                if not self.real:
                    raise KeyboardInterrupt
                signal.raise_signal(signal.SIGINT)
        return self._line

    def _again(self, *_: object) -> None:
        # Python takes a trace function off that raised.
        if sys.gettrace() is None:
            sys.settrace(self._call)

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        sys.setprofile(self._again)
        sys.settrace(self._call)
        try:
            yield
        finally:
            sys.setprofile(None)
            sys.settrace(None)


@contextlib.contextmanager
def signals(times: tuple[float, ...]) -> Iterator[None]:
    """SIGINT to this process, so many seconds after the start and each other."""
    over = threading.Event()

    def send() -> None:
        for wait in times:
            if over.wait(wait):
                return
            os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        over.set()
        for _ in range(3):  # what is still on its way arrives here
            with contextlib.suppress(KeyboardInterrupt):
                sender.join()
                signal.sigtimedwait([], 0.001)


def everything(model: Any) -> dict[str, Any]:
    """What has to be as before."""
    return snapshot(model) | {
        "handler": signal.getsignal(signal.SIGINT),
        "scopes": innermost(),
        "inference mode": torch.is_inference_mode_enabled(),
        "own attributes": sorted(model.__dict__),
        "all hooks": [
            (list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.modules()
        ],
    }


def broken_by(model: Any, verb: str, interrupts: Any) -> list[str]:
    """What an interrupted call leaves changed."""
    before = everything(model)
    try:
        with interrupts:
            VERBS[verb](model)
    except KeyboardInterrupt:
        pass
    with contextlib.suppress(KeyboardInterrupt):
        signal.sigtimedwait([], 0.02)  # one that came where it had to wait
    after = everything(model)
    return [name for name in before if before[name] != after[name]]


def at_lines(model: Any, verb: str, draw: random.Random, *, times: int, real: bool) -> Injection:
    """Drawn from all lines that the call goes through."""
    counted = Injection((), real)
    with counted.on():
        VERBS[verb](model)
    first = draw.randint(1, counted.lines)
    rest = [first + draw.randint(1, 40) for _ in range(times - 1)]
    return Injection((first, *rest), real)


def at_times(model: Any, verb: str, draw: random.Random, *, times: int) -> Any:
    start = time.perf_counter()
    VERBS[verb](model)
    took = time.perf_counter() - start
    return signals((draw.uniform(0, took), *(draw.uniform(0, 0.01) for _ in range(times - 1))))


WAYS = ("raised", "signal", "any time")


def interrupt(model: Any, verb: str, draw: random.Random, *, way: str, times: int) -> Any:
    """A block in which that call is interrupted."""
    if way == "any time":
        return at_times(model, verb, draw, times=times)
    return at_lines(model, verb, draw, times=times, real=way == "signal").on()
