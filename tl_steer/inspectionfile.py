"""Inspection files: one safetensors file with a JSON header, never pickle.

Everything in a file is hostile: it is checked before it is used, sizes before
anything is allocated.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from tl_steer.errors import InspectionFileError
from tl_steer.files import write_beside
from tl_steer.inspection import AXES, PARTS, Inspection

FORMAT_VERSION = 1
_MOST_METADATA = 1 << 24  # bytes; the strings of every token that is named
_MOST = 1 << 18  # of anything along one axis
_TEXTS = ("prompt", "model", "source", "source_layer", "target", "tokens", "vectors", "labels")


def save_inspection(found: Inspection, path: str | Path) -> Path:
    """Write an inspection; an existing file stays whole until the new one is complete."""
    path = Path(path)
    tensors = {name: getattr(found, name).detach().cpu().contiguous() for name in AXES}
    meta: dict[str, Any] = {"format": FORMAT_VERSION}
    meta |= {name: getattr(found, name) for name in _TEXTS}
    meta |= {"words": {str(token): text for token, text in found.words.items()}}
    meta = json.loads(json.dumps(meta))
    meta["sha256"] = _digest(meta, tensors)
    write_beside(path, to_bytes(tensors, metadata={"tl_steer_inspection": json.dumps(meta)}))
    return path


def load_inspection(path: str | Path) -> Inspection:
    """Read what `Inspection.save` wrote. No model is needed, and nothing in the file is executed.

    Raises:
        InspectionFileError: the file is missing, damaged, changed, too large or no inspection.
    """
    path = Path(path)
    if not path.is_file():
        raise InspectionFileError(f"No inspection at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("tl_steer_inspection", "")
            if set(file.keys()) != set(AXES):
                raise InspectionFileError(f"{path} holds no inspection, or part of one.")
            sizes = {name: list(file.get_slice(name).get_shape()) for name in AXES}
            meta = _read_header(path, header)
            _refuse_sizes(path, meta, sizes)
            tensors = {name: file.get_tensor(name) for name in AXES}
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise InspectionFileError(f"{path} is damaged or no safetensors file: {error}") from error
    if meta.pop("sha256", None) != _digest(meta, tensors):
        raise InspectionFileError(f"{path} was changed after it was saved: its checksum is wrong.")
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


def _read_header(path: Path, header: str) -> dict[str, Any]:
    if not 0 < len(header) <= _MOST_METADATA:
        raise InspectionFileError(f"{path} has no tl_steer header (or one of an absurd size).")
    try:
        meta = json.loads(header)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InspectionFileError(f"{path} has an unreadable header: {error}") from error
    version = meta.get("format") if isinstance(meta, dict) else None
    if version != FORMAT_VERSION:
        raise InspectionFileError(
            f"{path} has inspection format {version!r}; this tl_steer reads {FORMAT_VERSION}. "
            "If it is newer, upgrade tl_steer."
        )
    return dict(meta)


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
    limit = torch.tensor(change.shape[1:])
    if bool(((kept < 0) | (kept >= limit)).any()):
        raise InspectionFileError(f"{path} keeps attention of heads that are not there.")
    read_at, pos = tensors["read_at"], len(tensors["ids"])
    if bool(((read_at < 0) | (read_at >= pos)).any()):
        raise InspectionFileError(f"{path} reads the logit lens at tokens that are not there.")


def _digest(meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Finds damage and accidents; it is no signature."""
    sha = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(tensors):
        sha.update(name.encode())
        sha.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
