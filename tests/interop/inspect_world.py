"""A tiny model in a folder and its bank in a file, as `inspect eval` gets them."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest
from conftest import LLAMAS, _hugging_face, bank_of, make, tokenizer

import tl_steer as ts

pytest.importorskip("inspect_ai", reason="Inspect is an extra")

from inspect_ai import Task, eval as evaluate
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, system_message

# The words that a request's system message has.
SYSTEM = "t44 t45"
ASKED = ["t5 t9 t30", "t8 t3 t2", "t70 t1 t44", "t12 t13", "t14"]


@functools.cache
def folder() -> Path:
    """A model folder, with a bank file in it."""
    place = Path(tempfile.mkdtemp())
    _hugging_face("llama").save_pretrained(place)
    tokenizer().save_pretrained(place)
    bank_of(make(LLAMAS[0])).save(place / "bank.safetensors")
    return place


def bank_file() -> str:
    return str(folder() / "bank.safetensors")


@functools.cache
def loaded() -> Any:
    return ts.load_model(str(folder()))


def bank() -> Any:
    return ts.load_bank(bank_file())


def conversations(asked: list[str] = ASKED) -> list[Any]:
    return [ts.chat(text, system=SYSTEM) for text in asked]


def task(asked: list[str] = ASKED, target: str = "t61", **how: Any) -> Task:
    samples = [Sample(input=text, target=target, id=i) for i, text in enumerate(asked, 1)]
    told = {"solver": [system_message(SYSTEM), generate()], "scorer": includes()} | how
    return Task(dataset=samples, **told)


def run(what: Task, args: dict[str, Any], where: Path, **how: Any) -> EvalLog:
    """The log of an evaluation as Inspect's own reader opens it."""
    import tl_steer.interop.inspect_ai.provider  # noqa: F401 (what the entry point does)

    (log,) = evaluate(
        what,
        model=f"tl_steer/{folder()}",
        model_args=args,
        log_dir=str(where),
        display="none",
        **({"max_tokens": 6} | how),
    )
    return read_eval_log(log.location)


def said(log: EvalLog) -> list[str]:
    assert log.status == "success", str(log.error and log.error.message)[:2000]
    return [sample.output.completion for sample in log.samples or []]
