"""Only the blocks between source and target, many perturbations in one pass.

    clean pass   ids -> ... -> block s -> ... -> block t        once; every block's arguments kept
    replay       vec copies of the residual stream -> block s -> ... -> block t     every step

A block is called again just as the model called it (masks, rotary tables, position ids), only with
a larger batch, so the result is that of a full forward pass and hooks inside the segment still
fire. No unembedding, no block outside the segment, no gradient for parameters. `start_at_layer` is
not used: TransformerBridge would still run every block before it.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_steer.errors import HookPointError, ModelError, NotFiniteError
from tl_steer.files.undo import Scope, scoped
from tl_steer.hook_points.site import Site
from tl_steer.models.hooks import capturing, installed
from tl_steer.models.linear_map import refuse_nonlinear
from tl_steer.models.lookup import resolve
from tl_steer.models.model import HookedModel
from tl_steer.models.state import listen
from tl_steer.models.tokens import TokenBatch
from tl_steer.perturbations.perturbation import Perturbation


@dataclass(frozen=True)
class _Call:
    """How the model called a block: everything but the residual stream."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    by_keyword: bool
    device: torch.device

    def __call__(self, block: Any, residual: Tensor, batch: int, vec: int) -> Tensor:
        args = tuple(_spread(a, batch, vec) for a in self.args)
        kwargs = {name: _spread(value, batch, vec) for name, value in self.kwargs.items()}
        # Some models move the stream between blocks themselves, where those lie on several devices.
        residual = residual.to(self.device)
        out = (
            block(hidden_states=residual, **kwargs)
            if self.by_keyword
            else block(residual, *args, **kwargs)
        )
        return out[0] if isinstance(out, tuple) else out  # type: ignore[no-any-return]


