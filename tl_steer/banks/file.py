"""Banks as files (`tl_steer.files.tensors`).

A checkpoint of a long run is a bank file with the run's state beside the bank.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tl_steer.banks.bank import BANK_FILE, SCORE, TENSORS, Bank, refuse_nonsense
from tl_steer.banks.provenance import Provenance
from tl_steer.errors import BankFileError
from tl_steer.files.jsons import fields, real, text, texts, whole
from tl_steer.files.signatures import typed
from tl_steer.files.text import shorten
from tl_steer.hook_points.positions import Positions
from tl_steer.hook_points.site import Site
from tl_steer.models.fingerprint import Fingerprint
from tl_steer.perturbations.kinds import KINDS

_STATE = "state."


def save_checkpoint(bank: Bank, path: str | Path, state: Mapping[str, Tensor]) -> Path:
    """Write a bank with a run's state in the same file; a plain bank, where there is none."""
    meta, tensors = bank.contents()
    kept = {_STATE + name: values for name, values in state.items()}
    return BANK_FILE.write(path, meta, tensors | kept)


@typed
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
        kind = text(meta["kind"])
        if kind not in KINDS:
            raise BankFileError(f"{path} holds {_unknown(kind, meta.get('module', ''))}")
        bank = Bank(
            vectors=tensors["vectors"],
            responses=tensors["responses"],
            objective=tensors["objective"],
            source=site_from_json(meta["source"]),
            target=site_from_json(meta["target"]),
            radius=real(meta["radius"]),
            radius_share=_share(meta["radius_share"]),
            positions=Positions.from_json(meta["positions"]),
            labels=texts(meta["labels"]),
            kind=kind,
            form=dict(meta["form"]),
            scores={n.removeprefix(SCORE): t for n, t in tensors.items() if n.startswith(SCORE)},
            provenance=provenance_from_json(meta["provenance"]),
        )
        refuse_nonsense(bank)
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
    mark = dict(fields(given["fingerprint"], {f.name for f in dataclasses.fields(Fingerprint)}))
    made = Provenance(
        **given
        | {
            "fingerprint": Fingerprint(**mark | {"signature": tuple(mark["signature"])}),
            "measured": Positions.from_json(given["measured"]),
            "notes": texts(given["notes"]),
        }
    )
    made.refuse_kinds()
    return made


def site_from_json(meta: Any) -> Site:
    """As `dataclasses.asdict` wrote it.

    Raises:
        ValueError: it is something else.
    """
    known = fields(meta, {each.name for each in dataclasses.fields(Site)})
    site = Site(
        text(known["name"]), whole(known["layer"]), text(known["kind"]), whole(known["width"])
    )
    site.refuse_kinds()
    return site


def _share(value: Any) -> float:
    """NaN for adapters, which have none."""
    return value if type(value) is float and math.isnan(value) else real(value)
