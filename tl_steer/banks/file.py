"""Banks as files (`tl_steer.files.tensors`).

A checkpoint of a long run is a bank file with the run's state beside the bank.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tl_steer.banks.bank import BANK_FILE, SCORE, TENSORS, Bank
from tl_steer.banks.fingerprint import Fingerprint
from tl_steer.banks.provenance import Provenance
from tl_steer.errors import BankFileError, SteerError
from tl_steer.hook_points.positions import Positions
from tl_steer.hook_points.site import STAGES, Site
from tl_steer.perturbations.kinds import KINDS

_STATE = "state."


def save_checkpoint(bank: Bank, path: str | Path, state: Mapping[str, Tensor]) -> Path:
    """Write a bank with a run's state in the same file; a plain bank, where there is none."""
    meta, tensors = bank.contents()
    kept = {_STATE + name: values for name, values in state.items()}
    return BANK_FILE.write(path, meta, tensors | kept)


def load_bank(path: str | Path) -> Bank:
    """Read a bank that `Bank.save` wrote. No model is needed, and nothing in the file is executed.

    Raises:
        BankFileError: the file is missing, truncated, tampered with, or not a bank.
    """
    return load_checkpoint(path)[0]


def load_checkpoint(path: str | Path) -> tuple[Bank, dict[str, Tensor]]:
    """A bank and the state of the run that was writing it (empty if that run has ended).

    Raises:
        BankFileError: as `load_bank`.
    """
    path = Path(path)
    meta, tensors = BANK_FILE.read(path, refuse_names=_refuse_names)
    state = {n.removeprefix(_STATE): t for n, t in tensors.items() if n.startswith(_STATE)}
    return bank_from_json(meta, tensors, path), state


def _refuse_names(path: Path, names: list[str]) -> None:
    own = {name for name in names if not name.startswith((SCORE, _STATE))}
    if own != set(TENSORS):
        raise BankFileError(f"{path} holds {sorted(names)}, not a tl_steer bank.")


def bank_from_json(meta: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> Bank:
    """Everything in a file is hostile: wrong types and shapes end as `BankFileError`."""
    try:
        if meta["kind"] not in KINDS:
            raise BankFileError(f"{path} holds perturbations of unknown kind {meta['kind']!r}.")
        given = dict(meta["provenance"])
        mark = given.pop("fingerprint")
        signature = tuple(float(x) for x in mark.pop("signature"))
        provenance = Provenance(
            **{
                **given,
                "fingerprint": Fingerprint(signature=signature, **mark),
                "measured": Positions(**given["measured"]),
                "notes": tuple(map(str, given["notes"])),
            }
        )
        bank = Bank(
            vectors=tensors["vectors"],
            responses=tensors["responses"],
            objective=tensors["objective"],
            source=site_from_json(meta["source"]),
            target=site_from_json(meta["target"]),
            radius=float(meta["radius"]),
            radius_share=float(meta["radius_share"]),
            positions=Positions(**meta["positions"]),
            labels=tuple(map(str, meta["labels"])),
            kind=meta["kind"],
            form=dict(meta["form"]),
            scores={n.removeprefix(SCORE): t for n, t in tensors.items() if n.startswith(SCORE)},
            provenance=provenance,
        )
    except BankFileError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, SteerError) as error:
        raise BankFileError(f"{path} is not a valid bank: {error}") from error
    _refuse_nonsense(bank, path)
    return bank


def _refuse_nonsense(bank: Bank, path: Path) -> None:
    columns = {name: getattr(bank, name) for name in TENSORS} | dict(bank.scores)
    for name, values in columns.items():
        if not values.is_floating_point():
            raise BankFileError(f"{path}: {name} must hold floats, not {values.dtype}.")
        if name != "vectors" and name != "responses" and values.ndim != 1:
            raise BankFileError(f"{path}: {name} must hold one number per vector.")
    if bank.responses.ndim != 2 or bank.responses.shape[1] != bank.target.width:
        raise BankFileError(f"{path}: responses do not have the target's width.")
    if not bool(bank.vectors.isfinite().all()) or not math.isfinite(bank.radius):
        raise BankFileError(f"{path}: the vectors are not finite.")


def site_from_json(meta: dict[str, Any]) -> Site:
    site = Site(str(meta["name"]), int(meta["layer"]), str(meta["kind"]), int(meta["width"]))
    if site.kind not in STAGES or site.width < 1 or site.layer < 0:
        raise ValueError(f"{meta} is not a hook point")
    return site
