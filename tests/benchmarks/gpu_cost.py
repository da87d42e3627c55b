"""What a step costs by blocks, tokens, vectors and width: points, a fit, and one point held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from gpu_models import Made, Shape, made, peak, prompts, room, seconds_of, segment_of
from torch import Tensor

import tl_steer as ts

# The width of a head, in all shapes.
HEAD = 128
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
        kept = saved_bytes(lambda: objective(start), model)
        taken = seconds_of(lambda: objective(start), device, times=3)
    flops = shape.flops(vectors, tokens)
    return {"point": point, "seconds": taken, "flops": flops, "kept_bytes": kept, **memory}


def saved_bytes(work: Any, model: Any) -> int:
    """What autograd keeps of a pass, each storage once; weights, and views of them, are kept
    anyway."""
    own = {x.untyped_storage()._cdata for x in model.parameters()}
    storages: dict[int, int] = {}

    def count(kept: Tensor) -> Tensor:
        storage = kept.untyped_storage()
        if storage._cdata not in own:
            storages[storage._cdata] = storage.nbytes()
        return kept

    with torch.autograd.graph.saved_tensors_hooks(count, lambda kept: kept):
        work()
    return sum(storages.values())


@dataclass(frozen=True)
class Cost:
    """A step's cost. `numbers` are blocks x tokens x vectors x width.

    seconds = launch * blocks (+) (flop * flops + number * numbers), where (+) is the larger of the
    two on a card, which works while the host launches, and the sum on a CPU. Bytes that are kept
    for the backward pass = (kept + attention * tokens / width of a head) * numbers.
    """

    launch: float
    flop: float
    number: float
    kept: float
    attention: float
    overlapped: bool

    def seconds(self, point: Sequence[int], flops: float) -> float:
        launched = self.launch * point[0]
        worked = self.flop * flops + self.number * size(point)
        return max(launched, worked) if self.overlapped else launched + worked

    def kept_bytes(self, point: Sequence[int]) -> float:
        return (self.kept + self.attention * point[1] / HEAD) * size(point)


def fitted(lines: Sequence[dict[str, Any]], *, overlapped: bool) -> Cost:
    """By least relative squares. Where one of two terms shows, each is fitted on the points that
    it rules, which is tried again until the same points do."""
    memory = solved(lines, lambda p, _: (size(p), size(p) * p[1] / HEAD), "kept_bytes")
    if not overlapped:
        terms = solved(lines, lambda p, flops: (p[0], flops, size(p)), "seconds")
        return Cost(*terms, *memory, overlapped)
    slow = [line["flops"] / line["seconds"] for line in lines]
    launched = {i for i, rate in enumerate(slow) if rate < max(slow) / 2}
    for _ in range(len(lines)):
        few = [line for i, line in enumerate(lines) if i in launched]
        rest = [line for i, line in enumerate(lines) if i not in launched]
        (launch,) = solved(few, lambda p, _: (p[0],), "seconds")
        work = solved(rest, lambda p, flops: (flops, size(p)), "seconds")
        found = Cost(launch, *work, *memory, overlapped)
        rules = {i for i, x in enumerate(lines) if _ruled(found, x)}
        if rules == launched:
            break
        launched = rules
    return found


def _ruled(cost: Cost, line: dict[str, Any]) -> bool:
    """Whether launching takes longer than the work."""
    point = line["point"]
    return cost.launch * point[0] > cost.flop * line["flops"] + cost.number * size(point)


def size(point: Sequence[int]) -> int:
    """Numbers of the residual stream that the segment's blocks read."""
    blocks, tokens, vectors, width = point
    return int(blocks * tokens * vectors * width)


def solved(lines: Sequence[dict[str, Any]], by: Any, what: str) -> list[float]:
    """Shares of the terms, none below 0: a term that would be is left out."""
    terms = [by(x["point"], x["flops"]) for x in lines]
    rows = torch.tensor(
        [[t / x[what] for t in own] for x, own in zip(lines, terms, strict=True)],
        dtype=torch.float64,
        device="cpu",
    )
    scale = rows.norm(dim=0)
    used = list(range(rows.shape[1]))
    while True:
        one_each = torch.ones(len(lines), 1, dtype=torch.float64, device="cpu")
        found = torch.linalg.lstsq(rows[:, used] / scale[used], one_each).solution[:, 0]
        if len(used) == 1 or float(found.min()) >= 0:
            break
        used.pop(int(found.argmin()))
    shares = [0.0] * rows.shape[1]
    for i, share in zip(used, (found / scale[used]).tolist(), strict=True):
        shares[i] = share
    return shares
