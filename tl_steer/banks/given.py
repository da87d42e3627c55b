"""Vectors that were not learned here: as rows, and what they do."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.banks.algebra import Algebra
from tl_steer.banks.provenance import Provenance, provenance
from tl_steer.errors import HookPointError, SettingError, ShapeError
from tl_steer.hook_points.positions import EVERYWHERE, LAST_THREE, Positions
from tl_steer.hook_points.site import Point, Site
from tl_steer.models.lookup import resolve
from tl_steer.models.model import HookedModel
from tl_steer.models.segment import Segment
from tl_steer.models.state import frozen
from tl_steer.models.tokens import Prompts, TokenBatch, tokenize
from tl_steer.objectives.divergence import Divergence
from tl_steer.objectives.objective import Evaluation, Objective
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.kinds import bankable, kind_of
from tl_steer.perturbations.perturbation import Perturbation

GIVEN = "given, not trained"


def rows_of(vectors: Any) -> tuple[Float[Tensor, "vec width"], tuple[str, ...]]:
    """Vectors in whatever form, as float32 rows on the CPU, and their names where they have any.

    Raises:
        ShapeError, SettingError: they are no vectors of one width, or not finite.
    """
    names: tuple[str, ...] = ()
    if isinstance(vectors, Mapping):
        names, vectors = tuple(map(str, vectors)), list(vectors.values())
    elif hasattr(vectors, "W_dec"):  # a sparse autoencoder
        vectors = vectors.W_dec
    try:
        if isinstance(vectors, (list, tuple)):
            vectors = np.stack([_one(one) for one in vectors])
        found = torch.tensor(
            np.asarray(_plain(vectors), "float32"), dtype=torch.float32, device="cpu"
        )
    except (TypeError, ValueError, RuntimeError):
        raise ShapeError(_odd(type(vectors).__name__)) from None
    rows = found[None] if found.ndim == 1 else found
    if rows.ndim != 2 or 0 in rows.shape:
        raise ShapeError(_odd(f"of shape {tuple(found.shape)}"))
    if not bool(rows.isfinite().all()):
        bad = int((~rows.isfinite().all(dim=1)).nonzero()[0])
        raise SettingError(f"vectors: row {bad} holds NaN or infinity; expected finite numbers.")
    return rows, names


def refuse_unread(bank: Algebra, most: int, *, call: str) -> None:
    """Refuse what is no set of vectors on the residual stream, for what reads them one by one.

    Raises:
        SettingError: other perturbations, an empty bank, or less than one finding a vector.
        HookPointError: vectors elsewhere.
    """
    if bank.kind != Additive.kind:
        raise SettingError(
            f"{call}() reads vectors, and these are perturbations of kind {bank.kind!r}. What they "
            "do at the target is a vector: Bank.from_vectors(model, bank.responses, "
            "source=bank.target.name, ...)."
        )
    if not bank.source.is_residual:
        raise HookPointError(
            f"{call}() reads vectors on the residual stream, and {bank.source} is not on it. Learn "
            f"them at blocks.{bank.source.layer}.hook_resid_post, say."
        )
    if not len(bank):
        raise SettingError(f"The bank holds no vectors, so {call}() has nothing to read.")
    if most < 1:
        raise SettingError(f"most={most}: expected at least one for each vector.")


def refuse_no_bank(value: Any) -> None:
    """Say how what was given becomes a bank, or what takes it.

    Raises:
        ShapeError: always.
    """
    advice = "One comes from elicit(...), Bank.from_vectors(...) or load_bank(path)"
    if isinstance(value, (Tensor, np.ndarray)):
        advice = (
            "Vectors of your own become one by Bank.from_vectors(model, vectors, prompts=..., "
            "source=..., target=...)"
        )
    elif isinstance(value, (str, Path)):
        advice = f"Load it: load_bank({str(value)[:60]!r})"
    elif isinstance(value, (list, tuple)):
        advice = "Choose vectors of one, bank[[0, 3]], or join two: bank.merge(other)"
    elif isinstance(value, Perturbation):
        advice = (
            "To run it: perturbing(model, perturbation). Bank.from_vectors(model, perturbation, "
            "prompts=..., target=...) makes a bank of it"
        )
    elif isinstance(value, HookedModel):
        advice = "The model comes first, and the bank behind it"
    raise ShapeError(f"Expected a bank; got {type(value).__name__}. {advice}.")


def refuse_width(rows: Float[Tensor, "vec width"], site: Site) -> None:
    """Refuse vectors that do not fit a hook point.

    Raises:
        ShapeError: saying how they would.
    """
    if rows.shape[1] != site.width:
        turned = "; they lie in its columns: give vectors.T" if rows.shape[0] == site.width else ""
        raise ShapeError(f"vectors are {rows.shape[1]} wide and {site} is {site.width}{turned}.")


def sites_of(
    model: HookedModel, vectors: Any, source: Point | None, target: Point | None
) -> tuple[Point, Point]:
    """Where the vectors act and are measured: as asked, or as their bank says.

    Raises:
        HookPointError: the model has the bank's hook points at another width.
        SettingError: nobody says.
    """
    if isinstance(vectors, Perturbation) and source is None:
        source = vectors.site.name
    if not isinstance(vectors, Algebra):
        if source is None or target is None:
            raise SettingError(
                "from_vectors() needs to know where vectors are added and where their effect is "
                "measured: give source= and target=, as elicit() takes them."
            )
        return source, target
    for name, asked in (("source", source), ("target", target)):
        own: Site = getattr(vectors, name)
        here = resolve(model, own.name if asked is None else asked, target=name == "target")
        if name == "source" and here.width != own.width:
            raise HookPointError(
                f"{own} is {here.width} wide on this model and {own.width} in the bank."
            )
    ends = (vectors.source.name, vectors.target.name)
    return ends[0] if source is None else source, ends[1] if target is None else target


def columns_from(
    edits: Perturbation, found: Evaluation, segment: Segment, radius: float
) -> dict[str, Any]:
    """What a bank holds of perturbations and of what was found of them on a segment."""
    return {
        "vectors": edits.pack(),
        "responses": found.response.float().cpu(),
        "objective": found.value.float().cpu(),
        "source": segment.source,
        "target": segment.target,
        "radius": radius,
        "radius_share": radius / segment.source_norm() if edits.radius_is_norm else math.nan,
        "positions": edits.positions,
        "kind": edits.kind,
        "form": edits.form(),
    }


def columns_of(
    model: HookedModel,
    vectors: Any,
    prompts: Prompts | TokenBatch,
    *,
    source: Point | None,
    target: Point | None,
    labels: Sequence[str] | None,
    divergence: Divergence,
    measured: Positions | None,
    positions: Positions | None,
) -> dict[str, Any]:
    """Everything that `Bank.from_vectors` finds out, by the names of a bank's columns."""
    ends = sites_of(model, vectors, source, target)
    bank = vectors if isinstance(vectors, Algebra) else None
    seen = measured or (LAST_THREE if bank is None else bank.provenance.measured)
    rows, names = _rows(vectors)
    if len(rows) == 0:
        raise SettingError("The bank holds no vectors, so there is nothing to measure.")
    names = names or ("",) * len(rows) if labels is None else tuple(labels)
    if len(names) != len(rows):
        raise SettingError(f"{len(names)} labels for {len(rows)} vectors; expected one each.")
    with frozen(model), torch.no_grad():
        segment = Segment(model, tokenize(model, prompts), *ends)
        edits = _edits(vectors, rows, segment.source, positions).to(segment.clean.device)
        chosen = seen.measure(segment.mask, segment.tokens.has_bos)
        at = Objective(segment, divergence, chosen)(edits, gradient=False)
        found = columns_from(edits, at, segment, edits.radius)
        made = _provenance(bank, segment, divergence, seen)
    return found | {
        "labels": names,
        "provenance": made,
        "numbers": () if bank is None else bank.numbers,
        "comments": () if bank is None else bank.comments,
    }


