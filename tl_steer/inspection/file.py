"""Inspections as files (`tl_steer.files.tensors`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_steer.errors import InspectionFileError
from tl_steer.files.signatures import typed
from tl_steer.inspection.layout import (
    AXES,
    INSPECTION_FILE,
    LATER,
    TEXTS,
    refuse_header,
    refuse_kinds,
    refuse_sizes,
)
from tl_steer.inspection.result import Inspection
from tl_steer.models.fingerprint import Fingerprint


@typed
def load_inspection(path: str | Path) -> Inspection:
    """Read what `Inspection.save` wrote. No model is needed, and nothing in the file is executed.

    Raises:
        InspectionFileError: the file is missing, damaged, changed, too large or no inspection.
    """
    path = Path(path)
    meta, tensors = INSPECTION_FILE.read(path, refuse_names=_names, refuse_sizes=_sizes)
    try:
        refuse_kinds(tensors)
        given: dict[str, Any] = {name: meta[name] for name in TEXTS if name in meta}
        given |= {name: tuple(given[name]) for name in ("tokens", "vectors", "labels")}
        if meta.get("fingerprint") is not None:
            given["fingerprint"] = Fingerprint.from_json(meta["fingerprint"])
        words = {int(token): text for token, text in meta["words"].items()}
        return Inspection(words=words, **(given | tensors))
    except (KeyError, TypeError, ValueError) as error:
        raise InspectionFileError(f"{path} is not a valid inspection: {error}") from error


def _names(path: Path, names: list[str]) -> None:
    if not set(AXES) - set(LATER) <= set(names) <= set(AXES):
        raise InspectionFileError(f"{path} holds no inspection, or part of one.")


def _sizes(path: Path, meta: dict[str, Any], sizes: Mapping[str, list[int]]) -> None:
    try:
        refuse_header(meta)
        refuse_sizes(meta, sizes)
    except (KeyError, ValueError) as error:
        raise InspectionFileError(f"{path} is not a valid inspection: {error}") from error
