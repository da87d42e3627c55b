"""What tools cannot say of a bank, whatever their format."""

from collections.abc import Sequence

from tl_steer.banks.bank import Bank
from tl_steer.errors import SettingError
from tl_steer.hook_points.positions import EVERYWHERE, Positions
from tl_steer.models.model import HookedModel
from tl_steer.perturbations.adapter import Adapter


def refuse_positions(
    bank: Bank, *, tool: str, positions: Sequence[Positions] = (EVERYWHERE,)
) -> None:
    """Refuse a bank that acts on tokens which a tool cannot choose.

    Raises:
        SettingError: saying which.
    """
    if bank.positions not in positions:
        raise SettingError(
            f"These vectors act on {bank.positions}, which {tool} cannot say: it would add them at "
            "every token, and a vector that was trained at some over-steers there. Learn it at "
            "every token (positions=Positions()), or steer with tl_steer itself."
        )


def refuse_several(bank: Bank, *, tool: str) -> None:
    """Refuse a bank of several, or none, for a tool that takes one.

    Raises:
        SettingError: saying how to choose.
    """
    if len(bank) != 1:
        raise SettingError(
            f"This bank holds {len(bank)} vectors, and {tool} takes one; choose it: bank[0], or "
            f"--vector {next(iter(bank.numbers), 0)} on the command line."
        )


def refuse_moved_biases(model: HookedModel, edit: Adapter, *, tool: str) -> None:
    """Refuse adapters that read another activation than the plain model has.

    Raises:
        SettingError: attention's, that were learned in compatibility mode: it folds the biases of
            values into attention's output, so heads write something else.
    """
    if getattr(model, "compatibility_mode", False) and edit.site.kind == "hook_attn_out":
        raise SettingError(
            "This model is in compatibility mode, which moves biases out of the heads that this "
            f"adapter reads, and {tool} has them where they were. Learn it without."
        )
