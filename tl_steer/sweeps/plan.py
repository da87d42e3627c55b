"""What a sweep measures, and what it steers with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.banks.control import random_bank
from tl_steer.errors import SettingError
from tl_steer.hook_points.positions import Positions
from tl_steer.perturbations.perturbation import Perturbation, Scale, factors_of
from tl_steer.sweeps.asked import BANK, RANDOM, UNSTEERED
from tl_steer.sweeps.metric import AT_TARGET, METRICS, NEED_TEXT, OF_TEXT, SHARED, Metric
from tl_steer.sweeps.names import names_of
from tl_steer.sweeps.result import Who
from tl_steer.sweeps.scorer import Scorer


@dataclass(frozen=True, eq=False)
class Plan:
    """What is measured.

    Attributes:
        metrics: of a pass.
        of_text: names out of `OF_TEXT`.
        scorers: of the continuations.
        generate: their length; 0 for none.
        names: all of these in the order in which they were asked for.
    """

    metrics: Mapping[str, Metric]
    of_text: tuple[str, ...] = ()
    scorers: tuple[Scorer, ...] = ()
    generate: int = 0
    names: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """What cells hold."""
        return tuple(name for name in self.names if name != SHARED)

    @property
    def reads_logits(self) -> bool:
        """Whether a metric may look at logits."""
        return any(metric not in AT_TARGET for metric in self.metrics.values())


def plan_of(metrics: Sequence[str | Metric | Scorer] | None, generate: int) -> Plan:
    """What to measure, by kind.

    Raises:
        SettingError: unknown or repeated names, or something that needs `generate`.
    """
    if metrics is None:
        everything = dict.fromkeys([SHARED, *METRICS, *OF_TEXT])  # texts are what verdicts rest on
        metrics = [name for name in everything if generate or name not in NEED_TEXT]
    passes: dict[str, Metric] = {}
    of_text: list[str] = []
    scorers: list[Scorer] = []
    names = names_of(metrics)
    for one, name in zip(metrics, names, strict=True):
        if generate == 0 and (isinstance(one, Scorer) or one in NEED_TEXT):
            raise SettingError(f"{name} needs continuations: give generate=, say generate=32.")
        if isinstance(one, Scorer):
            scorers.append(one)
        elif isinstance(one, str) and one in OF_TEXT:
            of_text.append(one)
        else:
            passes[name] = METRICS[one] if isinstance(one, str) else one
    return Plan(passes, tuple(of_text), tuple(scorers), generate, names)


def edits_of(
    bank: Bank,
    doses: Sequence[float | int],
    n_random: int,
    seed: int,
    scale: Scale = 1,
    positions: Positions | None = None,
) -> tuple[Perturbation, tuple[Who, ...]]:
    """The bank at every dose, random vectors at every size of dose, and nothing, in this order.
    Under a scale of their own, doses are multiples of that; of its mean size, for random ones.

    Raises:
        SettingError: doses or a scale that cannot be.
    """
    factors = [float(dose) for dose in doses]
    finite = all(dose != 0 and abs(dose) < float("inf") for dose in factors)
    if not factors or not finite or len(set(factors)) != len(factors):
        raise SettingError(f"doses={tuple(doses)}: expected different finite numbers, none 0.")
    own = factors_of(scale, len(bank))
    none = bank.vectors[:0]
    random = random_bank(bank, n=n_random, seed=seed).vectors if n_random else none
    rows, times, who = [], [], []
    for dose in factors:
        rows.append(bank.vectors)
        times.append(dose * own)
        who += [Who(BANK, v, dose) for v in bank.numbers]
    for size in dict.fromkeys(map(abs, factors)):
        rows.append(random)
        times.append((size * own.abs().mean()).expand(n_random))
        who += [Who(RANDOM, v, size) for v in range(n_random)]
    who.append(Who(UNSTEERED, 0, 0.0))
    edits = bank.holding(torch.cat(rows)).used(torch.cat(times), positions)
    return edits.beside_unsteered(), tuple(who)


def means_of(bank: Bank, who: Sequence[Who]) -> Float[Tensor, "vec d_target"]:
    """The bank's responses, turned round with the vectors; NaN for others."""
    nothing = torch.full_like(bank.responses[0], torch.nan)
    own = dict(zip(bank.numbers, bank.responses, strict=True))
    rows = [own[w.vector] * (1 if w.dose > 0 else -1) if w.kind == BANK else nothing for w in who]
    return torch.stack(rows)
