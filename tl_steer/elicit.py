"""elicit: learn steering vectors for a few prompts, without labels.

prompts -> tokens -> segment -> radius -> method climbs the divergence -> bank
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from tl_steer.bank import Bank, Provenance
from tl_steer.divergence import Displacement, Divergence
from tl_steer.errors import NotFiniteError, SettingError
from tl_steer.methods import METHODS, Iterate, Method
from tl_steer.model import HookedModel, fingerprint, frozen, model_name
from tl_steer.objective import Objective
from tl_steer.perturbation import Additive
from tl_steer.positions import EVERYWHERE, LAST_THREE, Positions
from tl_steer.radius import AUTO, RadiusRule
from tl_steer.segment import Segment
from tl_steer.shapes import checked
from tl_steer.sphere import random_on_sphere
from tl_steer.tokens import Prompts, TokenBatch, tokenize


@checked
def elicit(
    model: HookedModel,
    prompts: Prompts | TokenBatch,
    *,
    source: str,
    target: str,
    n: int = 32,
    radius: float | int | str | RadiusRule = "auto",
    method: str | Method = "power",
    divergence: Divergence = Displacement(),  # noqa: B008 (frozen)
    measured: Positions = LAST_THREE,
    positions: Positions = EVERYWHERE,
    seed: int = 0,
    vec_batch: int | None = None,
    progress: bool = True,
) -> Bank:
    """Find `n` steering vectors at `source` that move activations at `target` as far as they can.

    Args:
        prompts: strings, conversations (`chat`), token tensors, or a `TokenBatch`. One to a few;
        the
            objective is summed over them.
        source: hook point where vectors are added, e.g. "blocks.3.hook_resid_post".
        target: hook point on the residual stream, at or after the source.
        n: how many vectors.
        radius: their norm. A number; "auto" (see `tl_steer.radius`); or a rule such as
            `ShareOfNorm(0.1)` or `Calibrated()`.
        method: "power" (default), "melbo", or a method object such as `Power(spread=1)`.
        divergence: what is maximised; MELBO's objective with p = q = 2 unless given.
        measured: tokens at which it is measured. The default, as in most published work, is the
        last three.
        positions: tokens at which vectors are added: all of them unless given.
        seed: fixes the start, and with it the result on one machine.
        vec_batch: vectors per pass. Lower it if memory runs out.
        progress: show a progress bar.

    Returns:
        A bank ordered by objective, on the CPU, in float32. After Ctrl-C: what was found until
        then, with a note
        in its provenance.

    Raises:
        HookPointError, PromptError, SettingError: bad arguments, before any work.
        NotFiniteError: NaN or infinity, naming step and vector.

    A high objective is a lead, not a finding: compare with `random_bank(bank)` and look at what the
    vectors do on other prompts. The model's weights, flags, modes and hooks are as before
    afterwards.
    """
    _refuse_settings(n, radius, vec_batch)
    climb = METHODS[method]() if isinstance(method, str) and method in METHODS else method
    if isinstance(climb, str):
        raise SettingError(f"Unknown method {climb!r}; there are {', '.join(METHODS)}.")
    with frozen(model):
        tokens = tokenize(model, prompts)
        segment = Segment(model, tokens, source, target)
        chosen = positions_to_measure(segment, measured)
        length = _radius(segment, chosen, radius, seed)
        objective = Objective(segment, divergence, chosen, vec_batch=vec_batch)
        start = _start(segment, n, length, seed, positions)
        found, notes = _climb(climb(objective, start), progress)
        return _bank(objective, found, length, notes, climb, measured, seed)


def positions_to_measure(segment: Segment, measured: Positions) -> Tensor:
    """The measured tokens of a segment's prompts; refuses prompts that are too short."""
    return measured.measure(segment.mask, segment.tokens.has_bos)


def _start(segment: Segment, n: int, radius: float, seed: int, positions: Positions) -> Additive:
    generator = torch.Generator().manual_seed(seed)
    vectors = random_on_sphere(n, segment.source.width, radius=radius, generator=generator)
    # At least float32, whatever the model's dtype: a bf16 vector cannot take small steps.
    dtype = torch.promote_types(segment.clean.dtype, torch.float32)
    vectors = vectors.to(segment.clean_source.device, dtype)
    return Additive(segment.source, vectors, radius=radius, positions=positions)


