"""Where attention and MLP write into the residual stream of a plain model, and by which maps.

Found by running the model once, not by names. Of a block's own modules, two are what it adds to
the stream: behind a norm, where the block has one there,

    out = in + attention's + MLP's

and a part's last linear map is the first module to give what the part adds, or what the norm
behind it reads. A block that does something else (scales what it adds, keeps several streams) has
none of these points, and says so.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tl_steer.files.undo import Scope
from tl_steer.models.bare import fixed_tokens
from tl_steer.models.model import device_of
from tl_steer.models.plain import PlainModel
from tl_steer.models.state import frozen, listen

# Rounding of two additions, in units of the type's epsilon, by the size of what was added.
_ROUNDING = 2.0


@dataclass(frozen=True)
class _Ran:
    """A module that ran: what went in first, and what came out."""

    module: nn.Module
    entering: Tensor | None
    out: Tensor


@dataclass
class _Block:
    """What ran inside of a block, in the order in which it ended."""

    stream: Tensor | None = None
    ran: list[_Ran] = field(default_factory=list)


def find_parts(model: PlainModel) -> None:
    """Add the hook points of attention and MLP to the model's; blocks that have none get none.

    Hooks on the blocks and inside of them have to be set aside.
    """
    limit = model.cfg.n_ctx
    ids = fixed_tokens(model.cfg.d_vocab, most=limit).to(device_of(model))
    with frozen(model), torch.no_grad(), Scope() as scope:
        for layer, block in enumerate(model.blocks):
            _watch(scope, model, layer, block)
        model(ids)


def _watch(scope: Scope, model: PlainModel, layer: int, block: nn.Module) -> None:
    here = _Block()

    def began(_m: Any, args: tuple[Any, ...], _kwargs: Any) -> None:
        here.stream = args[0].clone() if args else None

    def inside(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        first = out[0] if isinstance(out, (tuple, list)) and out else out
        if isinstance(first, Tensor):
            entering = args[0].clone() if args and isinstance(args[0], Tensor) else None
            # Copies, since some blocks go on in place with what a part gave them.
            here.ran.append(_Ran(module, entering, first.clone()))

    def ended(_m: Any, _args: Any, out: Any) -> None:
        # At once, so that no more than one block's activations are held.
        first = out[0] if isinstance(out, (tuple, list)) else out
        if here.stream is not None:
            _add_points(model, layer, _writers(block, here, first), here.ran)
        here.stream, here.ran = None, []

    for module in block.modules():
        if module is not block:
            listen(scope, module, inside, before=False)
    listen(scope, block, began, before=True)
    listen(scope, block, ended, before=False)


def _writers(block: nn.Module, here: _Block, out: Tensor) -> tuple[_Ran, ...]:
    """The two modules whose outputs the block adds to the stream, attention's first; or none."""
    assert here.stream is not None
    stream = here.stream.double()
    own = {id(module) for module in block.children()}
    ran = [r for r in here.ran if id(r.module) in own and r.out.numel() == stream.numel()]
    best: tuple[float, tuple[_Ran, ...]] = (_ROUNDING * torch.finfo(out.dtype).eps, ())
    for pair in itertools.combinations(ran, 2):
        added = [r.out.double().reshape(stream.shape) for r in pair]
        size = sum((x.norm(dim=-1) for x in added), stream.norm(dim=-1))
        off = float(((stream + added[0] + added[1] - out).norm(dim=-1) / size).max())
        if off < best[0]:
            best = (off, pair)
    return best[1]


def _add_points(
    model: PlainModel, layer: int, writers: Sequence[_Ran], ran: Sequence[_Ran]
) -> None:
    for part, reads, writer in zip(("attn", "mlp"), ("hook_z", "hook_post"), writers, strict=False):
        model.add(f"blocks.{layer}.hook_{part}_out", writer.module)
        found = _map_of(writer, ran)
        if found is not None:
            model.add(f"blocks.{layer}.{part}.{reads}", found.module, before=True)
            model.add(f"blocks.{layer}.{part}.hook_out", found.module)


def _map_of(writer: _Ran, ran: Sequence[_Ran]) -> _Ran | None:
    """The first module to give what a part adds; what a norm behind it reads."""
    first = _first(writer.out, ran)
    if first is not None and first.module is writer.module and _is_norm(writer):
        first = None if writer.entering is None else _first(writer.entering, ran)
    # Not a whole mixture of experts, which has no last map.
    return first if first is not None and hasattr(first.module, "weight") else None


def _first(value: Tensor, ran: Sequence[_Ran]) -> _Ran | None:
    same = (r for r in ran if r.out.shape == value.shape and torch.equal(r.out, value))
    return next(same, None)


def _is_norm(writer: _Ran) -> bool:
    weight = getattr(writer.module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 1
