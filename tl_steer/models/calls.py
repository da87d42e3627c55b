"""How a model calls its blocks, and how they are called with more rows.

Which axis of an argument is the prompts' cannot be read off its size: ALiBi alone comes as
`[batch * heads, 1, pos]` and as `[heads, 1, pos]`, a mask as `[1, 1, pos, pos]` that broadcasts and
as `[batch, 1, pos, pos]`, and there may be as many prompts as heads. So the model is run on another
number of rows, once for each kind of batch: what grows with the rows is the prompts'.
"""

import inspect
import weakref
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.errors import ModelError
from tl_steer.files.undo import Scope, scoped
from tl_steer.models.model import HookedModel
from tl_steer.models.state import listen, own_run, without_hooks
from tl_steer.models.tokens import TokenBatch

# The axis of a tensor that grows with the rows, `None` where nothing does; nested as arguments are.
Axes: TypeAlias = Any


@dataclass(frozen=True)
class Call:
    """How the model called a block: everything but the residual stream, which stood first or had
    the name `stream`."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    stream: str | None
    device: torch.device
    axes: Axes = None

    def __call__(self, block: Any, residual: Tensor, vec: int) -> Tensor:
        """The block on `vec` copies of the batch."""
        args, kwargs = _spread((self.args, self.kwargs), self.axes, vec)
        # Some models move the stream between blocks themselves, where those lie on several devices.
        residual = residual.to(self.device)
        if self.stream is None:
            out = block(residual, *args, **kwargs)
        else:
            out = block(*args, **{self.stream: residual}, **kwargs)
        return out[0] if isinstance(out, tuple) else out  # type: ignore[no-any-return]


Calls: TypeAlias = dict[int, Call]
_known: "weakref.WeakKeyDictionary[Any, dict[Hashable, dict[int, Axes]]]" = (
    weakref.WeakKeyDictionary()
)


@scoped
def recording(scope: Scope, model: HookedModel, calls: Calls, entering: dict[int, Tensor]) -> None:
    """Inside: every block's newest call is kept, and the residual stream that entered it."""

    def recorder(layer: int) -> Any:
        def record(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            stream = None if args else _stream(kwargs)
            entering[layer] = args[0] if args else kwargs[str(stream)]
            kept = {k: _no_cache(v) for k, v in kwargs.items() if k != stream}
            if "use_cache" in kept:
                kept["use_cache"] = False
            rest = tuple(_no_cache(a) for a in args[1:])
            calls[layer] = Call(rest, kept, stream, entering[layer].device)

        return record

    scope.enter_context(own_run())
    for layer, block in enumerate(model.blocks):
        listen(scope, block, recorder(layer), before=True)


def run_to(model: HookedModel, tokens: TokenBatch, stop: int | None) -> None:
    """A plain forward pass, as far as block `stop`."""
    model(
        tokens.ids,
        attention_mask=tokens.mask.long(),
        stop_at_layer=stop,
        return_type=None,
        **cacheless(model),
    )


def stop_behind(model: HookedModel, layer: int) -> int | None:
    """Where `run_to` stops behind a block. Behind the last, the bridge would return logits; let
    it."""
    return layer + 1 if layer + 1 < int(model.cfg.n_layers) else None


def entering_first(model: HookedModel, tokens: TokenBatch) -> Float[Tensor, "batch pos d_model"]:
    """What enters the first block: the embedded tokens. Runs that block as well."""
    entering: dict[int, Tensor] = {}
    with torch.no_grad(), recording(model, {}, entering):
        run_to(model, tokens, stop_behind(model, 0))
    return entering[0].detach()


def cacheless(model: HookedModel) -> dict[str, bool]:
    """The bridge keeps a cache even for a plain forward pass, unless told not to; other models
    know no such argument."""
    parameters = inspect.signature(getattr(model, "forward", model)).parameters.values()
    takes_more = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return {"use_cache": False} if takes_more else {}


def with_axes(
    model: HookedModel, calls: Calls, tokens: TokenBatch, stop: int | None
) -> tuple[Calls, bool]:
    """Calls that can be made with more rows, and whether the axes were learned just now.

    Another pass, on one row (on two where there is one), teaches them. They are remembered for the
    model and for batches whose arguments look alike.
    """
    kind = (len(tokens) > 1, *((i, _kind((c.args, c.kwargs))) for i, c in calls.items()))
    axes = _remembered(model).get(kind)
    fresh = axes is None
    if axes is None:
        axes = _remembered(model)[kind] = _learned(model, calls, tokens, stop)
    return {i: replace(call, axes=axes[i]) for i, call in calls.items()}, fresh


def forget(model: HookedModel) -> None:
    """Learn the model's axes anew next time."""
    _remembered(model).clear()


def _remembered(model: HookedModel) -> dict[Hashable, dict[int, Axes]]:
    with suppress(TypeError):  # a model that cannot be a key is asked every time
        return _known.setdefault(model, {})
    return {}


def _learned(
    model: HookedModel, calls: Calls, tokens: TokenBatch, stop: int | None
) -> dict[int, Axes]:
    # The shortest prompt: padded if any is, so that masks are made for it as for all.
    rows = [int(tokens.lengths.argmin())] if len(tokens) > 1 else [0, 0]
    few = TokenBatch(tokens.ids[rows], tokens.mask[rows], tokens.has_bos[rows], ("",) * len(rows))
    others: Calls = {}
    # Without anybody's hooks, which may be made for one number of rows.
    with torch.no_grad(), without_hooks(model), recording(model, others, {}):
        run_to(model, few, stop)
    ratio = (len(few), len(tokens))
    return {
        i: _axes((call.args, call.kwargs), (others[i].args, others[i].kwargs), ratio)
        for i, call in calls.items()
        if i in others
    } | {i: None for i in calls if i not in others}


def _axes(one: Any, other: Any, ratio: tuple[int, int]) -> Axes:
    """Where `one` differs in size from `other`, which has ratio[0] rows for its ratio[1]."""
    if isinstance(one, Tensor) and isinstance(other, Tensor) and one.ndim == other.ndim:
        sizes = list(zip(one.shape, other.shape, strict=True))
        grown = [axis for axis, (a, b) in enumerate(sizes) if a * ratio[0] == b * ratio[1] != 0]
        grown = [axis for axis in grown if sizes[axis][0] != sizes[axis][1]]
        return grown[0] if len(grown) == 1 else None
    if isinstance(one, (tuple, list)) and isinstance(other, type(one)) and len(one) == len(other):
        inner = [_axes(a, b, ratio) for a, b in zip(one, other, strict=True)]
        return inner if any(axis is not None for axis in inner) else None
    if isinstance(one, dict) and isinstance(other, dict):
        named = {k: _axes(v, other[k], ratio) for k, v in one.items() if k in other}
        return named if any(axis is not None for axis in named.values()) else None
    return None


def _spread(value: Any, axes: Axes, vec: int) -> Any:
    """Repeat what is per prompt for every vector; leave alone what broadcasts over the batch."""
    if axes is None:
        return value
    if isinstance(value, Tensor):
        times = [vec if axis == axes else 1 for axis in range(value.ndim)]
        if value.shape[axes] == 1:  # without a copy
            return value.expand([-1 if n == 1 else n for n in times])
        return value.repeat(times)
    if isinstance(value, dict):
        return {k: _spread(v, axes.get(k), vec) for k, v in value.items()}
    items = [_spread(v, axis, vec) for v, axis in zip(value, axes, strict=True)]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def _kind(value: Any) -> Hashable:
    """What arguments look like, their sizes aside but for ones."""
    if isinstance(value, Tensor):
        return tuple(size == 1 for size in value.shape)
    if isinstance(value, dict):
        return tuple((k, _kind(v)) for k, v in value.items())
    if isinstance(value, (tuple, list)):
        return tuple(map(_kind, value))
    return type(value).__name__


def _stream(kwargs: dict[str, Any]) -> str:
    """The name of the argument that is the residual stream: transformers', or the first that can
    be it."""
    if "hidden_states" in kwargs:
        return "hidden_states"
    for name, value in kwargs.items():
        if isinstance(value, Tensor) and value.ndim == 3 and value.is_floating_point():
            return name
    raise ModelError(
        f"A block is called with {', '.join(kwargs) or 'nothing'}; expected the residual stream "
        "first, or as hidden_states."
    )


def _no_cache(value: Any) -> Any:
    """A replayed block must not append to the clean pass's cache (some pass it by position)."""
    is_cache = hasattr(value, "get_seq_length") or hasattr(value, "past_keys")
    return None if is_cache else value
