r"""Whether nothing but a linear map lies between two hook points.

An adapter changes a weight matrix W to $W + R\,BA^\top$ by adding $R\,BA^\top x$ to the map's
output. That is the same thing only where the output hook point is the map's own output. Where a
norm follows first (Gemma-2's post-norms), it is not. Names and configs do not tell, so the model is
asked: with g, 2g and nothing at the input, the output must move in equal steps.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tl_steer.errors import HookPointError
from tl_steer.files.undo import Scope
from tl_steer.models.bare import fixed_tokens
from tl_steer.models.model import HookedModel, context_of, device_of
from tl_steer.models.state import frozen, listen, without_hooks

Pairs = Sequence[tuple[str, str]]
_TOLERANCE = 0.05


def refuse_nonlinear(model: HookedModel, pairs: Pairs) -> None:
    """Refuse (input, output) hook points with more than a linear map between them.

    Raises:
        HookPointError: a point is unknown or does not fire, the output does not depend on the
            input, or a norm comes between the two. Hooks that are on the model are set aside.
    """
    reasons = departures(model, pairs)
    if reasons:
        raise HookPointError(next(iter(reasons.values())))


def departures(model: HookedModel, pairs: Pairs) -> dict[tuple[str, str], str]:
    """The pairs that are no linear map, each with the reason."""
    missing = {
        (reads, writes): f"This model has no hook point {name}, which an adapter needs."
        for reads, writes in pairs
        for name in (writes, reads)
        if name not in model.hook_dict
    }
    present = [pair for pair in pairs if pair not in missing]
    return missing | _departures(model, present) if present else missing


def _departures(model: HookedModel, pairs: Pairs) -> dict[tuple[str, str], str]:
    seen = _watched(model, [reads for reads, _ in pairs], [writes for _, writes in pairs])
    reasons = {}
    for reads, writes in pairs:
        if writes not in seen or reads not in seen:
            silent = writes if writes not in seen else reads
            reasons[reads, writes] = f"{silent} did not fire in a forward pass."
            continue
        out = seen[writes].double()
        first, second = out[1] - out[0], out[2] - out[1]
        noise = 8 * torch.finfo(seen[writes].dtype).eps * float(out.norm())
        if float(first.norm()) <= noise:
            reasons[reads, writes] = (
                f"{writes} does not depend on what is put in at {reads}: on this model that point "
                "is only a view."
            )
        elif float((second - first).norm()) > _TOLERANCE * float(first.norm()) + noise:
            reasons[reads, writes] = (
                f"{writes} is not the output of a linear map of {reads} on this model: a norm lies "
                "between them, as in post-norm architectures. What an adapter adds there would "
                "not be a change of weights."
            )
    return reasons


def _watched(model: HookedModel, inputs: Sequence[str], names: Sequence[str]) -> dict[str, Tensor]:
    """Run three rows, with 0, g and 2g at the inputs, and return what passed through all points."""
    seen: dict[str, Tensor] = {}

    def replace(name: str) -> Any:
        def hook(_module: Any, _args: Any, out: Tensor) -> Tensor:
            if len(out) != 3:
                raise HookPointError(
                    f"{name} has prompts and tokens in one axis on this model, so what an adapter "
                    "does there cannot be told apart by prompt. Choose another hook point."
                )
            g = torch.cos(torch.arange(out[0].numel(), device=out.device, dtype=torch.float32))
            steps = torch.arange(3, device=out.device).view(3, *[1] * (out.ndim - 1))
            seen[name] = (steps * g.view(1, *out.shape[1:])).to(out)
            return seen[name]

        return hook

    def keep(name: str) -> Any:
        def hook(_module: Any, _args: Any, out: Tensor) -> None:
            seen[name] = out.detach()

        return hook

    points = model.hook_dict
    ids = fixed_tokens(int(model.cfg.d_vocab), most=context_of(model))[0, :4]
    with frozen(model), without_hooks(model), torch.no_grad(), Scope() as scope:
        for name in inputs:
            listen(scope, points[name], replace(name), before=False)
        for name in names:
            listen(scope, points[name], keep(name), before=False)
        model(ids.repeat(3, 1).to(device_of(model)), return_type=None)
    return seen
