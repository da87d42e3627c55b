"""Many edits on one batch of prompts: what every metric of a pass needs, and no more.

clean pass    ids -> ... -> source -> ... -> last block       once for all edits
steered       edits x prompts:  source -> target -> last block -> unembedding of one token
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_steer.errors import HookPointError
from tl_steer.hook_points.positions import Positions
from tl_steer.hook_points.site import Site
from tl_steer.models.hooks import capturing
from tl_steer.models.model import HookedModel
from tl_steer.models.packed import Packed, packed_if_possible
from tl_steer.models.tokens import TokenBatch
from tl_steer.objectives.divergence import at_least_float32
from tl_steer.objectives.output_kl import Readout, divergence_from
from tl_steer.objectives.parts import in_parts
from tl_steer.perturbations.perturbation import Perturbation
from tl_steer.sweeps.metric import Metric, Reading

# On a CPU a few thousand tokens keep matrix products at full speed and activations in the cache.
_TOKENS_ON_CPU = 2560


@dataclass(frozen=True)
class Fixed(Positions):
    """Tokens chosen one by one, where a rule would take a continuation for prompt."""

    chosen: Bool[Tensor, "batch pos"] | Float[Tensor, "batch pos"] | None = field(
        default=None, compare=False
    )

    @property
    def everywhere(self) -> bool:
        return False

    def select(
        self, mask: Bool[Tensor, "batch pos"], has_bos: Bool[Tensor, " batch"]
    ) -> Bool[Tensor, "batch pos"] | Float[Tensor, "batch pos"]:
        assert self.chosen is not None
        missing = mask.shape[1] - self.chosen.shape[1]
        return torch.nn.functional.pad(self.chosen, (0, missing)).to(mask.device)


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

    def steered(self, positions: Positions) -> Positions:
        """The same choice of tokens, made on the prompts alone."""
        if positions.everywhere:
            return positions
        behind = self.tokens.mask & ~self.prompt
        return Fixed(chosen=positions.along(self.prompt, behind, self.tokens.has_bos))


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
        run = prompts.segment.tokens
        self.vec_batch = edits_in(self.budget, self.model, run, prompts=len(tokens))
        n = len(self.edits)
        parts = in_parts(n, self, lambda rows: prompts.measure(rows, metrics))
        return Found(
            {name: torch.cat([p.values[name] for p in parts]) for name in metrics},
            {name: text for p in parts for name, text in p.errors.items()},
            torch.cat([p.broken for p in parts]),
            torch.cat([p.directions for p in parts]),
        )


class _Prompts:
    """One batch of prompts: its segment, and what is clean about it."""

    def __init__(self, parent: Together, at: Continued, *, along: bool) -> None:
        self.parent, self.at, self.along = parent, at, along
        self.positions = at.steered(parent.edits.positions)
        self.segment = packed_if_possible(
            parent.model, at.tokens, parent.edits.site, parent.final, positions=self.positions
        )
        if isinstance(self.segment, Packed) and not self.positions.everywhere:
            chosen = self.segment.packing.pack(at.tokens.select(self.positions))
            self.positions = Fixed(chosen=chosen)
        measured = parent.measured.measure(at.prompt, at.tokens.has_bos)
        self.measured = measured.to(self.segment.clean.device)
        # An edit that does nothing, alone in its pass: what the others are compared with.
        final, self.clean_target = (x[0] for x in self._run(slice(len(parent.edits) - 1, None)))
        self.clean = self._logprobs(final[None], 0)[0]
        self.steps = int(at.new.max()) if along else 0
        self.clean_along = [self._logprobs(final[None], i)[0] for i in range(self.steps)]

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
        """Activations at the last block and at the target, `[vec batch pos d_model]`."""
        edits = self.parent.edits.select(rows).to(self.segment.clean.device)
        edits.positions = self.positions
        name = self.parent.target.point
        with torch.no_grad(), capturing(self.parent.model, [name]) as seen:
            final = self.segment.run(edits)
        if name not in seen:
            raise HookPointError(
                f"The target {name} did not fire behind the source {edits.site}: both are the same "
                "place, so there is no effect to measure. Use a bank with a later target."
            )
        target = self.parent.target.read(seen[name]).to(final.device)
        target = target.unflatten(0, final.shape[:2])
        if isinstance(self.segment, Packed):
            packing = self.segment.packing
            return packing.unpack(final), packing.unpack(target)
        return final, target[:, :, : final.shape[2]]

    def _logprobs(self, final: Float[Tensor, "vec batch pos d_model"], step: int) -> Tensor:
        """Of the token `step` behind the one after the prompt."""
        last = (self.at.lengths - 1 + step).clamp(max=final.shape[2] - 1)
        picked = final[:, torch.arange(final.shape[1], device=final.device), last.to(final.device)]
        if self.parent.read is None:
            return picked[..., :0]
        return at_least_float32(self.parent.read(picked)).log_softmax(dim=-1)

    def _kl_along(self, final: Float[Tensor, "vec batch pos d_model"]) -> Tensor:
        total = torch.zeros(final.shape[:2], device=final.device, dtype=torch.float32)
        for step, clean in enumerate(self.clean_along):
            steered = self._logprobs(final, step)
            nats = divergence_from(clean.repeat(len(final), 1), steered.flatten(0, 1))
            there = (self.at.new > step).to(final.device)
            total += torch.where(there, nats.unflatten(0, (len(final), -1)), 0.0)
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