def _provenance(
    bank: Algebra | None, segment: Segment, divergence: Divergence, measured: Positions
) -> Provenance:
    own = provenance(segment, None, divergence, measured, 0)
    if bank is None:
        return dataclasses.replace(own, method=GIVEN, seed=None)
    kept = bank.provenance
    before = f"{kept.model}, prompts {kept.prompts or 'unknown'}, {kept.divergence}".rstrip(", ")
    return dataclasses.replace(
        own,
        method=kept.method,
        settings=kept.settings,
        seed=kept.seed,
        notes=(*kept.notes, f"measured anew; made on {before}"),
    )


def _rows(vectors: Any) -> tuple[Float[Tensor, "vec n"], tuple[str, ...]]:
    if isinstance(vectors, Perturbation):
        return bankable(vectors).pack(), ()
    return (vectors.vectors, vectors.labels) if isinstance(vectors, Algebra) else rows_of(vectors)


def _edits(vectors: Any, rows: Tensor, source: Site, positions: Positions | None) -> Perturbation:
    """What was given, at the source; tokens are its own unless others are asked for."""
    if isinstance(vectors, Algebra):
        kind, form = kind_of(vectors.kind), vectors.form
    elif isinstance(vectors, Perturbation):
        kind, form = type(vectors), vectors.form()
    else:
        refuse_width(rows, source)
        return Additive(source, rows, positions=positions or EVERYWHERE)
    where = positions or vectors.positions
    return kind.unpack(source, rows, radius=vectors.radius, positions=where, form=form)


def _one(vector: Any) -> np.ndarray:
    """One of several vectors; `[1 width]` will do."""
    found = np.asarray(_plain(vector), "float32")
    return found[0] if found.ndim == 2 and len(found) == 1 else found


def _plain(value: Any) -> Any:
    return value.detach().float().cpu().numpy() if isinstance(value, Tensor) else value


def _odd(what: str) -> str:
    return (
        f"vectors are {what}; expected [vec width] or one vector, as a tensor, an array, or a "
        "mapping from names to vectors; or a bank."
    )
