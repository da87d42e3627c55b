"""A ladder of lengths: each direction of a bank at several."""

import dataclasses
import math
from collections.abc import Sequence

import torch

from tl_steer.banks.bank import Bank
from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed


@typed
def ladder(bank: Bank, *, lengths: Sequence[float | int]) -> Bank:
    """The bank's vectors at several multiples of their own lengths, rung after rung: row r is
    vector r % len(bank), with that vector's label.

    For monitors: how long a vector has to be to bring a behaviour out, and how long it may be, is
    known of none beforehand. Wrong to use where time is short: whatever is measured of the bank
    costs as many times as much. Responses, objectives and scores are NaN but at length 1, since
    effects are not linear in it; a vector's multiple is its score "length".

    Args:
        lengths: multiples, above 0 and no two alike.

    Raises:
        SettingError: lengths that are none, or a bank of a kind whose rows do not grow.
    """
    steps = [float(length) for length in lengths]
    if not steps or not all(0 < x < math.inf for x in steps) or len(set(steps)) < len(steps):
        raise SettingError(
            f"lengths={list(lengths)}: expected different numbers above 0, multiples of the "
            "vectors' lengths, such as (0.75, 1, 1.5)."
        )
    made, mean = bank.provenance, sum(steps) / len(steps)
    note = f"at {', '.join(f'{step:g}' for step in steps)} times their lengths"
    rungs = bank[torch.arange(len(bank), device="cpu").repeat(len(steps))]
    times = torch.tensor(steps, dtype=bank.vectors.dtype, device="cpu").repeat_interleave(len(bank))
    scaled = rungs.perturbation().scaled(times)
    if scaled.strengths is not None:
        raise SettingError(
            f"ladder() makes rows longer, and a row of {bank.kind!r} holds no strength of its own. "
            "Elicit one bank at each radius and keep several, or give scale= where they are used."
        )
    unknown = torch.where(times == 1, 0.0, math.nan)
    scores = {name: values + unknown for name, values in rungs.scores.items()}
    return dataclasses.replace(
        rungs,
        vectors=scaled.pack(),
        responses=rungs.responses + unknown[:, None],
        objective=rungs.objective + unknown,
        scores=scores | {"length": times},
        radius=mean * bank.radius,
        radius_share=mean * bank.radius_share,
        provenance=dataclasses.replace(made, notes=(*made.notes, note)),
    )
