"""elicit: learn steering vectors for a few prompts, without labels.

prompts -> tokens -> segment -> radius -> method climbs the divergence -> bank
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.banks.provenance import provenance
from tl_steer.elicitation.aim import aim, own_method, refuse_unfit
from tl_steer.elicitation.checkpoint import Checkpoint, Saved, read, refuse_other_run
from tl_steer.elicitation.ends import place
from tl_steer.elicitation.run import Run
from tl_steer.elicitation.start import Start, radius_is_norm, refuse_unstarted, started
from tl_steer.errors import SettingError
from tl_steer.files.describe import describe
from tl_steer.files.progress import bar
from tl_steer.files.signatures import checked
from tl_steer.hook_points.positions import EVERYWHERE, LAST_THREE, Positions
from tl_steer.hook_points.site import Point
from tl_steer.methods import Method, method_of
from tl_steer.models.model import HookedModel
from tl_steer.models.segment import Segment
from tl_steer.models.state import frozen, refuse_inference_weights
from tl_steer.models.tokens import Prompts, TokenBatch, tokenize
from tl_steer.objectives.divergence import Displacement, Divergence
from tl_steer.objectives.objective import Goal, Objective
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.kinds import refuse_unusable
from tl_steer.perturbations.perturbation import Perturbation
from tl_steer.radii.rules import RadiusRule, length_of, radius_of


@checked
def elicit(
    model: HookedModel,
    prompts: Prompts | TokenBatch,
    source: Point | None = None,
    target: Point | None = None,
    *,
    against: Any = None,
    n: int = 32,
    perturbation: str | type[Perturbation] | Start | Any = Additive,  # refused with advice
    radius: float | int | str | RadiusRule = "auto",
    method: str | Method = "auto",
    divergence: str | Divergence | Goal = Displacement(),  # noqa: B008 (frozen)
    measured: Positions = LAST_THREE,
    positions: Positions = EVERYWHERE,
    seed: int = 0,
    vec_batch: int | None = None,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    every: float | int = 5.0,
    resume: str | Path | None = None,
) -> Bank:
    """Find `n` steering vectors at `source` that move activations at `target` as far as they can;
    or, `against` the model that this one was made from, such as bring out what was installed.

    Args:
        prompts: strings, conversations (`chat`), token tensors, or a `TokenBatch`. One to a few;
            the objective is summed over them.
        source: hook point where vectors are added: a name such as "blocks.3.hook_resid_post" or
            "blocks.3.attn.hook_z[2]" (one head), the number of a layer, which means the residual
            stream behind it, or a `Site` (see `models.resolve`).
        target: hook point at or after the source: the residual stream, or what attention, the MLP
            or a head gives. Both "auto": the pair at which steered text is richest, by
            `scan(..., read=InBand())`; minutes, not seconds.
        against: the base model that `model` was made from, or `models.without_adapter(model)`.
            Then source and target need not be named, the divergence is
            `objectives.Contrast(against)`, and "auto" stands for what docs/methods.md ("Two
            models") found to be best for it. Both models are run.
        n: how many vectors.
        perturbation: the kind that is searched: a registered class or its name (`Additive`,
            "ablation"), `functools.partial` of the class with settings, as in
            `partial(Gated, threshold=0.2)`, or a callable that makes them from the segment, such as
            `Layers([3, 4])`, or `Adapters(rank=1, layers=...)`, whose source is `hook_mlp_out` or
            `hook_attn_out` of their first layer.
        radius: their norm. A number; "auto" (see `tl_steer.radii.InBand`); "0.25x", a quarter of
            the median residual norm at the source; or a rule such as `ShareOfNorm(0.1)` or
            `Calibrated()`. For kinds whose radius is no norm, a number, and "auto" is 1: R of
            W' = W + R B A^T for adapters.
        method: a name out of `tl_steer.methods.METHODS` ("auto", "power", "jacobian", "dct",
            "quadratic", "sogi", "ascent", "melbo"), or a method object such as `Power(spread=1)`; a
            class stands for one with its defaults.
            docs/methods.md compares them and says what "auto" is.
        divergence: what is maximised; MELBO's objective with p = q = 2 unless given. A divergence,
            a name out of `tl_steer.objectives.DIVERGENCES` ("displacement", "cosine"), or a `Goal`
            such as `Contrast(base, along=8)`. One of your own is tried on a few numbers first.
        measured: tokens at which it is measured. The default, as in most published work, is the
            last three.
        positions: tokens at which vectors are added: all of them unless given.
        seed: fixes the start, and with it the result on one machine.
        vec_batch: vectors per pass. Halved, with a warning, when memory runs out.
        progress: show a bar; plain lines on standard error where that is no terminal.
        checkpoint: a file for a long run. It gets the bank as it stands, after the first step and
            then every `every` minutes, with all that is needed to go on; at the end, the bank.
        every: minutes; 0 writes after every step. Each write costs one forward pass at most.
        resume: a checkpoint to go on from, with the arguments of the first call. The result is that
            of an uninterrupted run, bit for bit on the same machine with the same number of threads
            and the same `vec_batch` (on a GPU, as far as its kernels are deterministic). The radius
            is not sought again. Checkpoints go to the same file unless `checkpoint` says otherwise.
            A finished bank comes back as it is.

    Returns:
        A bank ordered by objective, on the CPU, in float32. After Ctrl-C: what was found until
        then, with a note in its provenance.

    Raises:
        HookPointError, PromptError, SettingError: bad arguments, before any work; among them a
            `resume` that was another run, a `checkpoint` that would replace an unfinished one or
            that another process writes, and a `perturbation` of a kind that no bank can hold.
        ShapeError: a divergence that does not give one number per vector.
        BankFileError: `resume` is missing or damaged.
        NotFiniteError: NaN or infinity, naming step and vector.
        TooLargeError: memory runs out with a single vector per pass.

    A high objective is a lead, not a finding: compare with `random_bank(bank)` and look at what the
    vectors do on other prompts. The model's weights, flags, modes and hooks are as before
    afterwards.
    """
    refuse_unstarted(perturbation)
    radius = _own_unit(radius_of(radius), perturbation)
    _refuse_settings(n, vec_batch)
    maximised, measured = aim(divergence, against, measured)
    climb = _method(method, maximised)
    saved = None if resume is None else read(resume)
    file = _file(checkpoint, every, resume)
    refuse_inference_weights(model)
    with nullcontext() if file is None else file.held(), frozen(model):
        if file is not None:
            file.begin()
        tokens = tokenize(model, prompts)
        if source == "auto":  # minutes of looking around
            refuse_unfit(maximised, tokens, stand_in(model, tokens), measured, positions)
        *ends, radius = place(model, tokens, (source, target), radius, saved, seed, maximised)
        segment = Segment(model, tokens, *ends)
        refuse_unfit(maximised, tokens, segment.clean, measured, positions)
        chosen = positions_to_measure(segment, measured)
        made = provenance(segment, climb, maximised, measured, seed)
        length = saved.bank.radius if saved else _length(radius, segment, chosen, seed, progress)
        start = started(perturbation, segment, n, length, seed, positions)
        refuse_unusable(start)
        _own_unit(radius, type(start))
        objective = _objective(maximised, segment, chosen, vec_batch)
        if saved is not None:
            refuse_other_run(saved, made, start, segment.target, radius=_asked(radius))
            if saved.finished:
                return _as_it_is(saved, file)
            objective.vec_batch = saved.vec_batch(objective.vec_batch)
        run = Run(objective, made, _asked(radius), length, file, n)
        return run.climb(climb, start, resume=saved, progress=progress)


def _length(
    radius: float | int | RadiusRule, segment: Segment, measured: Tensor, seed: int, progress: bool
) -> float:
    sought = progress and not isinstance(radius, (int, float))
    with bar("radius", "{done} of at most {total}: {said}", total=None, shown=sought) as show:
        return length_of(radius, segment, measured, seed, show)


def _method(method: str | Method, maximised: Any) -> Any:
    if method == "auto" and isinstance(maximised, Goal):
        return own_method(maximised)
    return method_of(method) if isinstance(method, str) else method


def _objective(maximised: Any, segment: Segment, chosen: Tensor, vec_batch: int | None) -> Any:
    if isinstance(maximised, Goal):
        return maximised.on(segment, vec_batch=vec_batch)
    return Objective(segment, maximised, chosen, vec_batch=vec_batch)


def stand_in(model: HookedModel, tokens: TokenBatch) -> Tensor:
    """Numbers of the shape of a residual stream."""
    shape, draw = (*tokens.ids.shape, int(model.cfg.d_model)), torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=draw, dtype=torch.float32, device="cpu")


def positions_to_measure(segment: Segment, measured: Positions) -> Tensor:
    """The measured tokens of a segment's prompts, where its target is; refuses prompts that are too
    short."""
    return measured.measure(segment.mask, segment.tokens.has_bos).to(segment.clean.device)


def _refuse_settings(n: int, vec_batch: int | None) -> None:
    if n < 1:
        raise SettingError(f"n={n}: expected at least one vector.")
    if vec_batch is not None and vec_batch < 1:
        raise SettingError(f"vec_batch={vec_batch}: expected at least 1, or None.")


def _own_unit(
    radius: float | int | str | RadiusRule, perturbation: Any
) -> float | int | str | RadiusRule:
    """The radius, for kinds of which it is no norm: rules find norms."""
    if isinstance(radius, (int, float)) or radius_is_norm(perturbation):
        return radius
    if radius == "auto":
        return 1.0
    raise SettingError(
        f"radius={radius!r}: rules find the norm of what is added, which is not the radius of "
        f"{describe(perturbation)}. Give a number; 1 is a common start."
    )


def _file(
    checkpoint: str | Path | None, every: float | int, resume: str | Path | None
) -> Checkpoint | None:
    path = resume if checkpoint is None else checkpoint
    if path is None:
        return None
    own = resume is not None and Path(path).resolve() == Path(resume).resolve()
    return Checkpoint(path, every=every, resumed=own)


def _as_it_is(saved: Saved, file: Checkpoint | None) -> Bank:
    """A finished bank needs no run; where another file was asked for, it goes there too."""
    if file is not None and file.path.resolve() != saved.path.resolve():
        file.write(saved.bank)
    return saved.bank


def _asked(radius: float | int | RadiusRule) -> str:
    """How a radius was asked for, in words."""
    if isinstance(radius, (int, float)):
        return repr(float(radius))
    return describe(radius)
