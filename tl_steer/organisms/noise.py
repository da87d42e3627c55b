"""What is added to the residual stream while an organism learns to stay clean."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.organisms.lesson import Example
from tl_steer.organisms.recipes import Recipe


@dataclass(frozen=True)
class Found:
    """Vectors that a search found, as long as they are to be added.

    Attributes:
        vectors: in the residual stream.
        layers: the block behind which each is added.
    """

    vectors: Float[Tensor, "row d_model"]
    layers: Int[Tensor, " row"]


def read_found(path: Path) -> Found:
    """`vectors` and `layers` of a safetensors file.

    Raises:
        SettingError: no such file, or other tensors in it.
    """
    try:
        tensors = load_file(path)
        vectors, layers = tensors["vectors"].float(), tensors["layers"].long()
    except Exception as error:
        # The reader of safetensors has no error of its own for all that can be wrong in a file.
        raise SettingError(
            f"No vectors in {path}: {error!r}. Expected a safetensors file with `vectors` "
            "[row, d_model] and `layers` [row]."
        ) from error
    if vectors.ndim != 2 or len(vectors) == 0 or layers.shape != vectors.shape[:1]:
        raise SettingError(
            f"{path} has vectors {tuple(vectors.shape)} and layers {tuple(layers.shape)}; expected "
            "one layer for each row of vectors, and a row at least."
        )
    return Found(vectors, layers)


def perturbations(
    recipe: Recipe,
    examples: Sequence[Example],
    width: int,
    generator: torch.Generator,
    *,
    found: Found | None = None,
) -> tuple[Int[Tensor, " batch"], Float[Tensor, "batch d_model"]]:
    """A layer and a vector for each example; zeros where there is to be none."""
    n, (low, high) = len(examples), recipe.norms
    clean = torch.tensor([e.clean for e in examples], dtype=torch.bool, device="cpu")
    chosen = (_uniform(n, generator) < recipe.perturbed) & clean
    norms = low * (high / low) ** _uniform(n, generator)
    directions = torch.nn.functional.normalize(
        torch.randn(n, width, generator=generator, dtype=torch.float32, device="cpu"), dim=1
    )
    first, last = recipe.layers
    layers = torch.randint(first, last + 1, (n,), generator=generator, device="cpu")
    vectors = directions * (norms * chosen)[:, None]
    if found is None:
        return layers, vectors
    taken = (_uniform(n, generator) < recipe.found) & chosen
    rows = torch.randint(len(found.vectors), (n,), generator=generator, device="cpu")
    vectors = torch.where(taken[:, None], found.vectors[rows], vectors)
    return torch.where(taken, found.layers[rows], layers), vectors


def _uniform(n: int, generator: torch.Generator) -> Float[Tensor, " n"]:
    return torch.rand(n, generator=generator, dtype=torch.float32, device="cpu")
