"""The kinds of perturbation that a bank can hold."""

import torch

from tl_steer.errors import SettingError
from tl_steer.files.jsons import plain_json, to_text
from tl_steer.perturbations.adapter import Adapter
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.perturbation import Packable

# By the name in a bank's file.
KINDS: dict[str, type[Packable]] = {Additive.kind: Additive, Adapter.kind: Adapter}


def bankable(perturbation: object) -> Packable:
    """A perturbation that a bank can hold as what it is.

    Raises:
        SettingError: none can.
    """
    kind = getattr(perturbation, "kind", None)
    if isinstance(perturbation, Packable) and KINDS.get(str(kind)) is type(perturbation):
        return perturbation
    name = type(perturbation).__name__
    why = "it is not Packable, so it does not say how its parameters become a row of numbers"
    if isinstance(perturbation, Packable) and kind in KINDS:
        why = f"its kind {kind!r} is that of {KINDS[kind].__name__}, which does something else"
    elif isinstance(perturbation, Packable):
        why = f"its kind {kind!r} is not known: put it into tl_steer.perturbations.KINDS"
    raise SettingError(
        f"A bank cannot hold a {name}: {why}. docs/extending.md says what a kind of its own needs."
    )


def refuse_unpackable(start: Packable) -> None:
    """Pack and unpack a perturbation once, before hours go into it.

    Raises:
        SettingError: what comes back is not what went in.
    """
    name = type(start).__name__
    try:
        rows, form = start.pack(), plain_json(start.form())
        to_text(form)
        if rows.shape != (len(start), start.packed_width(start.site, form)):
            raise ValueError(f"it packs into rows of {rows.shape[1]}")
        again = start.unpack(
            start.site, rows, radius=start.radius, positions=start.positions, form=form
        )
        if not torch.equal(again.pack(), rows):
            raise ValueError("other numbers come back")
    except Exception as error:
        raise SettingError(f"A bank cannot hold a {name}: packing fails ({error}).") from error
