"""Banks as files (`tl_steer.files.tensors`).

A checkpoint of a long run is a bank file with the run's state beside the bank.

A file of more than 128 MiB is mapped into memory and not read through when it is opened. Its
header, names, sizes and types are checked then; its checksum for those who ask; and whether its
vectors are finite when they are put into a model, or saved.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from tl_steer.banks.columns import Columns
from tl_steer.banks.index import numbered
from tl_steer.banks.provenance import Provenance
from tl_steer.errors import BankFileError, SettingError
from tl_steer.files.jsons import fields, real, text, texts, whole
from tl_steer.files.pieces import odd_row
from tl_steer.files.registry import module_of
from tl_steer.files.tensors import TensorFile
from tl_steer.files.text import shorten
from tl_steer.hook_points.positions import Positions
from tl_steer.hook_points.site import Site
from tl_steer.models.fingerprint import Fingerprint
from tl_steer.perturbations.kinds import KINDS, kind_of

BANK_FILE = TensorFile("bank", "tl_steer", BankFileError, most_read=1 << 27)
TENSORS, SCORE = ("vectors", "responses", "objective"), "score."
_STATE = "state."
_MOST = 1 << 24  # vectors in a file; each takes some fifty bytes beside its numbers
# Labels of so many are written out though none says anything: digests of monitors cover them.
_SMALL = 1 << 16
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Read = TypeVar("Read", bound=Columns)


def contents_of(bank: Columns) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file of a bank holds: the header, JSON, and the tensors.

    Raises:
        SettingError: what no file could hold, or no reader would accept.
    """
    refuse_nonsense(bank)
    tensors = {name: getattr(bank, name) for name in TENSORS}
    # Only where they say something, so that a bank's file and its digests stay what they were.
    plain = bank.numbers == numbered((), len(bank))
    module = module_of(kind_of(bank.kind))
    named = {"module": module} if module else {}
    counted = {} if plain else {"numbers": list(bank.numbers)}
    return {
        "format": BANK_FILE.version,
        "kind": bank.kind,
        "form": dict(bank.form),
        "source": dataclasses.asdict(bank.source),
        "target": dataclasses.asdict(bank.target),
        "radius": bank.radius,
        "radius_share": bank.radius_share,
        "positions": bank.positions.to_json(),
        "labels": list(bank.labels) if len(bank) <= _SMALL or any(bank.labels) else [],
        **counted,
        **named,
        "provenance": dataclasses.asdict(bank.provenance)
        | {"measured": bank.provenance.measured.to_json()},
    }, tensors | {SCORE + name: values for name, values in bank.scores.items()}


def save_checkpoint(bank: Columns, path: str | Path, state: Mapping[str, Tensor]) -> Path:
    """Write a bank with a run's state in the same file; a plain bank, where there is none."""
    meta, tensors = contents_of(bank)
    kept = {_STATE + name: values for name, values in state.items()}
    return BANK_FILE.write(path, meta, tensors | kept)


def load_checkpoint(
    make: type[Read], path: str | Path, *, verify: bool = True
) -> tuple[Read, dict[str, Tensor]]:
    """A bank, of the class `make`, and the state of the run that was writing it (empty if that run
    has ended).

    Raises:
        BankFileError: as `Bank.load`.
    """
    path = Path(path)
    meta, tensors = BANK_FILE.read(path, refuse_names=_refuse_names, verify=verify)
    state = {n.removeprefix(_STATE): t for n, t in tensors.items() if n.startswith(_STATE)}
    looked = verify or BANK_FILE.is_small(tensors)
    return bank_from_json(make, meta, tensors, path, finite=looked), state


def _refuse_names(path: Path, names: list[str]) -> None:
    own = {name for name in names if not name.startswith((SCORE, _STATE))}
    if own != set(TENSORS):
        raise BankFileError(f"{path} holds {sorted(names)}, not a tl_steer bank.")


