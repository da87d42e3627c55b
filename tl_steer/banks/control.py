"""The control for a bank: random vectors of the same lengths at the same place, and the row that
stands for no steering at all."""

import dataclasses
import math

import torch

from tl_steer.banks.bank import Bank
from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed
from tl_steer.hook_points.positions import EVERYWHERE
from tl_steer.models.bare import bare_pass, fixed_tokens
from tl_steer.models.hooks import capturing, perturbing
from tl_steer.models.model import HookedModel, device_of
from tl_steer.models.state import frozen, without_hooks
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.kinds import KINDS

_CONTROL_STREAM = 0x636F6E74
_MOST = 2**33  # numbers


@typed
def random_bank(like: Bank, *, n: int | None = None, seed: int = 0) -> Bank:
    """The control: random vectors at the same site, as long as the bank's row by row (over and over
    where n is larger). Responses and objectives are NaN.

    Raises:
        SettingError: `n` is not positive, or more than memory holds.
    """
    n = len(like) if n is None else n
    if not 1 <= n <= _MOST // like.vectors.shape[1]:
        raise SettingError(f"n={n} random vectors: expected at least 1, and what memory holds.")
    # Not the stream that `elicit` draws its starting points from, whatever the seed.
    generator = torch.Generator().manual_seed(seed + _CONTROL_STREAM)
    drawn = like.holding(
        torch.randn(
            n, like.vectors.shape[1], generator=generator, dtype=torch.float32, device="cpu"
        )
    )
    drawn.project_()
    vectors = drawn.pack()
    if like.kind == Additive.kind:  # a merged bank's vectors have several lengths
        vectors *= (
            like.vectors.norm(dim=1)[torch.arange(n, device="cpu") % len(like), None] / like.radius
        )
    return dataclasses.replace(
        like,
        vectors=vectors,
        responses=torch.full((n, like.target.width), math.nan, dtype=torch.float32, device="cpu"),
        objective=torch.full((n,), math.nan, dtype=torch.float32, device="cpu"),
        labels=("random",) * n,
        scores={},
        provenance=dataclasses.replace(like.provenance, method="random", settings={}, seed=seed),
    )


def check_neutral(model: HookedModel, bank: Bank) -> None:
    """Make sure that the row that stands for the unsteered model changes nothing in it: for kinds
    other than vectors, whose zeros are added.

    Raises:
        SettingError: it does.
    """
    if bank.kind == Additive.kind:
        return
    edit = KINDS[bank.kind].unpack(
        bank.source, bank.neutral(), radius=bank.radius, positions=EVERYWHERE, form=bank.form
    )
    names = [f"blocks.{int(model.cfg.n_layers) - 1}.hook_resid_post"]
    clean, _ = bare_pass(model, names)
    ids = fixed_tokens(int(model.cfg.d_vocab)).to(device_of(model))
    steered = perturbing(model, edit.to(device_of(model)))
    quiet = frozen(model), without_hooks(model), torch.no_grad()
    with quiet[0], quiet[1], quiet[2], steered, capturing(model, names) as seen:
        model(ids)
    if not torch.allclose(clean[names[0]], seen[names[0]], rtol=1e-4, atol=1e-5):
        raise SettingError(
            f"neutral() of kind {bank.kind!r} is to stand for the unsteered model, and it changes "
            "what the model computes. Return the row that does nothing (ones, for a gain)."
        )
