"""Many edits on one batch of prompts: what every metric of a pass needs, and no more.

clean pass    ids -> ... -> source -> ... -> last block       once for all edits
beginning     edits:            source -> target -> last block    once for all batches
steered       edits x prompts:  source -> target -> last block -> unembedding of one token

Prompts are a tree, and no token is run twice in it (`models.packed`); what all of them begin with
is run once for all batches that begin so (`models.stem`).
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_steer.errors import HookPointError, ModelError
from tl_steer.hook_points.positions import Positions
from tl_steer.hook_points.site import Site
from tl_steer.models.hooks import capturing
from tl_steer.models.model import HookedModel
from tl_steer.models.packed import Packed, common_beginning, packed_if_possible
from tl_steer.models.stem import Rest, Stem
from tl_steer.models.tokens import TokenBatch
from tl_steer.objectives.divergence import at_least_float32
from tl_steer.objectives.output_kl import Readout, divergence_from
from tl_steer.objectives.parts import in_parts
from tl_steer.perturbations.perturbation import Perturbation
from tl_steer.sweeps.metric import Metric, Reading

# On a CPU a few thousand tokens keep matrix products at full speed and activations in the cache.
_TOKENS_ON_CPU = 2560
# The share of the budget that keys and values of a common beginning may take.
_STEMS = 4


@dataclass(frozen=True, eq=False)
class Continued:
    """Prompts with a continuation behind each, and where the prompts end.

    Attributes:
        tokens: prompts and continuations; only the prompts where there is none.
        lengths: of the prompts.
        prompt: true at the prompts' tokens.
    """

    tokens: TokenBatch
    lengths: Int[Tensor, " batch"]
    prompt: Bool[Tensor, "batch pos"]

    @property
    def new(self) -> Int[Tensor, " batch"]:
        """Lengths of the continuations."""
        return self.tokens.lengths - self.lengths

    def steered(
        self, positions: Positions
    ) -> Bool[Tensor, "batch pos"] | Float[Tensor, "batch pos"]:
        """The tokens that are steered, or how strongly: a choice that is made on the prompts."""
        behind = self.tokens.mask & ~self.prompt
        return positions.along(self.prompt, behind, self.tokens.has_bos)


def continued_by(tokens: TokenBatch, new: Sequence[Int[Tensor, " _"]] | None) -> Continued:
    """Put a continuation behind every prompt."""
    if new is None:
        return Continued(tokens, tokens.lengths, tokens.mask)
    rows = [torch.cat([a, b.to(a)]) for a, b in zip(tokens.rows(), new, strict=True)]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    at = torch.arange(ids.shape[1], device=ids.device)
    lengths = torch.tensor([len(row) for row in rows], device=ids.device, dtype=torch.long)
    whole = TokenBatch(ids, at < lengths[:, None], tokens.has_bos, tokens.texts)
    return Continued(whole, tokens.lengths, at < tokens.lengths[:, None])


@dataclass(frozen=True, eq=False)
class Found:
    """Values of every metric, `errors` of those that raised, cells whose next-token distribution is
    `broken` (NaN), and the direction of every response (zeros where a response is zero or NaN)."""

    values: dict[str, Float[Tensor, "vec batch"]]
    errors: dict[str, str]
    broken: Bool[Tensor, "vec batch"]
    directions: Float[Tensor, "vec batch d_target"]


class Together:
    """`together(tokens, metrics)`: all edits on a batch of prompts.

    Args:
        edits: the vectors, and behind them the unsteered model (`beside_unsteered`).
        read: from the last residual stream to logits; `None` where no metric looks at them.
        mean: the bank's responses, one row per edit, NaN where there is none.
        budget: bytes that one pass may take, roughly.
    """

    def __init__(
        self,
        model: HookedModel,
        edits: Perturbation,
        read: Readout | None,
        *,
        target: Site,
        measured: Positions,
        mean: Float[Tensor, "vec d_target"],
        budget: int,
    ) -> None:
        self.model, self.edits, self.read = model, edits, read
        self.target, self.measured, self.mean = target, measured, mean
        self.budget = budget
        self.final = f"blocks.{int(model.cfg.n_layers) - 1}.hook_resid_post"
        self.vec_batch, self.said_smaller = 1, False
        self.stem = Stem(edits, most=budget // _STEMS, tokens_per_pass=_TOKENS_ON_CPU)

    def __call__(
        self,
        tokens: TokenBatch,
        metrics: Mapping[str, Metric],
        *,
        own: Sequence[Int[Tensor, " _"]] | None = None,
    ) -> Found:
        """Measure. `own` are the unsteered continuations, if KL along them is wanted."""
        at = continued_by(tokens, own)
        prompts = _Prompts(self, at, along=own is not None)
        self.vec_batch = edits_in(self.budget, self.model, prompts.runs, prompts=len(tokens))
        n = len(self.edits)
        parts = in_parts(n, self, lambda rows: prompts.measure(rows, metrics))
        return Found(
            {name: torch.cat([p.values[name] for p in parts]) for name in metrics},
            {name: text for p in parts for name, text in p.errors.items()},
            torch.cat([p.broken for p in parts]),
            torch.cat([p.directions for p in parts]),
        )


class _Prompts:
    """One batch of prompts: how it is run, and what is clean about it."""

    def __init__(self, parent: Together, at: Continued, *, along: bool) -> None:
        self.parent, self.at, self.along = parent, at, along
        self.steps = int(at.new.max()) if along else 1
        chosen = at.steered(parent.edits.positions)
        self.segment = packed_if_possible(
            parent.model, at.tokens, parent.edits.site, parent.final, chosen=chosen
        )
        packing = self.segment.packing if isinstance(self.segment, Packed) else None
        self.chosen = chosen if packing is None else packing.pack(chosen)
        self._places(parent.measured.measure(at.prompt, at.tokens.has_bos))
        self.rest = self._rest_if_possible()
        # An edit that does nothing, alone in its pass: what the others are compared with.
        nothing = slice(len(parent.edits) - 1, None)
        final, self.clean_target = (x[0] for x in self._run(nothing))
        if self.rest is not None and not self._is_clean(final):
            self.rest = None
            final, self.clean_target = (x[0] for x in self._run(nothing))
        self.clean = self._logprobs(final[None], 0)[0]
        self.clean_along = [self._logprobs(final[None], i)[0] for i in range(along * self.steps)]

    def _places(self, measured: Bool[Tensor, "batch pos"]) -> None:
        """The tokens whose activations are wanted: those that predict, and those that are measured,
        in the order of the prompt and padded where prompts have fewer."""
        most = int(measured.sum(dim=1).max())
        at = measured.long().argsort(dim=1, descending=True, stable=True)[:, :most]
        self.measured_at = at
        self.measured = measured.gather(1, at).to(self.segment.clean.device)
        last = self.at.tokens.lengths[:, None] - 1
        step = torch.arange(self.steps, device=last.device)
        self.ends = torch.minimum(self.at.lengths[:, None] - 1 + step, last)

    def _rest_if_possible(self) -> Rest | None:
        """The prompts behind what all begin with, where nothing that is wanted stands there."""
        if not isinstance(self.segment, Packed):
            return None
        wanted = torch.where(
            self.measured.to(self.measured_at.device), self.measured_at, self.ends[:, :1]
        )
        bound = min(common_beginning(self.at.tokens), int(wanted.min()), int(self.ends.min()))
        with suppress(ModelError):
            return Rest(self.segment, bound, self.chosen) if bound else None
        return None

    @property
    def runs(self) -> TokenBatch:
        """What every pass runs."""
        row, bound = self.segment.tokens, 0 if self.rest is None else self.rest.bound
        return replace(row, ids=row.ids[:, bound:], mask=row.mask[:, bound:])

    def _is_clean(self, final: Float[Tensor, "batch step d_model"]) -> bool:
        """Whether prompts behind their beginning give what they give with it."""
        clean = self._pick(self.segment.clean[None], self.ends, 0)[0].double()
        off = float((final.double() - clean).norm() / clean.norm())
        return off <= (1e-4 if final.dtype in (torch.float32, torch.float64) else 0.05)

    def measure(self, rows: slice, metrics: Mapping[str, Metric]) -> Found:
        final, target = self._run(rows)
        reading = Reading(
            steered=self._logprobs(final, 0),
            clean=self.clean,
            target=target,
            clean_target=self.clean_target,
            measured=self.measured,
            mean=self.parent.mean[rows].to(target.device),
        )
        if self.along:
            reading = replace(reading, along=self._kl_along(final))
        values, errors = evaluate(metrics, reading)
        directions = torch.nn.functional.normalize(reading.responses, dim=-1, eps=1e-12)
        told = reading.steered if self.parent.read is not None else reading.responses
        broken = told.isnan().any(dim=-1).cpu()
        return Found(values, errors, broken, directions.nan_to_num(0.0).float().cpu())

    def _run(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Activations at the last block, `[vec batch step d_model]`, and at the target,
        `[vec batch measured d_target]`."""
        edits, name = (
            self.parent.edits.select(rows).to(self.segment.clean.device),
            self.parent.target.point,
        )
        with torch.no_grad(), capturing(self.parent.model, [name]) as seen:
            if self.rest is None:
                start = self.segment.clean_start.repeat(len(edits), 1, 1)
                final = self.segment.run_on(start, edits, self.chosen)
            else:
                final = self.rest.run(self.parent.stem, rows)
        if name not in seen:
            raise HookPointError(
                f"The target {name} did not fire behind the source {edits.site}: both are the same "
                "place, so there is no effect to measure. Use a bank with a later target."
            )
        target = self.parent.target.read(seen[name]).to(final.device)
        target = target.unflatten(0, final.shape[:2])
        before = 0 if self.rest is None else self.rest.bound
        return self._pick(final, self.ends, before), self._pick(target, self.measured_at, before)

    def _pick(
        self, values: Float[Tensor, "vec row pos d"], at: Int[Tensor, "batch some"], before: int
    ) -> Float[Tensor, "vec batch some d"]:
        """Of every prompt the tokens at these places; `before` of the row's were not run."""
        if isinstance(self.segment, Packed):
            columns = self.segment.packing.column.gather(1, at) - before
            return values[:, 0][:, columns.clamp(min=0).to(values.device)]
        at = at.to(values.device)
        return values[:, torch.arange(len(at), device=at.device)[:, None], at]

    def _logprobs(self, final: Float[Tensor, "vec batch step d_model"], step: int) -> Tensor:
        """Of the token `step` behind the one after the prompt."""
        if self.parent.read is None:
            return final[:, :, step, :0]
        return at_least_float32(self.parent.read(final[:, :, step])).log_softmax(dim=-1)

    def _kl_along(self, final: Float[Tensor, "vec batch step d_model"]) -> Tensor:
        total = torch.zeros(final.shape[:2], device=final.device, dtype=torch.float32)
        for step, clean in enumerate(self.clean_along):
            steered = self._logprobs(final, step)
            there = (self.at.new > step).to(final.device)
            total += torch.where(there, divergence_from(clean, steered), 0.0)
        return total / self.at.new.to(final.device)