def bank_from_json(
    make: type[Read],
    meta: dict[str, Any],
    tensors: dict[str, Tensor],
    path: Path,
    *,
    finite: bool = True,
) -> Read:
    """Everything in a file is hostile: wrong types and shapes end as `BankFileError`.

    Args:
        finite: read all vectors and refuse those that are not finite.
    """
    try:
        if len(tensors["vectors"]) > _MOST:
            raise BankFileError(
                f"{path} claims more than the {_MOST} vectors that a bank can have."
            )
        kind = text(meta["kind"])
        if kind not in KINDS:
            raise BankFileError(f"{path} holds {_unknown(kind, meta.get('module', ''))}")
        bank = make(
            vectors=tensors["vectors"],
            responses=tensors["responses"],
            objective=tensors["objective"],
            source=Site.from_json(meta["source"]),
            target=Site.from_json(meta["target"]),
            radius=real(meta["radius"]),
            radius_share=_share(meta["radius_share"]),
            positions=Positions.from_json(meta["positions"]),
            labels=texts(meta["labels"]),
            numbers=_numbers(meta),
            kind=kind,
            form=dict(meta["form"]),
            scores={n.removeprefix(SCORE): t for n, t in tensors.items() if n.startswith(SCORE)},
            provenance=provenance_from_json(meta["provenance"]),
        )
        refuse_nonsense(bank, finite=finite)
    except BankFileError:
        raise
    except _BAD as error:
        raise BankFileError(f"{path} is not a valid bank: {error}") from error
    return bank


def _unknown(kind: str, module: Any) -> str:
    """What to do about a kind; whose module is named, if that is a name, and never imported."""
    told = f"perturbations of kind {shorten(kind, 40)!r}, which is not registered here. "
    named = isinstance(module, str) and all(part.isidentifier() for part in module.split("."))
    if named and module != "__main__":
        return told + f"If you trust its author: import {shorten(module, 80)} first, then load it."
    return told + 'Define its class with @ts.perturbations.register("...") first, then load it.'


# What values of the wrong kind raise when they are used.
_BAD = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RuntimeError)


def provenance_from_json(meta: Any) -> Provenance:
    """As `dataclasses.asdict` wrote it.

    Raises:
        ValueError, KeyError, TypeError: it is something else.
    """
    given = dict(fields(meta, {each.name for each in dataclasses.fields(Provenance)}))
    made = Provenance(
        **given
        | {
            "fingerprint": Fingerprint.from_json(given["fingerprint"]),
            "measured": Positions.from_json(given["measured"]),
            "notes": texts(given["notes"]),
        }
    )
    made.refuse_kinds()
    return made


def _numbers(meta: Mapping[str, Any]) -> tuple[int, ...]:
    """None where vectors are called by their rows."""
    return tuple(map(whole, meta.get("numbers", ())))


def _share(value: Any) -> float:
    """NaN for adapters, which have none."""
    return value if type(value) is float and math.isnan(value) else real(value)


def refuse_nonsense(bank: Columns, *, finite: bool = True) -> None:
    """Refuse what is no bank, whoever made it: a program that wants it saved, or a file.

    Args:
        finite: read all vectors and refuse those that are not finite.

    Raises:
        SettingError: saying what.
    """
    columns = {name: getattr(bank, name) for name in TENSORS} | dict(bank.scores)
    for name, values in columns.items():
        if values.dtype not in _FLOATS:
            raise SettingError(f"{name} must hold floats, not {values.dtype}.")
        if values.ndim != (2 if name in ("vectors", "responses") else 1):
            raise SettingError(f"{name} must hold one number per vector, or one row.")
    if bank.responses.shape[1] != bank.target.width:
        raise SettingError("responses do not have the target's width.")
    if not math.isfinite(bank.radius) or (finite and odd_row(bank.vectors) is not None):
        raise SettingError("the vectors are not finite.")
    try:
        for site in (bank.source, bank.target):
            site.refuse_kinds()
        texts(bank.labels)
        bank.positions.refuse_kinds()
        bank.provenance.refuse_kinds()
    except ValueError as error:
        raise SettingError(f"{error}.") from error