class Segment:
    """The part of a model from `source` to `target`, for one batch of prompts.

    Args:
        model: must already be `frozen` if gradients are to stay out of its parameters.
        tokens: the prompts.
        source, target: hook points (names, or sites from `resolve`).

    Attributes:
        clean: activations at the target without a perturbation.
        clean_source: the same at the source, before its perturbation.

    Raises:
        HookPointError: the target comes before the source, or a point did not fire.
        ModelError: replaying the blocks does not give what the model gave.
        NotFiniteError: the clean activations contain NaN or infinity.

    Where blocks lie on several devices, each gets the stream on the device where it got it in the
    clean pass. (Tested with stand-ins for devices only, never on several of them.)

    Hooks that are on the model when the segment is made are part of it. Make a new one after
    adding or removing hooks before the source, or changing weights.
    """

    clean: Float[Tensor, "batch pos d_model"]
    clean_source: Float[Tensor, "batch pos width"]

    def __init__(
        self, model: HookedModel, tokens: TokenBatch, source: str | Site, target: str | Site
    ) -> None:
        self.model = model
        self.source = resolve(model, str(source))
        self.target = resolve(model, str(target), target=True)
        if self.target.order < self.source.order:
            raise HookPointError(
                f"The target {self.target} comes before the source {self.source}: a perturbation "
                "has no effect there. Swap them, or choose a later target."
            )
        self.tokens = _unambiguous(tokens)
        # An edit of a block's output needs no block to run; any other runs inside its block.
        self._outside = self.source.kind == "hook_resid_post"
        self._first = self.source.layer + int(self._outside)
        self._last = self.target.layer - int(self.target.kind == "hook_resid_pre")
        self.mask: Bool[Tensor, "batch pos"] = tokens.mask
        self._linear: set[tuple[str, str]] = set()
        self._record()
        self._check_replay()

    def run(self, perturbation: Perturbation) -> Float[Tensor, "vec batch pos d_model"]:
        """Activations at the target under every edit of `perturbation`, with gradients."""
        vec, batch = len(perturbation), len(self.tokens)
        rows = torch.arange(vec, device=self.clean.device).repeat_interleave(batch)
        prompt = self.tokens.select(perturbation.positions).repeat(vec, 1)
        hooks = perturbation.hooks(
            rows=rows, prompt=None if perturbation.positions.everywhere else prompt
        )
        self._refuse_nonlinear(perturbation)
        points = self.model.hook_dict
        at_source = [
            (name, function)
            for name, function in hooks
            if self._outside and points[name] is points[self.source.name]
        ]
        start = (self.clean_source if self._outside else self._entering).repeat(vec, 1, 1)
        for _, function in at_source:
            start = function(start)
        with installed(self.model, [hook for hook in hooks if hook not in at_source]):
            out = self._replay(start, vec)
        for name, function in hooks:
            if getattr(function, "calls", 1) == 0:
                raise HookPointError(
                    f"The hook at {name} never fired, so nothing was steered there: it lies "
                    f"outside {self.source} to {self.target}, or is switched off."
                )
        steered: Tensor = out.to(self.clean.device).unflatten(0, (vec, batch))
        return steered[:, :, : self.mask.shape[1]]

    def _refuse_nonlinear(self, perturbation: Perturbation) -> None:
        """Once for every linear map that is edited."""
        new = [pair for pair in perturbation.maps if pair not in self._linear]
        refuse_nonlinear(self.model, new)
        self._linear.update(new)

    def source_norm(self) -> float:
        """Median norm of the clean residual stream that the source writes into, BOS left out.

        At `attn.hook_z`, `hook_attn_out` and `hook_mlp_out` it is the stream entering the block:
        what a perturbation there is added to, in the end.
        """
        return self._median_norm(self.clean_source if self.source.is_residual else self._entering)

    def target_norm(self) -> float:
        """The same at the target."""
        return self._median_norm(self._clean_padded)

    def _median_norm(self, stream: Tensor) -> float:
        keep = self.tokens.mask.clone()
        keep[:, 0] &= ~self.tokens.has_bos
        keep = keep if bool(keep.any()) else self.tokens.mask
        return float(stream.float().norm(dim=-1)[keep.to(stream.device)].median())

    def _record(self) -> None:
        """The clean pass: keep the source, the target and how each block was called."""
        calls: dict[int, _Call] = {}
        entering: dict[int, Tensor] = {}
        names = list(dict.fromkeys([self.source.name, self.target.name]))
        recording = _recording(self.model, calls, entering)
        with torch.no_grad(), recording, capturing(self.model, names) as seen:
            self.model(
                self.tokens.ids,
                attention_mask=self.tokens.mask.long(),
                stop_at_layer=_stop(self.model, self.target),
                return_type=None,
                **_cacheless(self.model),
            )
        for name in names:
            if name not in seen:
                raise HookPointError(
                    f"{name} did not fire in a forward pass: it is switched off in this model's "
                    "config or its architecture does not compute it."
                )
        self._calls = calls
        self._entering = entering[self.source.layer].detach()
        self.clean_source = seen[self.source.name].detach().flatten(2)
        self._clean_padded = seen[self.target.name].detach()
        self.clean = self._clean_padded[:, : self.mask.shape[1]]
        real = self._clean_padded[self.tokens.mask.to(self._clean_padded.device)]
        if not bool(real.isfinite().all()):
            raise NotFiniteError(
                f"The clean activations at {self.target} contain NaN or infinity: the model "
                "itself overflows on these prompts (half precision, perhaps)."
            )

    def _replay(self, residual: Tensor, vec: int) -> Tensor:
        """Run the blocks of the segment; the target's own hooks fire as in the full model."""
        batch = len(self.tokens)
        blocks = self.model.blocks
        for layer in range(self._first, self._last):
            residual = self._calls[layer](blocks[layer], residual, batch, vec)
        if self.target.kind == "hook_resid_mid":
            with capturing(self.model, [self.target.name]) as seen:
                self._calls[self._last](blocks[self._last], residual, batch, vec)
            return seen[self.target.name]
        if self._first <= self._last:
            residual = self._calls[self._last](blocks[self._last], residual, batch, vec)
        if self.target.kind == "hook_resid_pre" and self.target.name != self.source.name:
            residual = self.model.hook_dict[self.target.name](residual)
        return residual

    def _check_replay(self) -> None:
        """Two clean copies must give the clean target twice, or nothing downstream can be
        trusted."""
        with torch.no_grad():
            start = self.clean_source if self._outside else self._entering
            again = self._replay(start.repeat(2, 1, 1), 2).unflatten(0, (2, len(self.tokens)))
        real = self.tokens.mask.to(self._clean_padded.device)
        again = again.to(self._clean_padded.device)
        clean = self._clean_padded[real].double()
        off = max(float((copy[real].double() - clean).norm()) for copy in again)
        tolerance = 1e-4 if self.clean.dtype in (torch.float32, torch.float64) else 0.05
        if not off <= tolerance * float(clean.norm()):
            raise ModelError(
                f"Replaying blocks {self._first} to {self._last} does not reproduce the model "
                f"(relative error {off / float(clean.norm()):.2g}): its blocks carry state or take "
                "arguments that depend on the batch in a way that tl_steer does not know."
            )


