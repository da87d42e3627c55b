"""What most tools know of steering: vectors that are added to the outputs of blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.errors import BankFileError, HookPointError, SettingError
from tl_steer.files.text import shorten
from tl_steer.hook_points.positions import EVERYWHERE, Positions
from tl_steer.hook_points.site import Site
from tl_steer.models.lookup import resolve
from tl_steer.models.model import HookedModel
from tl_steer.models.tokens import Prompts, TokenBatch
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.multi_site import MultiSite
from tl_steer.perturbations.perturbation import Perturbation


@dataclass(frozen=True, eq=False)
class Directions:
    """Vectors that are added to the outputs of blocks.

    Attributes:
        layers: `[vec d_model]`, float32 on the CPU, by the number of the block (from 0) that they
            are added behind; each as many rows, and row k of all of them is one edit.
        positions: the tokens that they act on.
        labels: a note on each; none at all, where there are none.
    """

    layers: Mapping[int, Float[Tensor, "vec d_model"]]
    positions: Positions = EVERYWHERE
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.layers.values())))

    def perturbation(self) -> Perturbation:
        """The edits, to run: additive at one block, or a `MultiSite` of several."""
        parts = [
            Additive(layer, rows, positions=self.positions)
            for layer, rows in sorted(self.layers.items())
        ]
        return parts[0] if len(parts) == 1 else MultiSite(parts, positions=self.positions)

    def bank(
        self, model: HookedModel, *, prompts: Prompts | TokenBatch, target: int | str | None = None
    ) -> Bank:
        """A bank of them, with what they do on these prompts; see `Bank.from_vectors`.

        Args:
            target: where the effect is measured; two thirds of the way from the last of these
                blocks to the model's last, unless said.

        Raises:
            HookPointError: blocks that the model does not have, at this width.
            NotFiniteError, PromptError: as `Bank.from_vectors`.
        """
        edits = self.perturbation()
        for site in edits.sites:
            here = resolve(model, site.name)
            if here.width != site.width:
                raise HookPointError(
                    f"These vectors are {site.width} wide, and {here} is {here.width} on this "
                    "model: they were made for another."
                )
        return Bank.from_vectors(
            model,
            edits,
            prompts=prompts,
            target=_behind(model, max(self.layers)) if target is None else target,
            labels=self.labels or None,
        )


def directions_of(
    bank: Bank, *, tool: str, positions: Sequence[Positions] = (EVERYWHERE,)
) -> Directions:
    """A bank's vectors in these terms.

    Args:
        tool: whose file it is for, in errors.
        positions: the choices of tokens that the tool can make.

    Raises:
        SettingError: another kind of perturbation, or other tokens.
        HookPointError: vectors that are added elsewhere.
    """
    if bank.positions not in positions:
        raise SettingError(
            f"These vectors act on {bank.positions}, which {tool} cannot say: it would add them at "
            "every token, and a vector that was trained at some over-steers there. Learn it at "
            "every token (positions=Positions()), or steer with tl_steer itself."
        )
    edits = bank.perturbation()
    parts = edits.parts if isinstance(edits, MultiSite) else (edits,)
    layers: dict[int, Tensor] = {}
    for part in parts:
        if type(part) is not Additive:
            raise SettingError(
                f"{tool} adds vectors; these are perturbations of kind {part.kind!r}, which it "
                "cannot say."
            )
        layer = block_of(part.site, tool=tool)
        rows = part.vectors.detach().to("cpu", torch.float32)
        layers[layer] = layers[layer] + rows if layer in layers else rows
    return Directions(layers, bank.positions, bank.labels)


def _behind(model: HookedModel, layer: int) -> int:
    """Where an effect is measured unless said: two thirds of the way through what is left."""
    last = int(model.cfg.n_layers) - 1
    return layer + -(-2 * (last - layer) // 3)


def block_of(site: Site, *, tool: str) -> int:
    """The block whose output is this hook point.

    Raises:
        HookPointError: it is no block's.
    """
    if site.kind == "hook_resid_post":
        return site.layer
    if site.kind == "hook_resid_pre" and site.layer > 0:
        return site.layer - 1
    where = "in front of the first block" if site.kind == "hook_resid_pre" else "inside a block"
    raise HookPointError(
        f"{tool} adds vectors to the outputs of blocks, and {site} is {where}. Learn them at a "
        "hook_resid_post, or steer with tl_steer itself."
    )


def layer_of(name: object) -> int:
    """The number of a block, as a file says it.

    Raises:
        ValueError: it is none.
    """
    if not str(name).isdecimal() or not str(name).isascii() or len(str(name)) > 4:
        raise ValueError(f"{shorten(str(name), 40)!r} is no number of a block")
    return int(str(name))


def refuse_directions(layers: Mapping[int, Tensor], path: object) -> None:
    """Refuse what is no set of vectors, as a file may hold it.

    Raises:
        BankFileError: saying why.
    """
    shapes = {tuple(rows.shape) for rows in layers.values()}
    if len(shapes) != 1 or any(len(shape) != 2 or 0 in shape for shape in shapes):
        raise BankFileError(
            f"{path} holds vectors of the shapes {sorted(shapes)[:5]}; expected one."
        )
    for layer, rows in layers.items():
        if not bool(rows.isfinite().all()):
            raise BankFileError(f"{path}: the vectors of layer {layer} hold NaN or infinity.")


def model_type(bank: Bank, model: HookedModel | None) -> str:
    """What transformers calls the kind of model ("llama"); the model's name, where nobody knows."""
    config = getattr(getattr(model, "original_model", None), "config", None)
    return str(getattr(config, "model_type", "") or bank.provenance.model)
