"""Listening to a model at work: what was asked, and activations where it speaks.

A `Listener` hears of every batch of requests: the prompts, the activation at each prompt's end, and
then every generated token with its own activation, as the model reads it back in. Plain PyTorch
hooks do it, on the token embedding and on the points listened to, so `model.reset_hooks()` does not
take them off, TransformerLens need not be there, and the cost is that of a function call. The mask
of padded batches is read off the `attention_mask` argument of the model, or of the module inside of
it that is called in its place.

Every thread has requests of its own. What tl_steer itself runs is not heard.

A batch goes on as long as it grows by one token per row; anything else is a new batch. What cannot
be told apart: a new batch of one-token prompts straight after a batch of the same size, and rows
that change places (beam search).
"""

import functools
import inspect
import threading
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
from tl_steer.models.state import evaluating, listen, own_depth, own_run, uncompiled


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
    """A model and where in it to listen: its embedding, and for each point the module, whether its
    input is meant (else its output), and what of it."""

    model: nn.Module
    embed: nn.Module
    points: tuple[tuple[nn.Module, bool, Site], ...]

    @property
    def entrances(self) -> list[nn.Module]:
        """Modules around the embedding that can be called in the model's place: a bridge's
        `original_model`, which its `hf_generate` runs, and what is inside of it."""
        return [
            module
            for module in modules_of(self.model)
            if module is not self.model
            and module is not self.embed
            and any(part is self.embed for part in module.modules())
        ]

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
    points = model.hook_dict
    return Host(model, embed, tuple((points[site.point], False, site) for site in sites))


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
        points.append((lists[0][site.layer], site.kind == "hook_resid_pre", site))
    return Host(module, embed, tuple(points))


@scoped
def listening(scope: Scope, host: Host, listener: Listener) -> None:
    """The model with a listener. Afterwards, exceptions included, it has the hooks and the
    `forward` that it had before, in whatever order listeners leave."""
    uncompiled(scope)
    ear = _Ear(listener, len(host.points), own_depth())
    listen(scope, host.embed, ear.embedded, before=True)
    for module in host.entrances:
        listen(scope, module, ear.entered(module), before=True)
    _tell_masks(scope, host.model, ear)
    for i, (module, before, site) in enumerate(host.points):
        _listen(scope, module, before, site, ear.at(i))


def glance(host: Host, ids: Int[Tensor, "batch pos"]) -> list[Float[Tensor, "batch pos d"]]:
    """Activations at every point in one plain forward pass, in eval mode and without gradients.

    Raises:
        HookPointError: a point did not fire.
    """
    seen: dict[int, Tensor] = {}
    with Scope() as scope:
        for i, (module, before, site) in enumerate(host.points):
            _listen(scope, module, before, site, functools.partial(seen.__setitem__, i))
        evaluating(scope, modules_of(host.model))
        scope.enter_context(own_run())
        with torch.no_grad():
            host.model(ids.to(host.device))
    missing = [i for i in range(len(host.points)) if i not in seen]
    if missing:
        raise HookPointError(
            f"Points {missing} of {len(host.points)} did not fire in a forward pass."
        )
    return [seen[i] for i in range(len(host.points))]


