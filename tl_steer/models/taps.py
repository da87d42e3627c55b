"""Listening to a model at work: what was asked, and activations where it speaks.

A `Listener` hears of every batch of requests: the prompts, the activation at each prompt's end, and
then every generated token with its own activation, as the model reads it back in. Plain PyTorch
hooks do it, on the token embedding and on the points listened to, so `model.reset_hooks()` does not
take them off, TransformerLens need not be there, and the cost is that of a function call. The mask
of padded batches is read off the model's own `attention_mask` argument.

A batch goes on as long as it grows by one token per row; anything else is a new batch. What cannot
be told apart: a new batch of one-token prompts straight after a batch of the same size, and rows
that change places (beam search).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tl_steer.errors import HookPointError, ModelError
from tl_steer.files.undo import Scope, scoped
from tl_steer.hook_points.site import Site
from tl_steer.models.model import HookedModel, modules_of
from tl_steer.models.state import listen


@runtime_checkable
class Listener(Protocol):
    """What hears; all of it is called from inside the model's forward pass."""

    def begin(self, ids: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]) -> None:
        """New requests, one a row; called before the first activation."""

    def token(self, ids: Int[Tensor, " batch"]) -> None:
        """Every row has been given one more token."""

    def activation(self, site: int, residual: Float[Tensor, "batch d"]) -> None:
        """At the newest token of every row, for each site in turn."""


@dataclass(frozen=True)
class Host:
    """A model and where in it to listen: its embedding, and for each point the module and whether
    its input is meant (else its output)."""

    model: nn.Module
    embed: nn.Module
    points: tuple[tuple[nn.Module, bool], ...]

    @property
    def device(self) -> torch.device:
        """Where token ids have to be."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype


def host_of(model: HookedModel, sites: Sequence[Site]) -> Host:
    """Hook points of a TransformerLens model.

    Raises:
        ModelError: the model has no embedding module that could be listened to.
    """
    embed = getattr(model, "embed", None)
    if not isinstance(model, nn.Module) or not isinstance(embed, nn.Module):
        raise ModelError(
            f"{type(model).__name__} has no module `embed` that is called with token ids, so "
            "prompts cannot be told from generated tokens."
        )
    return Host(model, embed, tuple((model.hook_dict[site.name], False) for site in sites))


def torch_host(module: nn.Module, sites: Sequence[Site], n_layers: int) -> Host:
    """Blocks of a transformers model, found as its one list of `n_layers` modules.

    Raises:
        ModelError: there is no such list, or several, or no input embedding.
        HookPointError: a site that is not between blocks.
    """
    lists = [m for m in module.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    find: Any = getattr(module, "get_input_embeddings", None)
    embed = None if find is None else find()
    if len(lists) != 1 or not isinstance(embed, nn.Module):
        raise ModelError(
            f"{type(module).__name__} has {len(lists)} lists of {n_layers} modules and "
            f"{'an' if embed is not None else 'no'} input embedding; expected one list of blocks "
            "and an embedding, as transformers models have them."
        )
    points = []
    for site in sites:
        if site.kind not in ("hook_resid_pre", "hook_resid_post"):
            raise HookPointError(
                f"{site} lies inside a block; outside TransformerLens only hook_resid_pre and "
                "hook_resid_post can be listened to."
            )
        points.append((lists[0][site.layer], site.kind == "hook_resid_pre"))
    return Host(module, embed, tuple(points))


@scoped
def listening(scope: Scope, host: Host, listener: Listener) -> None:
    """The model with a listener. Afterwards, exceptions included, it has the hooks and the
    `forward` that it had before."""
    ear = _Ear(listener)
    listen(scope, host.embed, ear.embedded, before=True)
    _tell_masks(scope, host.model, ear)
    for i, (module, before) in enumerate(host.points):
        _listen(scope, module, before, ear.at(i))


def glance(host: Host, ids: Int[Tensor, "batch pos"]) -> list[Float[Tensor, "batch pos d"]]:
    """Activations at every point in one plain forward pass, in eval mode and without gradients.

    Raises:
        HookPointError: a point did not fire.
    """
    seen: dict[int, Tensor] = {}
    with Scope() as scope:
        for i, (module, before) in enumerate(host.points):
            _listen(scope, module, before, functools.partial(seen.__setitem__, i))
        for module in modules_of(host.model):
            scope.undo(setattr, module, "training", module.training)
            module.training = False
        with torch.no_grad():
            host.model(ids.to(host.device))
    missing = [i for i in range(len(host.points)) if i not in seen]
    if missing:
        raise HookPointError(
            f"Points {missing} of {len(host.points)} did not fire in a forward pass."
        )
    return [seen[i] for i in range(len(host.points))]


def _listen(scope: Scope, module: nn.Module, before: bool, hear: Callable[[Tensor], None]) -> None:
    def entering(_m: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        hear(args[0] if args else kwargs["hidden_states"])

    def leaving(_m: Any, _args: Any, out: Any) -> None:
        hear(out[0] if isinstance(out, tuple) else out)

    listen(scope, module, entering if before else leaving, before=before)


def _tell_masks(scope: Scope, model: nn.Module, ear: "_Ear") -> None:
    """`model.forward` that tells the ear its attention mask. Not a hook: HookedTransformer's own
    generate calls `forward` directly, past every hook on the model."""
    own = model.__dict__.get("forward")
    original = model.forward

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        ear.mask = kwargs.get("attention_mask")
        return original(*args, **kwargs)

    if own is None:
        scope.undo(model.__dict__.pop, "forward", None)
    else:
        scope.undo(model.__dict__.__setitem__, "forward", own)
    model.__dict__["forward"] = forward


class _Ear:
    """Tells new requests from their continuation."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.mask: Any = None
        self._ids: Tensor | None = None  # embedded since the last forward pass
        self._known: Tensor | None = None  # the current batch so far
        self._ends: Tensor | None = None

    def embedded(self, _m: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        ids = args[0] if args else next((v for v in kwargs.values() if isinstance(v, Tensor)), None)
        if isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_floating_point():
            self._ids = ids.detach()

    def at(self, site: int) -> Callable[[Tensor], None]:
        def hear(residual: Tensor) -> None:
            if self._ids is not None:
                self._arrive(self._ids, residual.shape[1])
                self._ids = None
            residual = residual.detach()
            if self._ends is None:
                newest = residual[:, -1]
            else:
                ends = self._ends.to(residual.device)
                newest = residual[torch.arange(len(ends), device=residual.device), ends]
            self.listener.activation(site, newest)

        return hear

    def _arrive(self, ids: Tensor, width: int) -> None:
        if self._known is not None and self._goes_on(ids, width):
            self._known = torch.cat([self._known, ids[:, -1:]], dim=1)
            self._ends = None
            self.listener.token(ids[:, -1])
            return
        mask = torch.ones_like(ids, dtype=torch.bool)
        if isinstance(self.mask, Tensor) and self.mask.shape == ids.shape:
            mask = self.mask.to(ids.device).bool()
        places = torch.arange(ids.shape[1], device=ids.device)
        ends = (mask * places).amax(dim=1)
        self._known, self._ends = ids, ends
        self.listener.begin(ids, mask)

    def _goes_on(self, ids: Tensor, width: int) -> bool:
        known = self._known
        assert known is not None
        if len(ids) != len(known):
            return False
        if ids.shape[1] == 1:
            # With a cache one column is run; without, all that is known and the new token.
            return width == 1 or width == known.shape[1] + 1
        grown = ids.shape[1] == known.shape[1] + 1
        return grown and bool(torch.equal(ids[:, :-1], known))
