"""The truth that tl_steer is compared with: plain modules and hooks, one prompt at a time.

Nothing of tl_steer is used. A hook point is looked up in the bridge's components to learn which
module of transformers it belongs to, and the hook is put on a copy of that module that no
TransformerLens has touched.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Edit:
    """Add a vector at a hook point, at some tokens (all of them unless said)."""

    point: str
    vector: Tensor
    at: Tensor | None = None

    def __call__(self, activation: Tensor) -> Tensor:
        vector = self.vector.to(activation)
        if self.at is not None:
            # One row for each token, whether the module keeps the prompts apart or not.
            vector = self.at.reshape(-1, 1).to(activation) * vector
        flat = activation.reshape(-1, self.vector.shape[-1]) + vector
        return flat.view(activation.shape)


Function = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True)
class Place:
    """A module of PyTorch, whether its input is meant, and a factor that the block multiplies what
    comes out by before it is called the hook point's value."""

    module: nn.Module
    before: bool
    scale: float = 1.0

    def hook(self, function: Function) -> Callable[[], None]:
        """Put a function there; returns what takes it off."""
        if self.scale != 1:
            function = _scaled(function, self.scale)
        if self.before:
            entering = _entering(function)
            return self.module.register_forward_pre_hook(entering, with_kwargs=True).remove
        return self.module.register_forward_hook(_leaving(function)).remove


@dataclass(frozen=True)
class Point:
    """A hook point of TransformerLens, by its own `add_hook`."""

    module: Any
    before: bool = False
    scale: float = 1.0

    def hook(self, function: Function) -> Callable[[], None]:
        self.module.add_hook(lambda activation, hook: function(activation))
        handle = self.module.fwd_hooks[-1]

        def remove() -> None:
            handle.hook.remove()
            self.module.fwd_hooks.remove(handle)

        return remove


def _scaled(function: Function, scale: float) -> Function:
    def scaled(out: Tensor) -> Tensor | None:
        found = function(out * scale)
        return None if found is None else found / scale

    return scaled


def _entering(function: Function) -> Any:
    def hook(_m: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if args:
            found = function(args[0])
            return None if found is None else ((found, *args[1:]), dict(kwargs))
        found = function(kwargs["hidden_states"])
        return None if found is None else (args, {**kwargs, "hidden_states": found})

    return hook


def _leaving(function: Function) -> Any:
    def hook(_m: Any, _args: Any, out: Any) -> Any:
        found = function(out[0] if isinstance(out, tuple) else out)
        if found is None:
            return None
        return (found, *out[1:]) if isinstance(out, tuple) else found

    return hook


class Truth:
    """A model that is run by plain calls, with hooks at named places."""

    def __init__(
        self, run: Callable[..., Tensor], places: Callable[[str], Place | Point], name: str
    ) -> None:
        self._run, self.place, self.name = run, places, name

    @torch.no_grad()
    def __call__(
        self,
        ids: Tensor,
        *edits: Edit,
        read: Sequence[str] = (),
        mask: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Log-probabilities `[batch pos vocabulary]` and what was read, after the edits."""
        seen: dict[str, Tensor] = {}
        with self.hooked(*edits, read=read, seen=seen):
            logits = self._run(ids, mask)
        return logits.float().log_softmax(dim=-1), seen

    @contextmanager
    def hooked(
        self, *edits: Edit, read: Sequence[str] = (), seen: dict[str, Tensor] | None = None
    ) -> Iterator[None]:
        def keep(name: str) -> Callable[[Tensor], None]:
            def hook(activation: Tensor) -> None:
                assert seen is not None
                per_token = activation if activation.ndim > 2 else activation[None]
                seen[name] = per_token.detach().flatten(2).clone()

            return hook

        with ExitStack() as stack:
            for edit in edits:
                stack.callback(self.place(edit.point).hook(edit))
            for name in read:
                stack.callback(self.place(name).hook(keep(name)))
            yield

    def continued(self, ids: Tensor, n: int, *edits: Edit, ends: Sequence[int] = ()) -> list[int]:
        """Greedy tokens behind one prompt, every one by a full pass; an end of text is kept."""
        told: list[int] = []
        while len(told) < n and not (told and told[-1] in ends):
            grown = torch.cat([ids, torch.tensor(told, dtype=ids.dtype)])[None]
            told.append(int(self(grown, *edits)[0][0, -1].argmax()))
        return told


def plain_truth(module: nn.Module, names: Mapping[int, str], bridge: Any) -> Truth:
    """A transformers model; `names` has the qualified names of the modules that the bridge got."""

    def run(ids: Tensor, mask: Tensor | None) -> Tensor:
        masked = {} if mask is None else {"attention_mask": mask.long()}
        return module(input_ids=ids, **masked).logits

    def place(point: str) -> Place:
        if point not in bridge.hook_dict or not hasattr(bridge, "original_model"):
            return _between(module, point, int(bridge.cfg.n_layers))
        owner, before, scale = _owner(bridge, bridge.hook_dict[point])
        return Place(module.get_submodule(names[id(owner.original_component)]), before, scale)

    return Truth(run, place, "transformers")


def own_truth(model: Any) -> Truth:
    """The TransformerLens model itself, by PyTorch hooks on its hook points' modules."""

    def run(ids: Tensor, mask: Tensor | None) -> Tensor:
        masked = {} if mask is None else {"attention_mask": mask.long()}
        return model(ids, return_type="logits", **masked)

    return Truth(run, lambda name: Point(model.hook_dict[name]), type(model).__name__)


def _between(module: nn.Module, point: str, n_layers: int) -> Place:
    """Points between blocks, where there is no bridge to ask: the one list of as many modules."""
    (blocks,) = [m for m in module.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    _, layer, kind = point.split(".")
    return Place(blocks[int(layer)], {"hook_resid_pre": True, "hook_resid_post": False}[kind])


def _owner(bridge: Any, point: nn.Module) -> tuple[Any, bool, float]:
    for component in bridge.modules():
        own = component.__dict__.get("_modules", {})
        for name, before in (("hook_in", True), ("hook_out", False)):
            if own.get(name) is point:
                return component, before, 1.0
        # Granite scales what its parts give before it adds it up: these points are the block's own.
        for name, part in (("hook_attn_out", "attn"), ("hook_mlp_out", "mlp")):
            if own.get(name) is point:
                part = getattr(component, f"scaled_{part}_submodule", part)
                return component.submodules[part], False, component.residual_contribution_scale
    raise LookupError(f"{point} is no component's input or output")


def named(module: nn.Module) -> dict[int, str]:
    return {id(m): name for name, m in module.named_modules()}


def untouched(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module)