def _listen(
    scope: Scope, module: nn.Module, before: bool, site: Site, hear: Callable[[Tensor], None]
) -> None:
    def entering(_m: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        hear(site.read(args[0] if args else kwargs["hidden_states"]))

    def leaving(_m: Any, _args: Any, out: Any) -> None:
        hear(site.read(out[0] if isinstance(out, tuple) else out))

    listen(scope, module, entering if before else leaving, before=before)


def _tell_masks(scope: Scope, model: nn.Module, ear: "_Ear") -> None:
    """`model.forward` that tells ears its attention mask. Not a hook: HookedTransformer's own
    generate calls `forward` directly, past every hook on the model."""
    told: Any = model.__dict__.get("forward")
    if not hasattr(told, "ears"):
        told = _telling(model)
    scope.undo(_stop_telling, model, told, ear)
    told.ears.append(ear)
    model.__dict__["forward"] = told


def _telling(model: nn.Module) -> Any:
    original, mask_of = model.forward, _mask_of(model)

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        for ear in tuple(told.ears):
            ear.told(mask_of(args, kwargs))
        return original(*args, **kwargs)

    told: Any = forward
    told.ears, told.own = [], model.__dict__.get("forward")
    return told


def _stop_telling(model: nn.Module, told: Any, ear: "_Ear") -> None:
    """The last ear to leave, not the first to come, puts `forward` back."""
    told.ears[:] = [other for other in told.ears if other is not ear]
    on_top = model.__dict__.get("forward") is told
    if told.ears or not on_top:
        return
    if told.own is None:
        del model.__dict__["forward"]
    else:
        model.__dict__["forward"] = told.own


def _mask_of(module: nn.Module) -> Callable[[Sequence[Any], Mapping[str, Any]], Any]:
    """The attention mask among a call's arguments, by name or by its place."""
    names = list(inspect.signature(module.forward).parameters)
    place = names.index("attention_mask") if "attention_mask" in names else len(names)

    def find(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return args[place] if place < len(args) else kwargs.get("attention_mask")

    return find


class _Ear(threading.local):
    """Tells new requests from their continuation; every thread has its own.

    Deaf to what tl_steer itself runs (`models.state.own_run`), unless it was made in there.
    """

    def __init__(self, listener: Listener, sites: int, depth: int) -> None:
        # Called again, with the same arguments, in every thread that uses the ear.
        self.listener, self._depth, self._sites = listener, depth, range(sites)
        self._told: Any = None  # the mask of a call that has not reached the embedding
        self._mask: Any = None
        self._ids: Tensor | None = None  # embedded since the last forward pass
        self._left: set[int] = set()  # points that this pass has still to reach
        self._known: list[Tensor] = []  # the current batch so far, in pieces, and how long
        self._long = 0
        self._ends: Tensor | None = None

    @property
    def _deaf(self) -> bool:
        return own_depth() > self._depth

    def told(self, mask: Any) -> None:
        if not self._deaf:
            self._told = mask

    def entered(self, module: nn.Module) -> Callable[..., None]:
        mask_of = _mask_of(module)

        def entering(_m: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            mask = mask_of(args, kwargs)
            if isinstance(mask, Tensor) and mask.ndim == 2:
                self.told(mask)

        return entering

    def embedded(self, _m: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self._deaf:
            return
        self._mask, self._told = self._told, None
        ids = args[0] if args else next((v for v in kwargs.values() if isinstance(v, Tensor)), None)
        if isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_floating_point():
            self._ids, self._left = ids, set(self._sites)

    def at(self, site: int) -> Callable[[Tensor], None]:
        def hear(residual: Tensor) -> None:
            if self._deaf or site not in self._left:  # blocks may be run by themselves
                return
            self._left.remove(site)
            if self._ids is not None:
                self._arrive(self._ids, residual.shape[1])
                self._ids = None
            residual = residual.detach()
            if self._ends is None:
                newest = residual.select(1, -1)
            else:
                ends = self._ends.to(residual.device)
                newest = residual[torch.arange(len(ends), device=residual.device), ends]
            self.listener.activation(site, newest)

        return hear

    def _arrive(self, ids: Tensor, width: int) -> None:
        if self._known and self._goes_on(ids, width):
            self._grow(ids)
            self._ends = None
            self.listener.token(ids.select(1, -1))
            return
        mask = torch.ones_like(ids, dtype=torch.bool)
        if isinstance(self._mask, Tensor) and self._mask.shape == ids.shape:
            mask = self._mask.to(ids.device).bool()
        places = torch.arange(ids.shape[1], device=ids.device)
        ends = (mask * places).amax(dim=1)
        self._known, self._long, self._ends = [ids], ids.shape[1], ends
        self.listener.begin(ids, mask)

    def _grow(self, ids: Tensor) -> None:
        # Joined only when they are compared with: a token costs little else.
        if ids.shape[1] == 1:
            self._known.append(ids)
        else:
            self._known = [ids]
        self._long += 1

    def _goes_on(self, ids: Tensor, width: int) -> bool:
        if len(ids) != len(self._known[0]):
            return False
        if ids.shape[1] == 1:
            # With a cache one column is run; without, all that is known and the new token.
            return width in (1, self._long + 1)
        grown = ids.shape[1] == self._long + 1
        return grown and bool(torch.equal(ids[:, :-1], torch.cat(self._known, dim=1)))
