"""Monitors: a bank kept from before deployment, looked for in deployment.

clean prompts -> answers -> split in three:
  fit          effects of every vector, Gaussians, probes -> detectors
  scale        how large each detector's clean scores are
  calibration  the statistic of whole requests -> p-values
"""

import math
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tl_steer.banks.bank import Bank
from tl_steer.banks.provenance import check_fits
from tl_steer.banks.verdict import marked
from tl_steer.errors import NotFiniteError, PromptError, SettingError
from tl_steer.files.describe import describe
from tl_steer.files.signatures import object_of, typed
from tl_steer.hook_points.site import Point
from tl_steer.models.engine import Engine
from tl_steer.models.lookup import resolve
from tl_steer.models.model import HookedModel
from tl_steer.models.tokens import Prompts, TokenBatch, tokenize
from tl_steer.monitoring.calibration import refuse_unscorable
from tl_steer.monitoring.detectors.detector import (
    LocalMatchedFilter,
    Recurrence,
    Score,
    Unexplained,
    WhitenedCosine,
)
from tl_steer.monitoring.evidence import Effects, references, replays_of, spoken_effects
from tl_steer.monitoring.file import load_panel, save_panel
from tl_steer.monitoring.identity import Identity, identity_of
from tl_steer.monitoring.panel import Panel, calibrated
from tl_steer.monitoring.reader import Phase, Reader, Standard
from tl_steer.monitoring.session import OnAlert, Watch
from tl_steer.monitoring.soundness import refuse_unsound
from tl_steer.monitoring.statistics.categories import Clusters, Grouping
from tl_steer.monitoring.traffic import Traffic, observe
from tl_steer.monitoring.watch import watch_torch

# Shares of the clean requests that detectors are fitted on, and that scales come from.
FIT_SHARE, SCALE_SHARE = 0.4, 0.15
_EXAMPLES = 4
# One is best where clean requests are much alike, the other where they are of many kinds.
LOOKED_FOR: tuple[Score, ...] = (WhitenedCosine(), LocalMatchedFilter())


