"""Inspections as files (`tl_steer.files.tensors`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_steer.errors import InspectionFileError
from tl_steer.inspection.result import AXES, INSPECTION_FILE, PARTS, Inspection

_MOST = 1 << 18  # of anything along one axis


def load_inspection(path: str | Path) -> Inspection:
    """Read what `Inspection.save` wrote. No model is needed, and nothing in the file is executed.

    Raises:
        InspectionFileError: the file is missing, damaged, changed, too large or no inspection.
    """
    path = Path(path)
    meta, tensors = INSPECTION_FILE.read(
        path, refuse_names=_refuse_names, refuse_sizes=_refuse_sizes
    )
    _refuse_kinds(path, tensors)
    try:
        return Inspection(
            prompt=str(meta["prompt"]),
            model=str(meta["model"]),
            source=str(meta["source"]),
            source_layer=int(meta["source_layer"]),
            target=str(meta["target"]),
            tokens=tuple(map(str, meta["tokens"])),
            vectors=tuple(map(int, meta["vectors"])),
            labels=tuple(map(str, meta["labels"])),
            words={int(token): str(text) for token, text in dict(meta["words"]).items()},
            **tensors,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InspectionFileError(f"{path} is not a valid inspection: {error}") from error


def _refuse_names(path: Path, names: list[str]) -> None:
    if set(names) != set(AXES):
        raise InspectionFileError(f"{path} holds no inspection, or part of one.")


def _refuse_sizes(path: Path, meta: Mapping[str, Any], sizes: Mapping[str, list[int]]) -> None:
    """Axes of one name must be as long everywhere; read before anything is allocated."""
    texts = {name: meta.get(name) for name in ("tokens", "vectors", "labels")}
    if not all(isinstance(value, list) for value in texts.values()):
        raise InspectionFileError(f"{path} does not say which tokens and vectors it is about.")
    known = {"pos": len(meta["tokens"]), "vec": len(meta["vectors"]), "two": 2, "part": len(PARTS)}
    known |= {"run": known["vec"] + 1, "next": max(known["pos"] - 1, 0)}
    if len(meta["labels"]) != known["vec"] or known["pos"] == 0:
        raise InspectionFileError(f"{path} has no tokens, or not a label for every vector.")
    for name, axes in AXES.items():
        wanted = [axis for axis in axes.split() if axis not in ("int", "bool")]
        fits = len(wanted) == len(sizes[name]) and all(
            size <= _MOST and known.setdefault(axis, size) == size
            for axis, size in zip(wanted, sizes[name], strict=True)
        )
        if not fits:
            raise InspectionFileError(f"{path}: {name} has shape {sizes[name]}; expected {wanted}.")


def _refuse_kinds(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, axes in AXES.items():
        kind = "int" if axes.endswith(" int") else "bool" if axes.endswith(" bool") else "float"
        own = tensors[name].dtype
        here = "float" if own.is_floating_point else "bool" if own == torch.bool else "int"
        if kind != here:
            raise InspectionFileError(f"{path}: {name} must hold {kind}, not {own}.")
    kept, change = tensors["kept"], tensors["attention_change"]
    limit = torch.tensor(change.shape[1:], dtype=torch.long, device="cpu")
    if bool(((kept < 0) | (kept >= limit)).any()):
        raise InspectionFileError(f"{path} keeps attention of heads that are not there.")
    read_at, pos = tensors["read_at"], len(tensors["ids"])
    if bool(((read_at < 0) | (read_at >= pos)).any()):
        raise InspectionFileError(f"{path} reads the logit lens at tokens that are not there.")
