"""A sweep in every cell of a grid: do a bank's vectors do the same on other prompts?"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tl_steer.banks.bank import Bank
from tl_steer.errors import SettingError
from tl_steer.files.jsons import text, texts, whole
from tl_steer.files.signatures import typed_fields
from tl_steer.files.toml import refuse_keys
from tl_steer.models.model import HookedModel
from tl_steer.models.tokens import chats
from tl_steer.sweeps.metric import METRICS, NEED_TEXT
from tl_steer.sweeps.sweep import sweep


@typed_fields
@dataclass(frozen=True)
class Swept:
    """What `grid(..., after=...)` does with each bank: a sweep of every vector over these prompts.

    The bank gets the scores `prevalence`, `consistency`, `systematicness` and `q` of the sweep, and
    the index how many vectors are `steady` (no sweep here asks about texts), and the largest
    systematicness as `sweep`. The cells of a sweep are not kept: repeat that of a bank that is
    worth it with `sweep(save=)`.

    Args:
        prompts: what no search of the grid was learned on.
        metric: what counts as an effect, a name out of `METRICS` that needs no
            continuation.
        n_random: random vectors, as for `sweep`.
        raw: do not wrap prompts in the model's chat template.

    Raises:
        SettingError: no prompts, an unknown metric, or a number that cannot be.
        ShapeError: a value of another type.
    """

    prompts: Sequence[str]
    metric: str = "kl"
    n_random: int = 64
    raw: bool = False

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "prompts", texts(self.prompts))
            whole(self.n_random, least=1)
            if not self.prompts or type(self.raw) is not bool:
                raise ValueError("expected prompts, and true or false for raw")
            known = [name for name in METRICS if name not in NEED_TEXT]
            if text(self.metric) not in known:
                raise ValueError(f"there is no metric {self.metric!r}; there are {known}")
        except ValueError as error:
            raise SettingError(f"A grid's sweep: {error}.") from error

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Swept":
        """As a plan's table [sweep] has it.

        Raises:
            SettingError, ShapeError: as the class, and for what is missing or unknown.
        """
        known = [each.name for each in dataclasses.fields(cls)]
        refuse_keys(values, known, needed=["prompts"], what="A grid's sweep")
        return cls(**values)

    def __call__(self, model: HookedModel, bank: Bank) -> tuple[Bank, Mapping[str, float]]:
        """The bank with its scores, and numbers for the index."""
        found = sweep(
            model,
            bank,
            chats(model, self.prompts, raw=self.raw),
            metrics=[self.metric],
            n_random=self.n_random,
            progress=False,
        )
        if not found.finished:
            raise KeyboardInterrupt  # it gives what it has by then
        rows = found.rows()
        scores = {
            name: torch.tensor([row[name] for row in rows], dtype=torch.float32, device="cpu")
            for name in ("prevalence", "consistency", "systematicness", "q")
        }
        best = max((row["systematicness"] for row in rows), default=0.0)
        steady = sum(row["verdict"] == "steady" for row in rows)
        return (
            replace(bank, scores={**bank.scores, **scores}),
            {"steady": float(steady), "sweep": float(best)},
        )