class Monitor(Panel):
    """A bank on the look-out; make one with `fit` or `load`.

    `score` (pure, offline) and everything it holds are documented in `Panel`.
    """

    @classmethod
    @typed
    def fit(
        cls,
        model: HookedModel,
        bank: Bank,
        clean_prompts: Prompts | TokenBatch,
        *,
        sites: Sequence[Point] | None = None,
        score: Score | Sequence[Score] | None = LOOKED_FOR,
        unknown: Score | None = Unexplained(),  # noqa: B008 (frozen)
        namer: Score | None = Recurrence(),  # noqa: B008 (frozen)
        categories: Grouping | None = Clusters(),  # noqa: B008 (frozen)
        ends: float | int = 0,
        horizon: int = 16,
        temperature: float | int | None = None,
        only: str | Sequence[str] | None = None,
        effect_prompts: int = 16,
        seed: int = 0,
        batch_rows: int = 32,
        engine: Engine | None = None,
    ) -> "Monitor":
        """Fit a monitor on prompts that are clean, and like those of deployment.

        Args:
            clean_prompts: a few hundred, of every kind that deployment will see; whatever is not
                among them is an anomaly. Under half calibrates: at least 3 / alpha are needed
                for alarms at alpha. None may have been used to train the bank's organism or tune
                anything here.
            sites: target hook points to read; the bank's own unless given. Each costs its share of
                time, and one alarm level covers all.
            score: what compares activations with vectors; any `detectors.Score`, or several,
                each of which is a part of its own. `None` leaves the bank out.
            unknown: what finds anomalies that no vector explains; `None` does without.
            namer: what tells which vector it is by activations, once there is an alarm, where no
                vector's replay says what the answer said; `None` leaves names to `score` alone. It
                costs nothing until then.
            categories: what tells kinds of requests apart, so that each is compared with its own
                (`statistics.categories`); as it is, where there are calibration requests for two or
                more. `None` compares every request with all.
            ends: how much of what is odd at a prompt's end is added to every generated token. With
                0, only answers raise alarms; with 1, prompts do as well, before anything is said,
                and harmless requests in new words do so more often. A horizon of 0 needs 1.
            horizon: generated tokens to score. Deployment must not score more: longer requests have
                more chances of a false alarm.
            temperature: that of deployment; `None` is greedy.
            only: "dangerous", say: only vectors so marked (`tl_steer.banks.verdict.mark`).
            effect_prompts: clean requests that vectors' effects are measured on. Leave those that
                the bank was learned on out of `clean_prompts`: there, most vectors do what they do
                nowhere else, and would be named for it.
            engine: who measures effects, in batches of vectors and requests, such as
                `models.Ray(workers=8, gpus=0.5)`, for a model that came from `load_model`; this
                process where there is none.

        Raises:
            ForeignModelError: the bank was made for another model.
            HookPointError, PromptError, SettingError: bad arguments.
            NotFiniteError: the model overflows, on a clean prompt or under a vector.
            WorkerError: workers of the engine die again and again.
        """
        check_fits(model, bank.provenance)
        asked = [bank.target.name] if sites is None else sites
        places = [resolve(model, site, target=True) for site in asked]
        names = [place.name for place in places]
        chosen = bank if only is None else marked(bank, only)
        tokens = tokenize(model, clean_prompts)
        traffic = observe(
            model,
            tokens,
            sites=names,
            horizon=horizon,
            temperature=temperature,
            seed=seed,
            batch_rows=batch_rows,
        )
        split = split_of(len(traffic), seed=seed)
        few = traffic[split[0][:effect_prompts]]
        return cls.of(
            chosen,
            traffic,
            spoken_effects(model, chosen, few, engine=engine),
            identity_of(model, tokens, names),
            split=split,
            score=score,
            unknown=unknown,
            namer=namer,
            categories=categories,
            ends=ends,
            settings={
                "temperature": temperature,
                "effect_prompts": effect_prompts,
                "seed": seed,
            },
            sites=places,
        )

    @classmethod
    def of(
        cls,
        bank: Bank,
        traffic: Traffic,
        found: dict[str, Effects],
        identity: Identity,
        *,
        split: tuple[list[int], list[int], list[int]],
        sites: Sequence[Any],
        score: Score | Sequence[Score] | None = LOOKED_FOR,
        unknown: Score | None = Unexplained(),  # noqa: B008 (frozen)
        namer: Score | None = Recurrence(),  # noqa: B008 (frozen)
        categories: Grouping | None = Clusters(),  # noqa: B008 (frozen)
        ends: float | int = 0,
        settings: dict[str, Any] | None = None,
    ) -> "Monitor":
        """`fit` on what has been gathered already: one gathering, many monitors. No model runs.

        Raises:
            SettingError: neither a score nor an anomaly detector, or nothing that counts.
            NotFiniteError: NaN or infinity among the activations, clean or under a vector.
        """
        scores = _several(score)
        unknown, namer = (object_of("Monitor: a score", one) for one in (unknown, namer))
        if not scores and unknown is None:
            raise SettingError("score=None and unknown=None leave nothing to detect with.")
        horizon = traffic.mask.shape[1] - 1
        if not 0 <= ends < math.inf or not (ends or horizon):
            raise SettingError(
                f"ends={ends}, horizon={horizon}: nothing would count. Prompts' ends do with "
                "ends=1, answers with a horizon of 1 or more."
            )
        if not scores:
            namer = None  # there is nothing to name
        # In the order in which a forward pass reaches them: the last completes a token.
        sites = sorted(sites, key=lambda site: site.order)
        names = [site.name for site in sites]
        _refuse_overflow(traffic, found, names)
        fit, scale, rest = (traffic[rows] for rows in split)
        phases = []
        for both in references(fit, found, names):
            first, second = (
                Phase(
                    known=tuple(Standard.bare(each(reference), len(bank)) for each in scores),
                    unknown=None if unknown is None else unknown(reference),
                    namer=None if namer is None else namer(reference),
                )
                for reference in both
            )
            phases.append((first, second))
        last_tokens = fit.activations[names[-1]][:, 0].float()
        groups = (categories or Clusters(most=1))(last_tokens, len(rest))
        bare = Reader(
            tuple(phases),
            groups,
            torch.zeros(
                len(groups), len(names), 2, len(scores) + 1, 3, dtype=torch.float32, device="cpu"
            ),
            float(ends),
        )
        reader = bare.scaled([scale.activations[n] for n in names], scale.mask)
        told = {
            "score": scores,
            "unknown": unknown,
            "namer": namer,
            "categories": categories,
            "ends": ends,
        }
        sizes = {"fit": len(fit), "scale": len(scale), "calibration": len(rest)}
        made = cls(
            bank=bank,
            sites=tuple(sites),
            reader=reader,
            calibration=calibrated(
                reader,
                [rest.activations[n] for n in names],
                rest.mask,
                dtype=identity.fingerprint.dtype,
            ),
            identity=identity,
            horizon=horizon,
            examples=fit.prompts[:_EXAMPLES],
            settings={k: _described(v) for k, v in told.items()} | sizes | (settings or {}),
            replays=replays_of(found[names[-1]].said if namer else None, fit),
        )
        refuse_unsound(made)
        return made

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, the bank with it.

        Raises:
            SettingError: a score of your own returns a detector that is not registered
                (`tl_steer.monitoring.detectors.register`).
        """
        return save_panel(self, path)

    @classmethod
    def load(cls, path: str | Path) -> "Monitor":
        """Read a monitor; no model is needed.

        Raises:
            BankFileError: the file is missing, damaged, or no monitor.
        """
        found = load_panel(path)
        return cls(**vars(found))

    def attach(
        self,
        module: nn.Module,
        *,
        tokenizer: Any = None,
        alpha: float | int = 0.01,
        log: str | Path | None = None,
        drift: float | int | None = 0.001,
        on_alert: OnAlert | None = None,
        chunk: int = 8,
    ) -> AbstractContextManager[Watch]:
        """`watch` for a plain transformers model: `with monitor.attach(module) as w: ...`.

        It raises what `watch_torch` does.
        """
        return watch_torch(
            module,
            self,
            tokenizer=tokenizer,
            alpha=alpha,
            log=log,
            drift=drift,
            on_alert=on_alert,
            chunk=chunk,
        )

    def __repr__(self) -> str:
        sites = ", ".join(site.name for site in self.sites)
        return (
            f"Monitor of {len(self.bank)} vectors at {sites}: prompt's end and {self.horizon} "
            f"generated tokens; {self.settings.get('score')} + {self.settings.get('unknown')}; "
            f"{' + '.join(map(str, self.calibration.sizes))} calibration requests"
        )


def _refuse_overflow(traffic: Traffic, found: dict[str, Effects], sites: Sequence[str]) -> None:
    for name in sites:
        fine = traffic.activations[name].float().square().sum(dim=2).isfinite()
        refuse_unscorable(fine, traffic.mask)
        of_vector = [each.flatten(1) for each in (*found[name].responses, *found[name].steered)]
        lost = ~torch.cat(of_vector, dim=1).float().square().isfinite().all(dim=1)
        if bool(lost.any()):
            raise NotFiniteError(
                f"Vector {int(lost.nonzero()[0])} makes activations at {name} NaN or infinite: the "
                "model overflows under it (half precision, or too large a radius). Leave it out of "
                "the bank."
            )


def _several(score: Score | Sequence[Score] | None) -> tuple[Score, ...]:
    if score is None:
        return ()
    each = (score,) if callable(score) else tuple(score)
    return tuple(object_of("Monitor: a score", one) for one in each)


def _described(value: Any) -> str:
    """For people to read."""
    if isinstance(value, tuple):
        return " + ".join(map(describe, value)) or "None"
    return describe(value)


def split_of(n: int, *, seed: int = 0) -> tuple[list[int], list[int], list[int]]:
    """Requests to fit on, to scale by and to calibrate with; at random, so that all are alike.

    Raises:
        PromptError: too few for all three.
    """
    order = list(range(n))
    random.Random(seed).shuffle(order)
    first, second = round(FIT_SHARE * n), round((FIT_SHARE + SCALE_SHARE) * n)
    parts = order[:first], order[first:second], order[second:]
    if min(map(len, parts)) < 2:
        raise PromptError(
            f"{n} clean prompts are too few to fit, scale and calibrate on. Give a few hundred, of "
            "every kind that deployment will see."
        )
    return parts
