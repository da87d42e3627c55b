"""The control for a method: the same method on a network that has learned nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tl_steer.errors import ModelError
from tl_steer.files.signatures import typed
from tl_steer.files.undo import Scope, scoped
from tl_steer.models.model import HookedModel, parameters_of

_MODEL_STREAM = 0x73687566


@scoped
@typed
def shuffled(scope: Scope, model: HookedModel, *, seed: int = 0) -> HookedModel:
    """Inside: the entries of every weight matrix, norm and bias are in random order, each within
    its own tensor. Afterwards the weights are bit-equal to what they were, exceptions included.

        with ts.models.shuffled(model):
            control = ts.elicit(model, prompts, source=..., target=..., method=...)

    That is a randomly initialised network with the trained one's weight statistics. What a method
    finds there it did not find in what the model has learned. The divergence of such a network is
    of another size, so compare what vectors do (distinct texts, a metric), not objectives.

    Banks made outside do not fit the model inside, and the other way round. Tensors that several
    names share (a tied embedding) are shuffled once and stay tied. Weights that are not floating
    point, and buffers, are left alone.

    Args:
        seed: of the order, which does not depend on the device. The global random state is left as
            it was.

    Raises:
        ModelError: the model has no weights to shuffle.

    Needs memory for a second copy of the weights, on the CPU, and takes about a second per ten
    million weights.
    """
    weights = _own_weights(model)
    if not weights:
        raise ModelError("This model has no floating-point weights to shuffle.")
    kept = [weight.detach().to("cpu", copy=True) for weight in weights]
    generator = torch.Generator().manual_seed(seed + _MODEL_STREAM)
    scope.undo(_put_back, weights, kept)
    with torch.no_grad():
        for weight in weights:
            _shuffle_(weight, generator)
    return model


def _put_back(weights: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
    # Backwards, so that tensors that overlap end with what the first of them held.
    with torch.no_grad():
        for weight, values in zip(reversed(weights), reversed(kept), strict=True):
            weight.data.copy_(values)


def _own_weights(model: HookedModel) -> list[Tensor]:
    """Every weight once, by where it lies in memory and not by its name."""
    found: dict[tuple[object, ...], Tensor] = {}
    # A model that says it has none is believed.
    for weight in parameters_of(model) if any(True for _ in model.parameters()) else ():
        place = (weight.device, weight.data_ptr(), weight.numel())
        if weight.is_floating_point() and weight.numel() > 1:
            found.setdefault(place, weight)
    return list(found.values())


def _shuffle_(weight: Tensor, generator: torch.Generator) -> None:
    order = torch.randperm(weight.numel(), generator=generator, device="cpu").to(weight.device)
    weight.data.copy_(weight.detach().flatten()[order].reshape(weight.shape))
