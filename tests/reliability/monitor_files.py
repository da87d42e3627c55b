"""Monitors' files, changed and signed anew: each is refused, or works to the end."""

import copy
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from live_requests import monitor_on, watched
from tiny_monitor import POS, synthetic

import tl_steer as ts
from tl_steer.errors import BankFileError, SettingError
from tl_steer.monitoring import file as panelfile
from tl_steer.monitoring.detectors import detector as d

_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 3, 7, 10**6, 10**18, 1e9, 1.5, -0.5, float("nan"), float("inf"), "",
    "x", "blocks.9.hook_resid_post", "float64", [], [1], {}, {"a": 1},
)  # fmt: skip
_NUMBERS = (float("nan"), float("inf"), -1e30, 1e30, 1e14, -1.0, 0.0, 1e9, 1e-30)
WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"score": None, "unknown": d.Mahalanobis(), "ends": 1},
    {"score": d.Search(rank=8, candidates=3), "unknown": d.Outlier(), "namer": None},
)


def packs() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [panelfile._pack(monitor_on(synthetic(120, 1), 1, **how)) for how in WAYS]


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs = value.items() if isinstance(value, dict) else ()
    pairs = enumerate(value) if isinstance(value, list) else pairs
    for key, inner in pairs:
        yield (*place, key)
        yield from _places(inner, (*place, key))


def change_header(meta: dict[str, Any], draw: random.Random) -> str:
    """Changes `meta`, and says where."""
    place = draw.choice(list(_places(meta)))
    holder: Any = meta
    for key in place[:-1]:
        holder = holder[key]
    kind = draw.random()
    if kind < 0.15 and isinstance(holder, dict):
        del holder[place[-1]]
    elif kind < 0.25 and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[place[-1]]))
    else:
        holder[place[-1]] = copy.deepcopy(draw.choice(_VALUES))
    return str(place)


def change_tensor(tensors: dict[str, torch.Tensor], draw: random.Random) -> str:
    name = draw.choice(sorted(tensors))
    old, kind = tensors[name], draw.randrange(9)
    floats = old.is_floating_point()
    if kind == 0:
        del tensors[name]
        return f"{name} gone"
    if kind == 1 and old.numel():
        changed = old.clone()
        value = draw.choice(_NUMBERS if floats else (-1, 0, 5, 10**9))
        changed.view(-1)[draw.randrange(old.numel())] = value
        tensors[name] = changed
        return f"{name} {value}"
    ways = (
        old.flatten,
        lambda: old[:-1],
        lambda: old[..., :-1],
        lambda: old.double() if floats else old.int(),
        lambda: old.half() if floats else old.float(),
        lambda: old[None],
        lambda: torch.cat([old, old]),
        lambda: torch.zeros_like(old),
    )
    tensors[name] = ways[kind - 1]()
    return f"{name} {kind}"


def use(monitor: ts.Monitor, folder: Path) -> None:
    """Everything that a deployed monitor does."""
    traffic = synthetic(7, 3)
    pos = min(POS, 1 + monitor.horizon)
    here = {site.name: traffic.activations["here"][:, :pos] for site in monitor.sites}
    monitor.score(here, mask=traffic.mask[:, :pos])
    for chunk in (1, 8):
        session, _ = watched(monitor, traffic, alpha=0.2, chunk=chunk, batch=7, drift=0.01)
        for alert in session.alerts:
            repr(alert)
    again = ts.Monitor.load(monitor.save(folder / "again.safetensors"))
    repr((again, again.guarantee(0.2)))


def mutated(seed: int, n: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """How so many changed files ended, and what failed."""
    draw, ended, failed = random.Random(seed), Counter[str](), []
    sound = packs()
    for i in range(n):
        meta, tensors = copy.deepcopy(sound[i % len(sound)])
        how = change_header(meta, draw) if draw.random() < 0.5 else change_tensor(tensors, draw)
        try:
            path = panelfile._FILE.write(folder / "m.safetensors", meta, tensors)
            use(ts.Monitor.load(path), folder)
            ended["works"] += 1
        except BankFileError:
            ended["refused"] += 1
        except SettingError as error:
            # NaN in a header and the like: no such file can be written.
            fine = "cannot be saved" in str(error)
            ended["not writable" if fine else "failed"] += 1
            failed += [] if fine else [f"{how}: {error!r}"]
        except Exception as error:
            ended["failed"] += 1
            failed.append(f"{how}: {error!r}")
    return ended, failed