def _unambiguous(tokens: TokenBatch) -> TokenBatch:
    """Pad by one more where batch and length agree, so that an axis of that size is the batch's."""
    if len(tokens) != tokens.ids.shape[1] or len(tokens) == 1:
        return tokens
    return TokenBatch(
        torch.nn.functional.pad(tokens.ids, (0, 1), value=int(tokens.ids[0, 0])),
        torch.nn.functional.pad(tokens.mask, (0, 1)),
        tokens.has_bos,
        tokens.texts,
    )


def _stop(model: HookedModel, target: Site) -> int | None:
    """Stop behind the target. Behind the last block, the bridge would return logits; let it."""
    behind = target.layer + 1
    return behind if behind < int(model.cfg.n_layers) else None


@scoped
def _recording(
    scope: Scope, model: HookedModel, calls: dict[int, _Call], entering: dict[int, Tensor]
) -> None:
    def recorder(layer: int) -> Any:
        def record(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            by_keyword = not args
            entering[layer] = kwargs["hidden_states"] if by_keyword else args[0]
            kept = {k: _no_cache(v) for k, v in kwargs.items() if k != "hidden_states"}
            if "use_cache" in kept:
                kept["use_cache"] = False
            calls[layer] = _Call(
                tuple(_no_cache(a) for a in args[1:]), kept, by_keyword, entering[layer].device
            )

        return record

    for layer, block in enumerate(model.blocks):
        listen(scope, block, recorder(layer), before=True)


def _cacheless(model: HookedModel) -> dict[str, bool]:
    """The bridge keeps a cache even for a plain forward pass, unless told not to; other models
    know no such argument."""
    parameters = inspect.signature(getattr(model, "forward", model)).parameters.values()
    takes_more = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return {"use_cache": False} if takes_more else {}


def _no_cache(value: Any) -> Any:
    """A replayed block must not append to the clean pass's cache (some pass it by position)."""
    is_cache = hasattr(value, "get_seq_length") or hasattr(value, "past_keys")
    return None if is_cache else value


def _spread(value: Any, batch: int, vec: int) -> Any:
    """Repeat what is per prompt for every vector; leave alone what broadcasts over the batch."""
    if isinstance(value, Tensor):
        per_prompt = value.ndim > 0 and value.shape[0] == batch and batch > 1
        return value.repeat(vec, *[1] * (value.ndim - 1)) if per_prompt else value
    if isinstance(value, (tuple, list)):
        return type(value)(_spread(v, batch, vec) for v in value)
    if isinstance(value, dict):
        return {k: _spread(v, batch, vec) for k, v in value.items()}
    return value
