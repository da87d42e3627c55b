"""Another model to compare one with: the base that a fine-tune was made from."""

from dataclasses import dataclass, field
from typing import Any

from tl_steer.errors import ModelError
from tl_steer.models.fingerprint import Fingerprint, fingerprint
from tl_steer.models.model import HookedModel, model_name


@dataclass(frozen=True, repr=False)
class Reference:
    """A model that others are compared with, as settings hold one: by name and fingerprint.

    Equal to another of the same name and fingerprint. Its weights are not copied, so changing them
    later makes its repr, and every provenance that quotes it, untrue.

    Attributes:
        name: as its config has it.
        mark: its fingerprint.
        model: the model itself, in no repr and no file.
    """

    name: str
    mark: Fingerprint
    model: HookedModel = field(compare=False)

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
