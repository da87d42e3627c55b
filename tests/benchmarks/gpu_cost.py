"""What a step costs by blocks, tokens, vectors and width: points, a fit, and one point held out."""

from collections.abc import Sequence
from typing import Any

import torch
from gpu_models import Made, Shape, made, peak, prompts, room, seconds_of, segment_of
from torch import Tensor

import tl_steer as ts

# (blocks, tokens, vectors, width); the last is not fitted on.
POINTS = (
    (2, 27, 32, 1024),
    (8, 27, 64, 1024),
    (8, 27, 512, 1024),
    (4, 27, 128, 2048),
    (8, 108, 128, 2048),
    (2, 27, 512, 4096),
    (4, 108, 128, 4096),
    (8, 27, 256, 4096),
    (6, 64, 256, 3072),
)
SMALL = (
    (2, 8, 8, 256),
    (6, 8, 8, 256),
    (2, 8, 64, 256),
    (2, 24, 8, 512),
    (4, 24, 16, 512),
    (4, 8, 32, 384),
)
TINY = ((1, 8, 2, 16), (2, 8, 4, 16), (1, 12, 8, 32), (2, 8, 4, 24))


def measured(points: Sequence[tuple[int, ...]], dtype: torch.dtype, device: str) -> Any:
    """One line a point; models of one width are made once."""
    lines = []
    for width in dict.fromkeys(point[3] for point in points):
        own = [point for point in points if point[3] == width]
        blocks = max(point[0] for point in own)
        whole = Shape(blocks + 1, width, width * 11 // 4, width // 128 or 1, 0, blocks, 1000)
        model = made(whole, dtype, device).model
        lines += [one(model, whole, point, device) for point in own]
        del model
        room(device)
    return sorted(lines, key=lambda line: points.index(tuple(line["point"])))


def one(model: Any, whole: Shape, point: tuple[int, ...], device: str) -> dict[str, Any]:
    """Seconds of a step, what it keeps for the backward pass, and the most memory it takes."""
    blocks, tokens, vectors, width = point
    shape = Shape(whole.layers, width, whole.inner, whole.heads, 0, blocks, whole.vocabulary)
    segment = segment_of(model, shape, prompts(shape, 1, tokens=tokens))
    of = Made(shape, model, segment, 0.0)
    objective, start = of.objective(), of.start(vectors)
    with ts.models.frozen(model), peak(device) as memory:
        kept = saved_bytes(lambda: objective(start))
        taken = seconds_of(lambda: objective(start), device, times=3)
    flops = shape.flops(vectors, tokens)
    return {"point": point, "seconds": taken, "flops": flops, "kept_bytes": kept, **memory}


def saved_bytes(work: Any) -> int:
    """What autograd keeps of a pass, each storage once; weights are kept anyway."""
    storages: dict[int, int] = {}

    def count(kept: Tensor) -> Tensor:
        if not isinstance(kept, torch.nn.Parameter):
            storage = kept.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
        return kept

    with torch.autograd.graph.saved_tensors_hooks(count, lambda kept: kept):
        work()
    return sum(storages.values())


def fitted(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """seconds = launch * blocks + flops / rate, and kept bytes = share * rows * width * blocks, by
    least relative squares on all points but the last; and what the last would be by it."""
    *known, held = lines
    launch, per_flop = solved(known, lambda x: (x["point"][0], x["flops"]), "seconds")
    (share,) = solved(known, lambda x: (size(x),), "kept_bytes")
    guess = launch * held["point"][0] + per_flop * held["flops"]
    kept = share * size(held)
    return {
        "launch_s_a_block": launch,
        "rate_tflops": 1e-12 / per_flop if per_flop else None,
        "kept_bytes_a_number": round(share, 2),
        "held_out": held["point"],
        "seconds_predicted": guess,
        "seconds_measured": held["seconds"],
        "seconds_off": round(guess / held["seconds"] - 1, 3),
        "kept_off": round(kept / held["kept_bytes"] - 1, 3),
    }


def size(line: dict[str, Any]) -> int:
    """Numbers of the residual stream that the segment's blocks read."""
    blocks, tokens, vectors, width = line["point"]
    return int(blocks * tokens * vectors * width)


def solved(lines: Sequence[dict[str, Any]], by: Any, what: str) -> list[float]:
    """Shares of the terms, none below 0: a term that would be is left out."""
    rows = torch.tensor([[t / x[what] for t in by(x)] for x in lines], dtype=torch.float64)
    one_each = torch.ones(len(lines), 1, dtype=torch.float64)
    scale = rows.norm(dim=0)
    found = (torch.linalg.lstsq(rows / scale, one_each).solution[:, 0] / scale).tolist()
    if min(found) >= 0:
        return [float(x) for x in found]
    best = max(range(len(found)), key=lambda i: found[i])
    alone = float(rows[:, best].sum() / rows[:, best].square().sum())
    return [alone if i == best else 0.0 for i in range(len(found))]
