"""What identifies a model: its residual stream on a few fixed tokens."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tl_steer.files.jsons import fields, real, text, whole
from tl_steer.models.bare import bare_pass
from tl_steer.models.model import HookedModel, dtype_of

_SKETCH = 16


@dataclass(frozen=True)
class Fingerprint:
    """What identifies a model's residual stream (see `fingerprint`)."""

    signature: tuple[float, ...]
    d_model: int
    n_layers: int
    d_vocab: int
    dtype: str

    def __str__(self) -> str:
        first, last = self.signature[0], self.signature[-1]
        return f"{self.dtype}, fingerprint {first:.4f} … {last:.4f}"

    def refuse_kinds(self) -> None:
        """Raise ValueError where a field holds another kind of value, as one from a file may."""
        text(self.dtype), [real(x) for x in self.signature]
        for size in (self.d_model, self.n_layers, self.d_vocab):
            whole(size)

    @classmethod
    def from_json(cls, value: Any) -> "Fingerprint":
        """As `dataclasses.asdict` gives it.

        Raises:
            ValueError: it is something else.
        """
        given = dict(fields(value, {each.name for each in dataclasses.fields(cls)}))
        if not isinstance(given["signature"], (list, tuple)):
            raise ValueError("a fingerprint's signature is a list of numbers")
        return cls(
            signature=tuple(map(real, given["signature"])),
            dtype=text(given["dtype"]),
            **{name: whole(given[name]) for name in ("d_model", "n_layers", "d_vocab")},
        )


def same_model(a: Fingerprint, b: Fingerprint) -> bool:
    """Whether two fingerprints can come from one model, seen through different classes or
    dtypes."""
    if (a.d_model, a.n_layers, a.d_vocab) != (b.d_model, b.n_layers, b.d_vocab):
        return False
    tolerance = 1e-3 if a.dtype == b.dtype and a.dtype in ("float32", "float64") else 0.05
    x, y = (
        torch.tensor(a.signature, dtype=torch.float32, device="cpu"),
        torch.tensor(b.signature, dtype=torch.float32, device="cpu"),
    )
    return x.shape == y.shape and bool((x - y).norm() <= tolerance * x.norm())


def fingerprint(model: HookedModel) -> Fingerprint:
    """What the model makes of seven fixed tokens (fewer where its context ends before), at three
    depths, in 48 numbers.

    The residual stream is centred and scaled to unit norm first, so weight folding, centring and
    the model class make no difference, while fine-tuning does. Hooks on the model are set aside.
    """
    n_layers = int(model.cfg.n_layers)
    names = [f"blocks.{i}.hook_resid_post" for i in sorted({0, n_layers // 2, n_layers - 1})]
    seen, _ = bare_pass(model, names)
    # The first token's stream is massive in many models; where the context holds no other, it has
    # to do.
    behind = [seen[name][0, 1:] if seen[name].shape[1] > 1 else seen[name][0] for name in names]
    signature = [x for stream in behind for x in _sketch(stream.double().cpu())]
    return Fingerprint(
        signature=tuple(round(x, 7) for x in signature),
        d_model=int(model.cfg.d_model),
        n_layers=n_layers,
        d_vocab=int(model.cfg.d_vocab),
        dtype=str(dtype_of(model)).removeprefix("torch."),
    )


def _sketch(residual: Tensor) -> list[float]:
    """[pos d_model] -> 16 numbers, by a fixed projection that needs no random generator."""
    centred = residual - residual.mean(dim=-1, keepdim=True)
    unit = torch.nn.functional.normalize(centred, dim=-1)
    d = unit.shape[-1]
    angles = torch.outer(
        torch.arange(1, _SKETCH + 1, device="cpu"), torch.arange(d, device="cpu")
    ).float() * (math.pi * 0.6180339887)
    return [float(x) for x in (unit @ torch.cos(angles).double().T).mean(dim=0)]
