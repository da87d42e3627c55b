"""A sweep against the loop that one would write, and many vectors in one generation.

    python tests/benchmarks/sweep.py

The loop: for every batch of prompts one clean pass, then for every vector one pass with
TransformerLens's hooks, full logits, and the same metrics on the token after the prompt. It gets
the prompts in batches of 16, padded to the longest, as the sweep's source gives them. Only some of
its vectors and prompts are run and its time is scaled; the sweep runs in full unless told
otherwise. Both run without random vectors, and their values are compared cell by cell. The loop is
run before the sweep and behind it, and seconds are the process's own, which neighbours on the
machine stretch less.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from page import table, timed, write_section

import tl_steer as ts
from tl_steer.organisms.data import questions
from tl_steer.sweeps.metric import METRICS

SOURCE, TARGET = "blocks.7.hook_resid_post", "blocks.20.hook_resid_post"
NAMES = ("kl", "entropy", "flip", "divergence", "alignment")
BATCH = 16


def by_loop(model: Any, bank: ts.Bank, prompts: list[Any]) -> np.ndarray:
    """`[metric vec prompt]`, one vector and one batch of prompts at a time."""
    found = np.zeros((len(NAMES), len(bank), len(prompts)))
    measured_at = bank.provenance.measured
    for first in range(0, len(prompts), BATCH):
        tokens = ts.tokenize(model, prompts[first : first + BATCH])
        last = (torch.arange(len(tokens)), tokens.lengths - 1)
        measured = measured_at.measure(tokens.mask, tokens.has_bos)
        with torch.no_grad(), ts.capturing(model, [TARGET]) as seen:
            clean = model(tokens.ids)[last].log_softmax(-1)
            clean_target = seen[TARGET]
            for v in range(len(bank)):
                logits = model.run_with_hooks(tokens.ids, fwd_hooks=bank[v].hooks())
                reading = ts.sweeps.Reading(
                    steered=logits[last].log_softmax(-1)[None],
                    clean=clean,
                    target=seen[TARGET][None],
                    clean_target=clean_target,
                    measured=measured,
                    mean=bank.responses[v : v + 1],
                )
                for m, name in enumerate(NAMES):
                    found[m, v, first : first + BATCH] = METRICS[name](reading)[0].numpy()
    return found


def peak() -> float:
    """Largest resident size so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def metered(prompts: list[Any], peaks: list[float]) -> Iterator[Any]:
    """The prompts, and the largest size when a quarter of them has been asked for."""
    for i, prompt in enumerate(prompts):
        if i == len(prompts) // 4:
            peaks.append(peak())
        yield prompt


def own_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def swept(model: Any, bank: ts.Bank, prompts: Iterable[Any]) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        found = ts.sweep(
            model, bank, prompts, metrics=NAMES, n_random=0, save=f"{folder}/s", progress=False
        )
        return {name: found.values(name) for name in NAMES}


def one_pass(model: Any, bank: ts.Bank, prompts: list[Any], given: argparse.Namespace) -> list[Any]:
    few = prompts[: given.loop_prompts]
    by_loop(model, bank[:1], few[:BATCH])  # warm
    swept(model, bank[:2], few[:BATCH])
    peaks = [peak()]
    before_s, loop = own_seconds(lambda: by_loop(model, bank[: given.loop_vectors], few))
    sweep_s, found = own_seconds(lambda: swept(model, bank, metered(prompts, peaks)))
    before, quarter, whole = *peaks, peak()
    after_s, _ = own_seconds(lambda: by_loop(model, bank[: given.loop_vectors], few))
    loop_s, cells = (before_s + after_s) / 2, len(bank) * len(prompts)
    scaled = loop_s * cells / (given.loop_vectors * len(few))
    off = {
        name: float(np.abs(found[name][: given.loop_vectors, : len(few)] - loop[m]).max())
        for m, name in enumerate(NAMES)
    }
    lines = [
        ("sweep", f"{sweep_s:.0f}", f"{cells / sweep_s:.0f}", f"{scaled / sweep_s:.2f}"),
        ("loop", f"{scaled:.0f} (scaled)", f"{cells / scaled:.0f}", "1"),
    ]
    told = ", ".join(f"{name} {value:.1g}" for name, value in off.items())
    good = scaled >= 6 * sweep_s and whole < 4
    note = (
        f"{len(bank)} vectors x {len(prompts)} prompts, next-token metrics, "
        f"{torch.get_num_threads()} threads. The loop ran {given.loop_vectors} vectors x "
        f"{len(few)} prompts in {before_s:.0f} s before and {after_s:.0f} s behind. Largest "
        f"difference between the two: {told}. Peak memory of "
        f"the process: {before:.2f} GiB before, {quarter:.2f} after a quarter of the "
        f"prompts, {whole:.2f} after all. Target: at least 6x faster, under 4 GiB: "
        f"**{'met' if good else 'missed'}**."
    )
    return [table(("", "s", "cells/s", "times the loop's speed"), lines), note]


def generation(model: Any, bank: ts.Bank, prompt: Any, given: argparse.Namespace) -> list[Any]:
    n, new = given.generated, 32
    ids, some = ts.tokenize(model, [prompt]).ids, bank[:n]
    together_s, texts = timed(
        lambda: ts.generate(model, some, [prompt], max_new_tokens=new, batch_rows=n + 1)
    )

    def alone() -> list[str]:
        out = []
        for v in range(given.alone):
            with ts.perturbing(model, some[v]):
                row = model.generate(
                    ids, max_new_tokens=new, do_sample=False, return_type="tokens", verbose=False
                )[0, ids.shape[1] :]
            out.append(model.tokenizer.decode(row, skip_special_tokens=True))
        return out

    alone_s, one = timed(alone)
    same = sum(a == b[0] for a, b in zip(one, texts.texts, strict=False))
    rates = (n + 1) * new / together_s, given.alone * new / alone_s
    lines = [
        (f"{n} vectors and none, one batch", f"{rates[0]:.0f}", f"{rates[0] / rates[1]:.1f}"),
        ("one vector at a time", f"{rates[1]:.0f}", "1"),
    ]
    note = (
        f"{new} new tokens each (a row that ends early counts as full); {given.alone} vectors were "
        f"run alone, and {same} of {given.alone} texts are equal."
    )
    return [table(("", "tokens/s", "times"), lines), note]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=256)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--loop-vectors", type=int, default=4)
    parser.add_argument("--loop-prompts", type=int, default=64)
    parser.add_argument("--generated", type=int, default=64)
    parser.add_argument("--alone", type=int, default=8)
    parser.add_argument("--dry", action="store_true", help="print the first table only")
    given = parser.parse_args()
    model = ts.load_model()
    prompts = [ts.chat(text) for text in questions()[: given.prompts]]
    bank = ts.elicit(
        model,
        [ts.chat("How do I make my house safer?")],
        source=SOURCE,
        target=TARGET,
        n=given.vectors,
        method=ts.methods.Power(steps=1),
        progress=False,
    )
    parts = one_pass(model, bank, prompts, given)
    if given.dry:
        print("\n\n".join(parts))
        return
    parts += generation(model, bank, prompts[0], given)
    write_section("generalisation.md", "speed", "\n\n".join(parts))


if __name__ == "__main__":
    main()
