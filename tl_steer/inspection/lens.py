"""The logit lens on the residual stream before and after: which words it reads, and how likely.

Two orders of the same words. By probability, as the model itself would change its mind there; and
by logit, in which the tail of the vocabulary always comes first: a word may rise furthest and still
be one in a million.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.models.model import HookedModel, device_of, dtype_of
from tl_steer.models.recording import Recording
from tl_steer.objectives.output_kl import Readout

_READ = 4  # tokens at which the lens is read
_WORDS = 6  # it names, each way
# What is ordered by probability, and what by logit; rising and falling.
BY_PROBABILITY, BY_LOGIT = ("lens_gained", "lens_lost"), ("promoted", "suppressed")


def read_lens(
    model: HookedModel, seen: Recording, kl: Float[Tensor, "vec pos"], read: Readout | None
) -> dict[str, Tensor]:
    """The lens at the tokens whose prediction changes most and behind the prompt; no words where
    the model's last layers cannot be read."""
    n, streams, pos, _ = seen.stream[1:].shape
    ahead = kl.clone()
    ahead[:, -1] = torch.inf
    at = ahead.topk(min(_READ, pos)).indices.sort(dim=1).values
    if read is None:
        return {"read_at": at} | _none(n, streams, at.shape[1])
    found: dict[str, list[Tensor]] = {}
    for v in range(n):
        for name, values in _words(model, read, seen.stream[[0, v + 1]][:, :, at[v]]):
            found.setdefault(name, []).append(values)
    return {"read_at": at} | {name: torch.stack(values) for name, values in found.items()}


def _words(
    model: HookedModel, read: Readout, streams: Float[Tensor, "2 stream read d_model"]
) -> Iterator[tuple[str, Tensor]]:
    """Words in both orders, by how much their logits move, and their (unsteered, steered)
    probabilities."""
    with torch.no_grad():
        before, after = (read(x.to(device_of(model), dtype_of(model))).float() for x in streams)
    p, q = before.softmax(dim=-1), after.softmax(dim=-1)
    change = after - before
    change -= change.mean(dim=-1, keepdim=True)
    for names, moved in ((BY_LOGIT, change), (BY_PROBABILITY, q - p)):
        for name, sign in zip(names, (1, -1), strict=True):
            best = (sign * moved).topk(min(_WORDS, moved.shape[-1]))
            yield name, best.indices.cpu()
            yield f"{name}_p", _both(p, q, best.indices)
            if names == BY_LOGIT:
                yield f"{name}_by", (sign * best.values).cpu()


def _both(p: Tensor, q: Tensor, ids: Int[Tensor, "stream read word"]) -> Tensor:
    return torch.stack([each.gather(-1, ids) for each in (p, q)], dim=-1).cpu()


def _none(n: int, streams: int, read: int) -> dict[str, Tensor]:
    empty = torch.zeros(n, streams, read, 0, dtype=torch.float32, device="cpu")
    names = (*BY_LOGIT, *BY_PROBABILITY)
    return (
        {name: empty.long() for name in names}
        | {f"{name}_by": empty for name in BY_LOGIT}
        | {f"{name}_p": empty.new_zeros(n, streams, read, 0, 2) for name in names}
    )