def _refuse_settings(n: int, radius: float | int | str | RadiusRule, vec_batch: int | None) -> None:
    if n < 1:
        raise SettingError(f"n={n}: expected at least one vector.")
    if vec_batch is not None and vec_batch < 1:
        raise SettingError(f"vec_batch={vec_batch}: expected at least 1, or None.")
    if isinstance(radius, str) and radius != "auto":
        raise SettingError(f"radius={radius!r}: expected a number, 'auto' or a radius rule.")
    if isinstance(radius, (int, float)) and not 0 < radius < math.inf:
        raise SettingError(
            f"radius={radius}: expected a finite number above 0. At 0 the objective has no "
            "gradient; 'auto' finds a radius for you."
        )


def _radius(segment: Segment, chosen: Tensor, radius: Any, seed: int) -> float:
    if isinstance(radius, (int, float)):
        return float(radius)
    rule: RadiusRule = AUTO if radius == "auto" else radius
    found = float(rule(segment, chosen, seed))
    if not 0 < found < math.inf:
        raise NotFiniteError(f"{rule} gave radius {found}; give radius= as a number.")
    return found


def _climb(iterates: Iterator[Iterate], progress: bool) -> tuple[Iterate, tuple[str, ...]]:
    """Run a method to its end, or to Ctrl-C if there is something to return by then."""
    newest: Iterate | None = None
    columns = (
        TextColumn("eliciting"),
        BarColumn(),
        TextColumn("step {task.completed}/{task.total}  objective {task.fields[objective]}"),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, disable=not progress, transient=True) as bar:
            task = bar.add_task("", total=None, objective="…")
            for newest in iterates:
                shown = f"{float(newest.value.mean()):.4g}"
                bar.update(
                    task, completed=newest.step, total=newest.steps, objective=shown, refresh=True
                )
    except KeyboardInterrupt:
        if newest is None:
            raise
        return newest, (f"interrupted after step {newest.step} of {newest.steps}",)
    if newest is None:
        raise SettingError("The method ended without a single step; it must yield its iterates.")
    return newest, ()


def _bank(
    objective: Objective,
    newest: Iterate,
    radius: float,
    notes: tuple[str, ...],
    method: Method,
    measured: Positions,
    seed: int,
) -> Bank:
    segment = objective.segment
    found = newest.perturbation
    final = objective(found, gradient=False)
    vectors = next(iter(found.parameters())).detach()
    return Bank(
        vectors=vectors.float().cpu(),
        responses=final.response.float().cpu(),
        objective=final.value.float().cpu(),
        scores={name: values.float().cpu() for name, values in newest.scores.items()},
        source=segment.source,
        target=segment.target,
        radius=radius,
        radius_share=radius / segment.source_norm(),
        positions=found.positions,
        provenance=Provenance(
            model=model_name(segment.model),
            fingerprint=fingerprint(segment.model),
            method=_name(method),
            settings=_settings(method),
            divergence=_describe(objective.divergence),
            measured=measured,
            seed=seed,
            prompts=prompts_hash(segment.tokens),
            versions={p: version(p) for p in ("tl_steer", "transformer_lens", "torch")},
            notes=notes,
        ),
    ).sort()


def prompts_hash(tokens: TokenBatch) -> str:
    """Identifies prompts without keeping them."""
    rows = str([row.tolist() for row in tokens.rows()])
    return hashlib.sha256(rows.encode()).hexdigest()[:16]


def _settings(method: Any) -> dict[str, Any]:
    known = dataclasses.is_dataclass(method) and not isinstance(method, type)
    return dataclasses.asdict(method) if known else {}


def _name(method: Method) -> str:
    plain = method.func if isinstance(method, functools.partial) else method
    return str(getattr(plain, "__name__", type(plain).__name__)).lower()


def _describe(divergence: Any) -> str:
    """A dataclass with its settings; a function by name (its repr holds a memory address)."""
    return str(getattr(divergence, "__qualname__", None) or repr(divergence))
