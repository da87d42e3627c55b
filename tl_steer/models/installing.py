"""Perturbations on a plain transformers model, for as long as a `with` block lasts."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tl_steer.errors import HookPointError
from tl_steer.files.undo import Scope, scoped
from tl_steer.hook_points.positions import Positions
from tl_steer.models.hooks import Steering, edits_for, install_watched
from tl_steer.models.plain import PlainModel
from tl_steer.models.plain_parts import find_parts
from tl_steer.models.plain_prompts import follow_unnamed
from tl_steer.models.state import set_aside
from tl_steer.perturbations.perturbation import Perturbation, Scale


@scoped
def installing(
    scope: Scope,
    model: Any,
    perturbation: Steering,
    *,
    rows: Int[Tensor, " batch"] | None = None,
    scale: Scale = 1,
    positions: Positions | None = None,
) -> Any:
    """`perturbing`, for a plain model of transformers; see `Bank.install`."""
    plain = PlainModel(model)
    with Scope() as bare:
        # Whoever has hooks inside of the blocks, another bank say, changes what the model is.
        set_aside(bare, [module for block in plain.blocks for module in block.modules()])
        find_parts(plain)
        fitting = perturbation.for_model(plain)
        _refuse_missing(plain, fitting)
        edits = edits_for(plain, fitting, rows=rows, scale=scale, positions=positions)
    # The prompts are not known before they run.
    none = torch.zeros(1, 1, dtype=torch.bool, device="cpu")
    unknown = None if edits.positions.everywhere else none
    hooks = edits.hooks(rows=rows, prompt=unknown)
    if unknown is not None:
        follow_unnamed(scope, plain, hooks, edits.positions)
    install_watched(scope, plain, hooks)
    return model


def _refuse_missing(plain: PlainModel, edits: Perturbation) -> None:
    """Refuse hook points that a plain model does not have, with those that it has."""
    for name in (*(site.point for site in edits.sites), *(n for pair in edits.maps for n in pair)):
        if name in plain.hook_dict:
            continue
        layer = name.split(".")[1]
        there = [n for n in plain.hook_dict if n.startswith(f"blocks.{layer}.")]
        raise HookPointError(
            f"{name} cannot be steered on a plain {plain.cfg.model_name}: found there "
            f"{', '.join(there) or 'no such block'}. What attention and MLP add is found only "
            "where a block adds it to the stream unchanged. Use TransformerLens, or learn the bank "
            "at one of these."
        )
