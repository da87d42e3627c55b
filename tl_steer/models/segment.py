"""Only the blocks between source and target, many perturbations in one pass.

    clean pass   ids -> ... -> block s -> ... -> block t        once; every block's arguments kept
    replay       vec copies of the residual stream -> block s -> ... -> block t     every step

A block is called again just as the model called it (masks, rotary tables, position ids), only with
a larger batch, so the result is that of a full forward pass and hooks inside the segment still
fire. No unembedding, no block outside the segment, no gradient for parameters. `start_at_layer` is
not used: TransformerBridge would still run every block before it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_steer.errors import HookPointError, ModelError, NotFiniteError, ShapeError, SteerError
from tl_steer.files.signatures import typed
from tl_steer.files.text import said
from tl_steer.hook_points.site import Point, Site
from tl_steer.models.calls import Calls, forget, recording, run_to, stop_behind, with_axes
from tl_steer.models.hooks import capturing, installed
from tl_steer.models.linear_map import refuse_nonlinear
from tl_steer.models.lookup import resolve
from tl_steer.models.model import HookedModel
from tl_steer.models.tokens import TokenBatch
from tl_steer.models.unbridged import Unbridged, wraps
from tl_steer.perturbations.edit import Edit
from tl_steer.perturbations.perturbation import Perturbation

_BETWEEN_BLOCKS = ("hook_resid_pre", "hook_resid_post")


class Segment:
    """The part of a model from `source` to `target`, for one batch of prompts.

    Args:
        model: must already be `frozen` if gradients are to stay out of its parameters.
        tokens: the prompts.
        source, target: hook points, as `resolve` takes them.

    Attributes:
        clean: activations at the target without a perturbation.
        clean_source: the same at the source, before its perturbation.
        calls: how the model called its blocks; `first` to `last` are the ones that run.
        unbridged: what runs for them as long as nobody listens inside: their own modules, without
            the bridge's (`models.unbridged`); empty where that gives other numbers.

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
    calls: Calls
    unbridged: dict[int, Unbridged]

    @typed
    def __init__(
        self, model: HookedModel, tokens: TokenBatch, source: Point, target: Point
    ) -> None:
        self.model = model
        self.source = resolve(model, source)
        self.target = resolve(model, target, target=True)
        if self.target.order < self.source.order:
            raise HookPointError(
                f"The target {self.target} comes before the source {self.source}: a perturbation "
                "has no effect there. Swap them, or choose a later target."
            )
        if self.target.order == self.source.order and self.target.head != self.source.head:
            _refuse_other_head(self.source, self.target)
        # An edit of a block's output needs no block to run; any other runs inside its block.
        self._outside = self.source.kind == "hook_resid_post"
        self.first = self.source.layer + int(self._outside)
        self.last = self.target.layer - int(self.target.kind == "hook_resid_pre")
        self._linear: set[tuple[str, str]] = set()
        self.unbridged = {}
        self._prepare(tokens)

    def _prepare(self, tokens: TokenBatch) -> None:
        self.tokens = tokens
        self.mask: Bool[Tensor, "batch pos"] = tokens.mask
        fresh = self._record()
        try:
            self._check_replay()
        except ModelError:
            if fresh:
                raise
            # What was remembered of the model's arguments is true of it no longer.
            forget(self.model)
            self._prepare(tokens)

    def run(self, perturbation: Perturbation) -> Float[Tensor, "vec batch pos d_model"]:
        """Activations at the target under every edit of `perturbation`, with gradients.

        Raises:
            ShapeError: that is no perturbation.
            HookPointError: one of its hooks never fired.
        """
        if not isinstance(perturbation, Perturbation):
            raise ShapeError(
                f"Segment.run() got {type(perturbation).__name__}; expected a Perturbation, such "
                "as Additive(site, vectors) or bank.perturbation()."
            )
        start = self.clean_start.repeat(len(perturbation), 1, 1)
        return self.run_on(start, perturbation, self.tokens.edited(perturbation.positions))

    def run_on(
        self,
        start: Float[Tensor, "row pos width"],
        perturbation: Perturbation,
        prompt: Bool[Tensor, "batch pos"] | Float[Tensor, "batch pos"],
        *,
        calls: Calls | None = None,
    ) -> Float[Tensor, "vec batch pos d_model"]:
        """`run` for other tokens in the prompts' places.

        Args:
            start: what stands at `beginning`, on each of the vec x batch rows.
            prompt: the tokens that are edited.
            calls: how the blocks are called, unless as they were in the clean pass.
        """
        vec, batch = len(perturbation), len(self.tokens)
        rows = torch.arange(vec, device=self.clean.device).repeat_interleave(batch)
        hooks = perturbation.hooks(
            rows=rows, prompt=None if perturbation.positions.everywhere else prompt.repeat(vec, 1)
        )
        for _, function in hooks:
            if isinstance(function, Edit):
                function.aligned = True  # the blocks are called with these very columns
        self._refuse_nonlinear(perturbation)
        points = self.model.hook_dict
        at_source = [
            (name, function)
            for name, function in hooks
            if self._outside and points[name] is points[self.source.point]
        ]
        for _, function in at_source:
            start = function(start)
        with installed(self.model, [hook for hook in hooks if hook not in at_source]):
            out = self.replay(start, vec, calls=calls)
        for name, function in hooks:
            if getattr(function, "calls", 1) == 0:
                raise HookPointError(
                    f"The hook at {name} never fired, so nothing was steered there: it lies "
                    f"outside {self.source} to {self.target}, or is switched off."
                )
        steered: Tensor = out.to(self.clean.device).unflatten(0, (vec, batch))
        return steered

    @property
    def beginning(self) -> str:
        """The hook point whose activations a run starts from: the source, or what enters its
        block."""
        before = f"blocks.{self.source.layer}.hook_resid_pre"
        return self.source.name if self._outside else before

    @property
    def clean_start(self) -> Float[Tensor, "batch pos width"]:
        """Clean activations at `beginning`."""
        return self.clean_source if self._outside else self._entering

    def _refuse_nonlinear(self, perturbation: Perturbation) -> None:
        """Once for every linear map that is edited."""
        new = [pair for pair in perturbation.maps if pair not in self._linear]
        refuse_nonlinear(self.model, new)
        self._linear.update(new)

    def source_norm(self) -> float:
        """Median norm of the clean residual stream that the source writes into, BOS left out.

        At `attn.hook_z`, `hook_attn_out` and `hook_mlp_out` it is the stream entering the block:
        what a perturbation there is added to, in the end. At other points off the stream (queries,
        neurons) it is the norm of what is there.
        """
        into_stream = self.source.writes and not self.source.is_residual
        return self._median_norm(self._entering if into_stream else self.clean_source)

    def target_norm(self) -> float:
        """The same at the target."""
        return self._median_norm(self.clean)

    def _median_norm(self, stream: Tensor) -> float:
        keep = self.tokens.mask.clone()
        keep[:, 0] &= ~self.tokens.has_bos
        keep = keep if bool(keep.any()) else self.tokens.mask
        return float(stream.float().norm(dim=-1)[keep.to(stream.device)].median())

    def _record(self) -> bool:
        """The clean pass: keep the source, the target and how each block was called. Returns
        whether that was learned just now."""
        calls: Calls = {}
        entering: dict[int, Tensor] = {}
        names = list(dict.fromkeys([self.source.point, self.target.point]))
        stop = stop_behind(self.model, self.target.layer)
        with _told("A forward pass"), torch.no_grad():
            with recording(self.model, calls, entering), capturing(self.model, names) as seen:
                run_to(self.model, self.tokens, stop)
            self.calls, fresh = with_axes(self.model, calls, self.tokens, stop)
        for name in names:
            if name not in seen:
                raise HookPointError(
                    f"{name} did not fire in a forward pass: it is switched off in this model's "
                    "config or its architecture does not compute it."
                )
        self._entering = entering[self.source.layer].detach()
        self.clean_source = self.source.read(seen[self.source.point].detach())
        self.clean = self.target.read(seen[self.target.point].detach())
        real = self.clean[self.mask.to(self.clean.device)]
        if not bool(real.isfinite().all()):
            raise NotFiniteError(
                f"The clean activations at {self.target} contain NaN or infinity: the model "
                "itself overflows on these prompts (half precision, perhaps)."
            )
        return fresh

    def replay(
        self, residual: Float[Tensor, "row pos width"], vec: int, *, calls: Calls | None = None
    ) -> Float[Tensor, "row pos d_model"]:
        """Run the blocks of the segment on `vec` copies of the batch, which stand at `beginning` as
        given; the target's own hooks fire as in the full model."""
        calls = calls or self.calls
        for layer in range(self.first, self.last):
            residual = calls[layer](self._block(layer), residual, vec)
        point = self.target.point
        if self.target.kind not in _BETWEEN_BLOCKS:
            with capturing(self.model, [point]) as seen:
                calls[self.last](self._block(self.last), residual, vec)
            return self.target.read(seen[point])
        if self.first <= self.last:
            residual = calls[self.last](self._block(self.last), residual, vec)
        if self.target.kind == "hook_resid_pre" and point != self.source.point:
            residual = self.model.hook_dict[point](residual)
        return residual

    def _block(self, layer: int) -> Any:
        """What runs for a block: its own modules, where nobody listens between them."""
        found = self.unbridged.get(layer)
        return found if found is not None and found.stands_in else self.model.blocks[layer]

    def _off(self) -> float:
        """How far two clean copies end from the clean target, relative to it."""
        with _told(f"Replaying blocks {self.first} to {self.last}"), torch.no_grad():
            again = self.replay(self.clean_start.repeat(2, 1, 1), 2).unflatten(
                0, (2, len(self.tokens))
            )
        real = self.mask.to(self.clean.device)
        again = again.to(self.clean.device)
        clean = self.clean[real].double()
        off = max(float((copy[real].double() - clean).norm()) for copy in again)
        return off / max(float(clean.norm()), 1e-300)

    def _check_replay(self) -> None:
        """Two clean copies must give the clean target twice, or nothing downstream can be trusted.
        Blocks' own modules run for them where that comes no less close to it."""
        blocks = {layer: self.model.blocks[layer] for layer in range(self.first, self.last + 1)}
        self.unbridged = {i: Unbridged(block) for i, block in blocks.items() if wraps(block)}
        alone = math.inf
        with suppress(SteerError):
            alone = self._off() if self.unbridged else math.inf
        if alone == 0:
            return
        unbridged, self.unbridged = self.unbridged, {}
        off = self._off()
        tolerance = 1e-4 if self.clean.dtype in (torch.float32, torch.float64) else 0.05
        if not off <= tolerance:
            raise ModelError(
                f"Replaying blocks {self.first} to {self.last} does not reproduce the model "
                f"(relative error {off:.2g}): its blocks carry state or take arguments that "
                "depend on the batch in a way that tl_steer does not know."
            )
        if alone <= off:
            self.unbridged = unbridged


def _refuse_other_head(source: Site, target: Site) -> None:
    if None not in (source.head, target.head):
        raise HookPointError(
            f"{target} does not depend on {source}: heads of one block are computed side by side. "
            "Choose a later target."
        )


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Whatever goes wrong inside a model is one sentence; memory is the business of who asks."""
    try:
        yield
    except (SteerError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ModelError(f"{what} fails on this model: {said(error, most=300)}") from error
