"""What a result is of: which bank, on which model. Results carry it, so that nobody reads the
numbers of other vectors as a bank's own."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from tl_steer.banks.bank import Bank
from tl_steer.banks.provenance import check_fits
from tl_steer.files.jsons import fields, text
from tl_steer.models.fingerprint import Fingerprint
from tl_steer.models.model import HookedModel, model_name


@dataclass(frozen=True)
class Origin:
    """The bank and the model that a result was made with.

    Attributes:
        bank: `Bank.digest()`; empty where a result does not say, as those of version 0.1.0.
        model: the model's name.
        fingerprint: the model's, when it ran; None where a result does not say.
    """

    bank: str = ""
    model: str = ""
    fingerprint: Fingerprint | None = None

    @classmethod
    def from_json(cls, value: Any) -> "Origin":
        """As `dataclasses.asdict` gives it.

        Raises:
            ValueError: it is something else.
        """
        given = dict(fields(value, {each.name for each in dataclasses.fields(cls)}))
        mark = given["fingerprint"]
        known = None if mark is None else Fingerprint.from_json(mark)
        return cls(text(given["bank"]), text(given["model"]), known)


UNTOLD = Origin()


def origin_of(model: HookedModel, bank: Bank) -> Origin:
    """What a result of this bank on this model is of. Runs the model once, for its fingerprint.

    Raises:
        ForeignModelError: the bank was made for another model.
    """
    mark = check_fits(model, bank.provenance)
    return Origin(bank.digest(), model_name(model), mark)
