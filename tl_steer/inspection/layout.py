"""What an inspection's file holds: names, axes, and what they must agree on.

The same is asked of an inspection that is to be saved and of a file that is read, so that nothing
is saved that does not load.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tl_steer.errors import InspectionFileError
from tl_steer.files.jsons import text, texts, whole
from tl_steer.files.tensors import TensorFile
from tl_steer.models.fingerprint import Fingerprint

PARTS = ("attention", "mlp", "rest")
INSPECTION_FILE = TensorFile("inspection", "tl_steer_inspection", InspectionFileError)
TEXTS = (
    "prompt",
    "model",
    "bank",
    "source",
    "source_layer",
    "target",
    "tokens",
    "vectors",
    "labels",
)
_MOST = 1 << 18  # of anything along one axis
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Axes of every tensor; what a file must agree with before it is used. Integers are marked.
AXES: Mapping[str, str] = {
    "ids": "pos int",
    "steered": "pos bool",
    "attention_change": "vec layer head",
    "last_rows": "vec layer head two pos",
    "kept": "vec kept two int",
    "patterns": "vec kept two pos pos",
    "kl": "vec pos",
    "gained": "vec pos top int",
    "gained_p": "vec pos top two",
    "lost": "vec pos top int",
    "lost_p": "vec pos top two",
    "likely": "run pos top int",
    "likely_lp": "run pos top",
    "next_lp": "run next",
    "next_rank": "run next int",
    "response": "vec stream pos",
    "clean": "stream pos",
    "added": "vec pos",
    "entering": "pos",
    "read_at": "vec read int",
    "promoted": "vec stream read word int",
    "promoted_by": "vec stream read word",
    "suppressed": "vec stream read word int",
    "suppressed_by": "vec stream read word",
    "promoted_p": "vec stream read word two",
    "suppressed_p": "vec stream read word two",
    "lens_gained": "vec stream read word int",
    "lens_gained_p": "vec stream read word two",
    "lens_lost": "vec stream read word int",
    "lens_lost_p": "vec stream read word two",
    "toward": "vec token int",
    "moved": "vec token",
    "direct": "vec stream part token",
    "heads": "vec layer head token",
}

# What files of version 0.1.0 lack.
LATER = (
    "last_rows",
    "promoted_p",
    "suppressed_p",
    "lens_gained",
    "lens_gained_p",
    "lens_lost",
    "lens_lost_p",
)


def refuse_header(meta: Mapping[str, Any]) -> None:
    """Refuse texts and numbers that no inspection has.

    Raises:
        ValueError, KeyError: saying which.
    """
    for name in ("prompt", "model", "source", "target"):
        text(meta[name])
    text(meta.get("bank", ""))
    if meta.get("fingerprint") is not None:
        Fingerprint.from_json(meta["fingerprint"])
    whole(meta["source_layer"])
    texts(meta["tokens"])
    refuse_vectors(meta)


def refuse_vectors(meta: Mapping[str, Any]) -> None:
    """Refuse what is about no vectors, and words that are not by tokens' ids.

    Raises:
        ValueError, KeyError: saying which.
    """
    texts(meta["labels"])
    vectors, words = meta["vectors"], meta["words"]
    if not isinstance(vectors, (list, tuple)) or not isinstance(words, Mapping):
        raise ValueError("it does not say which vectors and tokens it is about")
    if len({whole(vector) for vector in vectors}) < len(vectors) or not vectors:
        raise ValueError("it is about no vectors, or about one twice")
    texts([*words.values()])
    if not all(str(key).isascii() and str(key).isdecimal() and len(str(key)) < 19 for key in words):
        raise ValueError("its words are not by the tokens' ids")


def refuse_sizes(meta: Mapping[str, Any], sizes: Mapping[str, list[int]]) -> None:
    """Axes of one name must be as long everywhere; needs no tensor to be there yet.

    Raises:
        ValueError: saying which is not.
    """
    known = {"pos": len(meta["tokens"]), "vec": len(meta["vectors"]), "two": 2, "part": len(PARTS)}
    known |= {"run": known["vec"] + 1, "next": max(known["pos"] - 1, 0)}
    if len(meta["labels"]) != known["vec"] or known["pos"] == 0:
        raise ValueError("it has no tokens, or not a label for every vector")
    refuse_axes({name: axes for name, axes in AXES.items() if name in sizes}, known, sizes)
    if known["top"] == 0 or known["read"] == 0 or known["stream"] < 2:
        raise ValueError("it names no tokens, or no layers")


def refuse_kinds(tensors: Mapping[str, Tensor]) -> None:
    """Refuse dtypes and places that cannot be.

    Raises:
        ValueError: saying which.
    """
    refuse_dtypes({name: axes for name, axes in AXES.items() if name in tensors}, tensors)
    kept, change = tensors["kept"], tensors["attention_change"]
    limit = torch.tensor(change.shape[1:], dtype=torch.int64, device="cpu")
    if bool((kept.cpu() >= limit).any()):
        raise ValueError("it keeps attention of heads that are not there")
    if bool((tensors["read_at"] >= len(tensors["ids"])).any()):
        raise ValueError("it reads the logit lens at tokens that are not there")


def refuse_axes(
    all_axes: Mapping[str, str], known: dict[str, int], sizes: Mapping[str, list[int]]
) -> None:
    """Refuse shapes that do not agree with each other, or with the axes that are known; adds to
    those.

    Raises:
        ValueError: saying which.
    """
    for name, axes in all_axes.items():
        wanted = [axis for axis in axes.split() if axis not in ("int", "bool")]
        fits = len(wanted) == len(sizes[name]) and all(
            size <= _MOST and known.setdefault(axis, size) == size
            for axis, size in zip(wanted, sizes[name], strict=True)
        )
        if not fits:
            raise ValueError(f"{name} has shape {sizes[name]}; expected {wanted}")


def refuse_dtypes(all_axes: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Refuse numbers of another kind than an axis names.

    Raises:
        ValueError: saying which.
    """
    for name, axes in all_axes.items():
        own = tensors[name].dtype
        kind = "int" if axes.endswith(" int") else "bool" if axes.endswith(" bool") else "float"
        known = {"int": (torch.int64,), "bool": (torch.bool,), "float": _FLOATS}[kind]
        if own not in known:
            raise ValueError(f"{name} must hold {kind}, not {own}")
        if kind == "int" and bool((tensors[name] < 0).any()):
            raise ValueError(f"{name} must hold whole numbers of at least 0")
