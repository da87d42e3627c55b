"""Another model to compare one with: the base that a fine-tune was made from."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from tl_steer.errors import ModelError
from tl_steer.files.signatures import checked
from tl_steer.models.fingerprint import Fingerprint, fingerprint
from tl_steer.models.model import HookedModel, model_name
from tl_steer.models.state import refuse_inference_weights
from tl_steer.models.unmerged import Adapters, adapters_of, switched_off


@dataclass(frozen=True, repr=False)
class Reference:
    """A model that others are compared with, as settings hold one: by name and fingerprint.

    Equal to another of the same name and fingerprint. Its weights are not copied, so changing them
    later makes its repr, and every provenance that quotes it, untrue.

    Attributes:
        name: as its config has it.
        mark: its fingerprint.
        model: the model itself, in no repr and no file. Run it inside `running()` only.
        adapters: what has to be switched off for it (`without_adapter`).
    """

    name: str
    mark: Fingerprint
    model: HookedModel = field(compare=False)
    adapters: Adapters = field(default=(), compare=False)

    @classmethod
    def of(cls, given: Any) -> "Reference":
        """A model as a reference; a reference as it is. Runs the model once, on eight tokens.

        Raises:
            ModelError: it is no model, with what it lacks.
        """
        if isinstance(given, cls):
            return given
        if not isinstance(given, HookedModel):
            HookedModel.why_not(given)
        return cls(model_name(given), fingerprint(given), given)

    def running(self) -> AbstractContextManager[None]:
        """Inside, `model` is the one that is meant; outside, its adapters are on."""
        return switched_off(self.adapters)

    def refuse_unlike(self, model: HookedModel) -> None:
        """Refuse a model that this one cannot stand beside: the two must have the same width,
        depth and vocabulary. The same model is like itself.

        Raises:
            ModelError: they have not, with the first number that differs.
        """
        for size in ("d_model", "n_layers", "d_vocab"):
            own, other = getattr(self.mark, size), int(getattr(model.cfg, size))
            if own != other:
                raise ModelError(
                    f"{self.name} cannot be the base of {model_name(model)}: it has {size} {own}, "
                    f"and that has {other}. Give the very model that {model_name(model)} was "
                    "made from."
                )

    def __repr__(self) -> str:
        return f"{self.name} ({self.mark})"


@checked
def without_adapter(model: HookedModel) -> Reference:
    """The base of a model that was loaded with an adapter, such as PEFT's LoRA, and not merged: the
    model itself with its adapter switched off. Two models at the cost of one set of weights.

        bank = elicit(model, prompts, against=models.without_adapter(model))

    Wrong to use where the adapter is not all that was changed: a fine-tune of a fine-tune gives the
    former's weights as the base. Readings of weights (`methods.WeightDifference`) see none of it,
    since the two share theirs.

    Raises:
        ModelError: no adapter can be switched off, it is merged, or the model is the same without.
    """
    refuse_inference_weights(model)
    adapters = adapters_of(model)
    with switched_off(adapters):
        mark = fingerprint(model)
    if mark == fingerprint(model):
        raise ModelError(
            f"{model_name(model)} is the same with its adapter and without: expected one that is "
            "on and changes something. Switch it on, or give the base as a model of its own."
        )
    return Reference(f"{model_name(model)} without its adapter", mark, model, adapters)
