"""Several vectors at their own strengths as one."""

from collections.abc import Sequence

from tl_steer.banks.bank import Bank
from tl_steer.banks.control import random_bank
from tl_steer.errors import SettingError
from tl_steer.perturbations.additive import Additive
from tl_steer.serving.asked import Part


def mixture(bank: Bank, parts: Sequence[Part]) -> tuple[Bank, float]:
    """A bank of one vector that does what the parts do together, and its strength.

    Steering vectors are added up. Rows of other kinds have no sum, so there is one part of them.

    Raises:
        RowError: a number that no vector of the bank has.
        SettingError: no parts, or several that cannot be added up.
    """
    if not parts:
        raise SettingError("The mixture holds no vector; add one.")
    if bank.kind != Additive.kind:
        if len(parts) > 1:
            raise SettingError(
                f"Perturbations of kind {bank.kind!r} cannot be mixed, only steering vectors can: "
                "choose one."
            )
        return _one(bank, parts[0]), parts[0].strength
    first, *rest = (_one(bank, part) * part.strength for part in parts)
    return sum(rest, first), 1.0


def _one(bank: Bank, part: Part) -> Bank:
    if part.random:
        return random_bank(bank, n=1, seed=part.number)
    return bank[bank.row(part.number)]