def evaluate(
    metrics: Mapping[str, Metric], reading: Reading
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every metric, NaN and its error where one raises or does not give one number per cell."""
    values, errors = {}, {}
    shape = reading.steered.shape[:2]
    for name, metric in metrics.items():
        try:
            found = metric(reading).detach().double().cpu()
            if found.shape != shape:
                raise ValueError(f"gave {tuple(found.shape)}, expected {tuple(shape)}")
        except Exception as error:
            found = torch.full(shape, torch.nan, dtype=torch.float64, device="cpu")
            errors[name] = f"{type(error).__name__}: {error}"
        values[name] = found
    return values, errors


def edits_in(budget: int, model: HookedModel, tokens: TokenBatch, *, prompts: int) -> int:
    """How many edits fit into one pass of `budget` bytes; an estimate, at least 1.

    Counted are activations of one block (residual stream, MLP, attention patterns) and a few copies
    of one token's logits per prompt, in float32.

    Args:
        tokens: what is run.
        prompts: how many prompts that is.
    """
    cfg, (rows, length) = model.cfg, tokens.ids.shape
    d_mlp = getattr(cfg, "d_mlp", None) or 4 * cfg.d_model
    one = rows * length * (12 * cfg.d_model + 4 * d_mlp + 3 * cfg.n_heads * length)
    one += prompts * (6 * int(cfg.d_vocab) + 4 * length * cfg.d_model)
    fits = max(1, budget // int(4 * one))
    if tokens.ids.device.type == "cpu":
        return min(fits, max(1, _TOKENS_ON_CPU // (rows * length)))
    return fits
