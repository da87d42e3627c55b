"""Using a bank on another model than it was made on."""

import dataclasses

from tl_steer.banks.bank import Bank
from tl_steer.errors import HookPointError
from tl_steer.files.signatures import typed
from tl_steer.hook_points.site import Site
from tl_steer.models.fingerprint import fingerprint
from tl_steer.models.lookup import resolve
from tl_steer.models.model import HookedModel, model_name


@typed
def adopt(bank: Bank, model: HookedModel) -> Bank:
    """Declare that a bank made on another model is to be used on this one; the bank says so from
    then on. Widths and hook points must still fit.

    Raises:
        HookPointError: the model lacks the bank's hook points or has them at another width.
    """
    for name in ("source", "target"):
        site: Site = getattr(bank, name)
        here = resolve(model, site.name, target=name == "target")
        if here.width != site.width:
            raise HookPointError(
                f"{site} is {here.width} wide on this model and {site.width} in the bank."
            )
    provenance = dataclasses.replace(
        bank.provenance,
        fingerprint=fingerprint(model),
        notes=(*bank.provenance.notes, f"adopted by {model_name(model)}"),
    )
    return dataclasses.replace(bank, provenance=provenance)
