"""What is read off both models at every token of one text."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.inspection.attribution import average_gradient, parts, through_heads
from tl_steer.models.model import HookedModel, device_of, dtype_of
from tl_steer.models.recording import Recording
from tl_steer.objectives.divergence import at_least_float32
from tl_steer.objectives.output_kl import Readout, divergence_from

_HEADS = 6  # that attribution names at each token


def compared(
    logits: Float[Tensor, "2 step vocabulary"], new: Int[Tensor, " step"], top: int
) -> dict[str, Tensor]:
    """Both models' distributions where the tokens of one text were taken from."""
    own = at_least_float32(logits).log_softmax(dim=-1).cpu()
    told = own.gather(2, new.expand(2, -1)[..., None])
    likely = own.topk(top).indices
    each = torch.stack([one.gather(1, likely.transpose(0, 1).flatten(1)) for one in own], dim=-1)
    favourites = own[0].topk(2).indices
    second = favourites[:, 0] == new
    against = torch.where(second, favourites[:, 1], favourites[:, 0])
    gap = told[..., 0] - own.gather(2, against.expand(2, -1)[..., None])[..., 0]
    return {
        "lp": told[..., 0].float(),
        "rank": (own > told).sum(dim=-1),
        "kl": divergence_from(own[0], own[1]).float(),
        "likely": likely,
        "likely_lp": each.unflatten(1, (2, top)).transpose(0, 1).float(),
        "against": against,
        "moved": (gap[1] - gap[0]).float(),
    }


def attributed(
    model: HookedModel,
    seen: Recording,
    found: dict[str, Tensor],
    new: Int[Tensor, " step"],
    read: Readout | None,
) -> dict[str, Tensor]:
    """Which component moved the written token's logit away from the unsteered favourite's."""
    tail, streams = len(new), seen.stream.shape[1]
    direct = torch.full((tail, streams, 3), torch.nan, dtype=torch.float32, device="cpu")
    some = min(_HEADS, int(model.cfg.n_heads) * (streams - 1)) if read and seen.z else 0
    by_head = torch.zeros(tail, some, 2, dtype=torch.long, device="cpu")
    by_head_part = torch.full((tail, some), torch.nan, dtype=torch.float32, device="cpu")
    for k in range(tail if read else 0):
        at = k - tail
        (toward,) = average_gradient(
            read,  # type: ignore[arg-type]
            seen.stream[0, -1, at],
            seen.stream[1, -1, at],
            new[k : k + 1],
            less=found["against"][k : k + 1],
            dtype=dtype_of(model),
            device=device_of(model),
        )
        change = parts(seen, at)
        direct[k] = (change @ toward)[0]
        split = through_heads(model, seen, change[:, 1:, 0], at)
        if split is not None and some:
            part = (split @ toward)[0]
            best = part.nan_to_num(0.0).abs().flatten().topk(some).indices
            layer = best.div(part.shape[1], rounding_mode="floor")
            by_head[k] = torch.stack([layer, best % part.shape[1]], dim=1)
            by_head_part[k] = part.flatten()[best]
    return {"direct": direct, "by_head": by_head, "by_head_part": by_head_part}
