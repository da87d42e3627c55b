"""What a hook point is on a model, found out by running it: how wide, and whether edits take hold.

One prompt runs in three rows, as far as the end of the block. The hook edits one row; if the block
computes with what the hook gives back, that row comes out of the block differently, and the others
do not. Names and configs do not tell: a bridge may show a hook a copy of what it computed
elsewhere, and configs know nothing of values that are wider than queries.
"""

import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tl_steer.errors import HookPointError
from tl_steer.files.text import said
from tl_steer.files.undo import Scope
from tl_steer.hook_points.site import PATTERN
from tl_steer.models.bare import fixed_tokens
from tl_steer.models.calls import cacheless, stop_behind
from tl_steer.models.model import HookedModel, context_of, device_of
from tl_steer.models.state import add_hook, frozen, listen, without_hooks

_ROWS, _EDITED = 3, 1
# A token count that no axis of heads is likely to have.
_TOKENS = 7


@dataclass(frozen=True)
class Probed:
    """What one pass showed of a hook point.

    Attributes:
        shapes: of the activation, each time that it fired.
        moved: how far the edited row came out of the block from the first, at its largest, in
            multiples of what lies between rows that were not edited.
        wrong: why the pass failed, if it did.
    """

    shapes: tuple[tuple[int, ...], ...]
    moved: float
    tokens: int
    wrong: str = ""


_known: "weakref.WeakKeyDictionary[Any, dict[tuple[str, int], Probed]]" = (
    weakref.WeakKeyDictionary()
)


def width_at(model: HookedModel, name: str, *, edited: bool) -> int:
    """How wide the activation at a hook point of a block is, head axes read as one; the number of
    heads, for an attention pattern.

    Args:
        edited: whether it is to be edited, so that the block has to compute with what hooks return.

    Raises:
        HookPointError: it cannot be steered (or, unless `edited`, read), with the reason.
    """
    found = probed(model, name)
    if found.wrong:
        raise HookPointError(f"{name} cannot be steered: an edit there {found.wrong}.")
    if len(found.shapes) != 1:
        times = f"fired {len(found.shapes)} times" if found.shapes else "did not fire"
        raise HookPointError(
            f"{name} {times} in a forward pass, where its block ran once: it is switched off, or "
            "its module is shared. Choose another hook point."
        )
    _refuse_axes(name, found.shapes[0], found.tokens)
    if edited and not found.moved > 1:
        raise HookPointError(
            f"{name} fires, but this model does not compute with what hooks return there: nothing "
            "behind it moves when it is edited. Choose another hook point."
        )
    shape = found.shapes[0]
    return shape[1] if name.endswith(PATTERN) else int(torch.Size(shape[2:]).numel())


def _refuse_axes(name: str, shape: tuple[int, ...], tokens: int) -> None:
    if name.endswith(PATTERN):
        fits = len(shape) == 4 and (shape[0], *shape[2:]) == (_ROWS, tokens, tokens)
    else:
        fits = len(shape) > 2 and shape[:2] == (_ROWS, tokens)
    if fits:
        return
    if shape[0] == _ROWS * tokens:
        raise HookPointError(
            f"{name} has prompts and tokens in one axis on this model, so what is done there "
            "cannot be told apart by prompt. Choose another hook point."
        )
    raise HookPointError(
        f"{name} has the shape {list(shape)} for {_ROWS} prompts of {tokens} tokens on this model; "
        "to be steered, prompts and tokens have to be its first two axes. Choose another hook "
        "point, such as attn.hook_z."
    )


