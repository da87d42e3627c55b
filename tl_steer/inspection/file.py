"""Inspections and continuations as files (`tl_steer.files.tensors`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_steer.errors import InspectionFileError
from tl_steer.files.signatures import typed
from tl_steer.inspection.generated import (
    AXES as STEP_AXES,
    CONTINUATIONS_FILE,
    SAID,
    Continuations,
    refuse_said,
    refuse_tensors,
)
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
        return Inspection(**(_given(meta, TEXTS) | tensors))
    except (KeyError, TypeError, ValueError) as error:
        raise InspectionFileError(f"{path} is not a valid inspection: {error}") from error


@typed
def load_continuations(path: str | Path) -> Continuations:
    """Read what `Continuations.save` wrote, as `load_inspection` does.

    Raises:
        InspectionFileError: the file is missing, damaged, changed, too large or holds none.
    """
    path = Path(path)
    meta, tensors = CONTINUATIONS_FILE.read(
        path, refuse_names=_continued, refuse_sizes=_sizes_continued
    )
    try:
        refuse_tensors(tensors)
        return Continuations(**(_given(meta, SAID) | tensors))
    except (KeyError, TypeError, ValueError) as error:
        raise InspectionFileError(f"{path} holds no valid continuations: {error}") from error


def _given(meta: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The header's fields, as the values have them."""
    given: dict[str, Any] = {name: meta[name] for name in names if name in meta}
    lists = ("tokens", "vectors", "labels", "texts")
    given |= {name: tuple(given[name]) for name in lists if name in given}
    if meta.get("fingerprint") is not None:
        given["fingerprint"] = Fingerprint.from_json(meta["fingerprint"])
    return given | {"words": {int(token): word for token, word in meta["words"].items()}}


def _continued(path: Path, names: list[str]) -> None:
    if set(names) != set(STEP_AXES):
        raise InspectionFileError(f"{path} holds no continuations, or part of them.")


def _sizes_continued(path: Path, meta: dict[str, Any], sizes: Mapping[str, list[int]]) -> None:
    try:
        refuse_said(meta, sizes)
    except (KeyError, ValueError) as error:
        raise InspectionFileError(f"{path} holds no valid continuations: {error}") from error


def _names(path: Path, names: list[str]) -> None:
    if not set(AXES) - set(LATER) <= set(names) <= set(AXES):
        raise InspectionFileError(f"{path} holds no inspection, or part of one.")


def _sizes(path: Path, meta: dict[str, Any], sizes: Mapping[str, list[int]]) -> None:
    try:
        refuse_header(meta)
        refuse_sizes(meta, sizes)
    except (KeyError, ValueError) as error:
        raise InspectionFileError(f"{path} is not a valid inspection: {error}") from error
