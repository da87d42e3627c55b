"""What `-M` options say: which model, and what steers it."""

import threading
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tl_steer.banks.bank import Bank, load_bank
from tl_steer.banks.control import random_bank
from tl_steer.banks.provenance import check_fits
from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed
from tl_steer.hook_points.positions import NAMED
from tl_steer.models.caches import refuse_no_text
from tl_steer.models.load import load_model
from tl_steer.models.lookup import resolve
from tl_steer.models.model import HookedModel
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.perturbation import Perturbation

UNSTEERED, RANDOM = "none", "random:"


@dataclass(eq=False)
class Loaded:
    """A model, and who may run it: one at a time, since hooks are on the model."""

    model: HookedModel
    lock: threading.Lock = field(default_factory=threading.Lock)


# One for all who want the same, for as long as anybody does.
_loaded: "weakref.WeakValueDictionary[tuple[str, str, str], Loaded]" = weakref.WeakValueDictionary()


@dataclass(frozen=True, eq=False)
class Steering:
    """A model under one edit.

    Attributes:
        edit: one row; zeros where nothing steers.
        note: what steers, as JSON, for logs.
    """

    loaded: Loaded
    edit: Perturbation
    note: dict[str, Any]


@typed
def steering(
    name: str,
    *,
    bank: str | Path | None,
    vector: int | str | None,
    scale: float | int,
    positions: str | None,
    device: str | None,
    dtype: str,
) -> Steering:
    """Load a model and what is to steer it.

    Args:
        name: as for `load_model`.
        bank: a bank's file.
        vector: the number of one of its vectors; "random:3" for a random one, drawn by seed 3, as
            long as the bank's first; "none" for the unsteered model.
        positions: "all", "prompt" or "generated"; the bank's own if `None`.

    Raises:
        BankFileError, RowError, SettingError: no such bank or vector.
        ForeignModelError: the bank was made for another model.
        ModelError: the model cannot be loaded, or cannot generate.
    """
    whole = None if bank is None else load_bank(Path(bank))
    chosen = _chosen(whole, vector)
    if positions is not None and positions not in NAMED:
        raise SettingError(f"positions={positions!r}: expected {', '.join(NAMED)}.")
    loaded = _load(name, device, dtype)
    refuse_no_text(loaded.model)
    if whole is None or chosen is None:
        nothing = resolve(loaded.model, 0)
        zeros = torch.zeros(1, nothing.width, dtype=torch.float32, device="cpu")
        return Steering(loaded, Additive(nothing, zeros), {"vector": UNSTEERED})
    check_fits(loaded.model, chosen.provenance)
    where = None if positions is None else NAMED[positions]
    edit = chosen.perturbation().used(scale, where)
    note = {
        "vector": vector if str(vector).startswith(RANDOM) else chosen.numbers[0],
        "label": chosen.labels[0],
        "bank": whole.digest(),
        "source": chosen.source.name,
        "scale": scale,
        "positions": edit.positions.to_json(),
    }
    return Steering(loaded, edit, note)


def _chosen(bank: Bank | None, vector: int | str | None) -> Bank | None:
    """The one vector that steers; `None` for none."""
    told = str(vector).strip() if vector is not None else ""
    if told == UNSTEERED or (bank is None and not told):
        return None
    if bank is None:
        raise SettingError(
            f"vector={vector} of which bank? Give its file: -M bank=house.safetensors"
        )
    seed = told.removeprefix(RANDOM)
    if told.startswith(RANDOM) and seed.isdecimal():
        return random_bank(bank, n=1, seed=int(seed))
    if told.isdecimal():
        return bank[bank.row(int(told))]
    if not told and len(bank) == 1:
        return bank
    raise SettingError(
        f"vector={vector!r}: expected the number of one of the bank's {len(bank)} vectors, such as "
        f"{bank.numbers[0]}, 'random:3' for a random one in its place, or 'none'."
    )


def _load(name: str, device: str | None, dtype: str) -> Loaded:
    key = (name, str(device), dtype)
    found = _loaded.get(key)
    if found is None:
        found = _loaded[key] = Loaded(load_model(name, device=device, dtype=dtype))
    return found