def heads_at(model: HookedModel, name: str, width: int) -> int:
    """How many heads share the width of a hook point of attention.

    Heads of keys and values may be fewer than those of queries. They are counted by their axis; a
    point without one by the width of one head, which is that of z.

    Raises:
        HookPointError: it is not made of heads.
    """
    layer, kind = name.split(".")[1], ".".join(name.split(".")[2:])
    if kind == PATTERN:
        return width
    n = int(getattr(model.cfg, "n_heads", 0) or 0)
    pattern, z_name = (f"blocks.{layer}.{each}" for each in (PATTERN, "attn.hook_z"))
    if pattern in model.hook_dict:
        with suppress(HookPointError):
            n = width_at(model, pattern, edited=False)
    z = width_at(model, z_name, edited=False) if z_name in model.hook_dict else 0
    one = z // n if n and z % n == 0 else 0
    shape, heads = probed(model, name).shapes[0], 0
    if len(shape) == 4:  # it has an axis of them
        heads = shape[2]
    elif kind in _OF_HEADS and one and width % one == 0:
        heads = width // one
    if not heads or (kind in _OF_ALL and heads != n):
        raise HookPointError(
            f"{name} is {width} wide on this model, which is not made of heads as wide as "
            f"attn.hook_z's ({z} for {n} heads). Leave the head out."
        )
    return heads


_OF_ALL = ("attn.hook_q", "attn.hook_z")
_OF_HEADS = (*_OF_ALL, "attn.hook_k", "attn.hook_v")


def probed(model: HookedModel, name: str) -> Probed:
    """What one pass shows of a hook point; run once for each model."""
    own: dict[tuple[str, int], Probed] = {}
    with suppress(TypeError):  # a model that cannot be a key is asked every time
        own = _known.setdefault(model, {})
    key = name, id(model.hook_dict[name])
    if key not in own:
        own[key] = _probe(model, name)
    return own[key]


def _probe(model: HookedModel, name: str) -> Probed:
    """Tokens of one prompt in three rows, of which one is edited."""
    layer = int(name.split(".")[1])
    ids = fixed_tokens(int(model.cfg.d_vocab), most=context_of(model))[:, :_TOKENS]
    shapes: list[tuple[int, ...]] = []
    left: list[Tensor] = []

    def edit(activation: Tensor, hook: object = None) -> Tensor:
        shapes.append(tuple(activation.shape))
        return _other(activation)

    def keep(_module: Any, _args: Any, out: Any) -> None:
        left.append((out[0] if isinstance(out, (tuple, list)) else out).detach())

    try:
        with frozen(model), without_hooks(model), torch.no_grad(), Scope() as scope:
            # Not PyTorch's own: a bridge runs some points for TransformerLens's hooks alone.
            add_hook(scope, model.hook_dict[name], edit)
            listen(scope, model.blocks[layer], keep, before=False)
            model(
                ids.repeat(_ROWS, 1).to(device_of(model)),
                stop_at_layer=stop_behind(model, layer),
                return_type=None,
                **cacheless(model),
            )
    except Exception as error:
        return Probed(tuple(shapes), 0.0, ids.shape[1], f"fails: {said(error, most=200)}")
    return Probed(tuple(shapes), _moved(left), ids.shape[1])


def _other(out: Tensor) -> Tensor:
    """One row far from what it was, at every token differently: the same at all keys would change
    no attention. Where rows and tokens share an axis, as many of its places."""
    edited, n = out.clone(), len(out) // _ROWS
    rows = slice(_EDITED * n, (_EDITED + 1) * n)
    part = out[rows]
    wave = torch.cos(torch.arange(part.numel(), device=out.device, dtype=torch.float32))
    size = part.float().square().mean().sqrt().clamp_min(0.1)
    edited[rows] = (part.float() * 0.5 + 4 * size * wave.view(part.shape)).to(out)
    return edited


def _moved(left: list[Tensor]) -> float:
    """How much more the edited row differs from the first than the last one does."""
    if not left or not isinstance(left[-1], Tensor) or len(left[-1]) != _ROWS:
        return 0.0
    first, edited, last = left[-1].double().unbind(0)
    noise = (last - first).abs().max() * 4 + torch.finfo(left[-1].dtype).tiny
    return float(((edited - first).abs().max() / noise).nan_to_num(0.0))
