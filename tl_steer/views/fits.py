"""Whether results are of a bank: those of another one would be shown as its own.

Results say which bank they are of and which model made them (`banks.origin`). Those of version
0.1.0 do not; then what they do say must agree, and a note tells that this is all that is known.
"""

from collections.abc import Sequence
from typing import Any

from tl_steer.banks.bank import Bank
from tl_steer.banks.generations import Generations
from tl_steer.banks.origin import UNTOLD, Origin
from tl_steer.banks.selection import Selection
from tl_steer.errors import SettingError
from tl_steer.files.text import shorten
from tl_steer.inspection.generated import Continuations
from tl_steer.inspection.result import Inspection
from tl_steer.inspection.strength import Strengths
from tl_steer.models.fingerprint import same_model
from tl_steer.radii.band import DoseResponse
from tl_steer.sweeps.result import SweepResult

# What each is called, and what makes one.
_MADE = {
    Inspection: ("inspection", "inspect(model, bank, prompt)"),
    Strengths: ("strengths", "inspection.strengths(model, bank, prompt)"),
    Continuations: ("continuations", "inspection.continuations(model, bank, prompt)"),
    Generations: ("texts", "generate(model, bank, prompts)"),
    DoseResponse: ("doses", "dose_response(model, bank, prompts)"),
    Selection: ("selection", "halve(model, bank, ...)"),
    SweepResult: ("sweep", "sweep(model, bank, prompts)"),
}

_INSIDE = (Inspection, Strengths, Continuations)


def refuse(bank: Bank, *results: Any) -> list[str]:
    """Refuse results that are not of this bank.

    Args:
        results: `Inspection`, `Strengths`, `Continuations`, `Generations`, `DoseResponse`,
            `Selection`, `SweepResult`; anything else, a table of numbers say, cannot be checked.
            None is passed over.

    Returns:
        Notes on what could not be checked.

    Raises:
        SettingError: a result of another bank or model, with what to do.
    """
    own = Origin(bank.digest(), bank.provenance.model, bank.provenance.fingerprint)
    notes: list[str] = []
    for result in results:
        if result is not None:
            notes += _refuse_other(own, result, of_bank=True)
            _refuse_others(bank, result)
    return list(dict.fromkeys(notes))


def refuse_control(bank: Bank, *results: Any) -> list[str]:
    """As `refuse`, for results of random vectors: of the bank's model, and not of the bank.

    Raises:
        SettingError: another model's, or the bank's own.
    """
    own = Origin(bank.digest(), bank.provenance.model, bank.provenance.fingerprint)
    notes: list[str] = []
    for result in results:
        if result is None:
            continue
        if _origin(result).bank == own.bank:
            raise SettingError(
                f"Got the {_called(result)} of the bank itself as its control; expected that of "
                "random vectors: random_bank(bank)."
            )
        notes += _refuse_other(own, result, of_bank=False)
    return list(dict.fromkeys(notes))


def _refuse_other(own: Origin, result: Any, *, of_bank: bool) -> list[str]:
    there = _origin(result)
    if of_bank and there.bank and there.bank != own.bank:
        raise _foreign(result, f"another bank ({there.bank}; this one is {own.bank})")
    agrees = of_bank and there.bank == own.bank
    if own.fingerprint is not None and there.fingerprint is not None:
        if not same_model(own.fingerprint, there.fingerprint):
            model = f"another model ({there.model or 'unnamed'}; this bank was made on {own.model})"
            raise _foreign(result, model)
        agrees = True
    if there.model and there.model != own.model:
        if not agrees:
            model = f"another model ({there.model}; this bank was made on {own.model})"
            raise _foreign(result, model)
        return [f"{there.model}, which computes what {own.model} does, made the {_called(result)}"]
    whose = "bank" if of_bank else "model"
    unchecked = f"unchecked: nothing says which {whose} made the {_called(result)}"
    return [] if agrees else [unchecked]


def _refuse_others(bank: Bank, result: Any) -> None:
    """Refuse what a result says of places and vectors, where the bank has others."""
    for name, told in _sites(result).items():
        known = getattr(bank, name).name
        if told != known:
            raise _foreign(result, f"another {name} ({told}; this bank's is {known})")
    named = _vectors(result)
    if isinstance(result, Generations) and named != bank.numbers:
        raise _foreign(result, f"{len(named)} vectors, and not the {len(bank)} in the bank's order")
    odd = sorted(set(named) - set(bank.numbers))
    if odd:
        raise _foreign(result, f"vector {odd[0]}, which this bank does not have")


def _sites(result: Any) -> dict[str, str]:
    if isinstance(result, SweepResult):
        return {name: result.asked[name] for name in ("source", "target")}
    if isinstance(result, _INSIDE):
        return {"source": result.source, "target": result.target}
    return {"source": result.source} if isinstance(result, DoseResponse) else {}


def _vectors(result: Any) -> Sequence[int]:
    """The bank's vectors that a result is about, by their numbers."""
    if isinstance(result, _INSIDE):
        return result.vectors
    if isinstance(result, (Generations, Selection)):
        return result.numbers
    if isinstance(result, DoseResponse):
        return [dose.vector for dose in result.doses if not dose.control]
    if isinstance(result, SweepResult):
        return [who.vector for who in result.who if who.kind == "bank"]
    return []


def _origin(result: Any) -> Origin:
    """What a result says of itself."""
    if isinstance(result, SweepResult):
        return Origin(result.asked["bank"], result.asked["model"])
    there = getattr(result, "origin", UNTOLD)
    return there if isinstance(there, Origin) else UNTOLD


def _called(result: Any) -> str:
    """What a result is called in a sentence: with its prompt, where there is one."""
    prompts = getattr(result, "prompts", ())
    prompt = getattr(result, "prompt", prompts[0] if isinstance(prompts, tuple) and prompts else "")
    name = _MADE.get(type(result), ("table",))[0]
    return f"{name} of {shorten(prompt, 40)!r}" if prompt else name


def _foreign(result: Any, of: str) -> SettingError:
    anew = _MADE.get(type(result), ("", "make it with this bank"))[1]
    return SettingError(
        f"Got the {_called(result)} of {of}, and it would be shown as this bank's. Pass the bank "
        f"that it was made with, or make it anew: {anew}."
    )
