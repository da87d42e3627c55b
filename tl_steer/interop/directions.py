"""What most tools know of steering: vectors that are added to the outputs of blocks."""

import contextlib
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.banks.given import rows_of
from tl_steer.errors import BankFileError, HookPointError, SettingError, ShapeError
from tl_steer.files.signatures import typed
from tl_steer.files.text import shorten
from tl_steer.hook_points.positions import EVERYWHERE, Positions
from tl_steer.hook_points.site import Site
from tl_steer.interop.refusals import refuse_positions, refuse_several
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

    @classmethod
    @typed
    def of(cls, given: Any) -> "Directions":
        """The vectors that another tool's object holds, at all tokens.

        Args:
            given: a `ControlVector` of repeng, a `SteeringVector` of steering-vectors or of
                AISteer360, or a mapping from the numbers of blocks to a vector or to `[vec
                d_model]`, row k of all of them being one edit.

        Wrong for a vector that its tool adds at some tokens, or with an operator of its own: that
        is said when it is used, and is not in the object.

        Raises:
            ShapeError: nothing of that kind, or rows that do not match.
            HookPointError: vectors that are not added to the outputs of blocks.
            SettingError: vectors that are not finite.
        """
        held = getattr(given, "layer_activations", getattr(given, "directions", given))
        kind = getattr(given, "layer_type", "decoder_block")
        if kind != "decoder_block" or getattr(given, "num_heads", None) is not None:
            what = "heads" if kind == "decoder_block" else f"{kind!r}"
            raise HookPointError(
                f"These vectors are for {what}; expected the outputs of blocks. Make a bank of "
                "them by Bank.from_vectors(model, vectors, source=...)."
            )
        if not isinstance(held, Mapping) or not held:
            raise ShapeError(
                f"Directions.of() got {type(given).__name__}; expected a ControlVector of repeng, "
                "a SteeringVector, or a mapping from the numbers of blocks to vectors."
            )
        layers = {_number_of(layer): rows_of(rows)[0] for layer, rows in held.items()}
        _refuse_unlike(layers, one=held is not given)
        return cls(layers)

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
            target=target_behind(model, max(self.layers)) if target is None else target,
            labels=self.labels or None,
        )


def directions_of(
    bank: Bank,
    *,
    tool: str,
    positions: Sequence[Positions] = (EVERYWHERE,),
    many: bool = False,
) -> Directions:
    """A bank's vectors in these terms.

    Args:
        tool: whose file it is for, in errors.
        positions: the choices of tokens that the tool can make.
        many: whether one file of the tool can hold several vectors, to choose from.

    Raises:
        SettingError: another kind of perturbation, other tokens, or several vectors for a tool that
            knows one.
        HookPointError: vectors that are added elsewhere.
        NotFiniteError: as `Bank.perturbation`.
    """
    refuse_positions(bank, tool=tool, positions=positions)
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
    if not many:
        refuse_several(bank, tool=tool)
    return Directions(layers, bank.positions, bank.labels)


def _number_of(layer: Any) -> int:
    with contextlib.suppress(TypeError, ValueError, RuntimeError):
        if not isinstance(layer, bool) and operator.index(layer) >= 0:
            return operator.index(layer)
    raise ShapeError(f"{shorten(repr(layer), 40)} is no number of a block; expected 0 or more.")


def _refuse_unlike(layers: Mapping[int, Tensor], *, one: bool) -> None:
    shapes = {layer: tuple(rows.shape) for layer, rows in layers.items()}
    if len(set(shapes.values())) != 1:
        raise ShapeError(f"These vectors have different shapes, by block: {str(shapes)[:200]}.")
    if one and any(len(rows) != 1 for rows in layers.values()):
        raise ShapeError(
            "This object holds several rows a block, which its tool adds at one token each, or "
            "rotates between; expected one vector a block."
        )


def target_behind(model: HookedModel, layer: int) -> int:
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
