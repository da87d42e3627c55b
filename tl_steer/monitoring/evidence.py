"""What a monitor is fitted on: clean traffic, and what every vector does to it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.banks.provenance import check_fits
from tl_steer.errors import SettingError
from tl_steer.files.signatures import checked
from tl_steer.hook_points.positions import EVERYWHERE
from tl_steer.models.engine import Engine, dealt, setup_of
from tl_steer.models.lookup import resolve
from tl_steer.models.model import HookedModel, device_of
from tl_steer.models.rows import Row, RowBatch, row_batches, run_rows
from tl_steer.models.state import frozen
from tl_steer.models.taps import host_of
from tl_steer.models.tokens import TokenBatch, tokenize
from tl_steer.monitoring.detectors.detector import Reference
from tl_steer.monitoring.replays import NOTHING, Replays
from tl_steer.monitoring.traffic import Kept, Traffic, kept_of
from tl_steer.perturbations.perturbation import Perturbation

# Activations under a vector are kept at few generated tokens of a prompt: neighbours are alike.
_KEPT_TOKENS = 4


@dataclass(frozen=True, eq=False)
class Effects:
    """What every vector of a bank does at one site, at prompts' ends and at generated tokens.

    Attributes:
        responses: mean change, over prompts; among generated tokens, over those of a prompt first.
        steered: activations under the vector, prompt after prompt: one at each end, and as many
            generated tokens of each (some twice, where an answer is short).
        said: what the vectors made the model say, as `Replays.ids`; `None` where only activations
            were kept.
    """

    responses: tuple[Float[Tensor, "vec d"], Float[Tensor, "vec d"]]
    steered: tuple[Float[Tensor, "vec prompt d"], Float[Tensor, "vec token d"]]
    said: Int[Tensor, "vec prompt pos"] | None = None

    def __getitem__(self, rows: Sequence[int] | Tensor) -> "Effects":
        """Those of some of the vectors."""
        index = torch.as_tensor(rows, dtype=torch.long)
        return Effects(
            (self.responses[0][index], self.responses[1][index]),
            (self.steered[0][index], self.steered[1][index]),
            None if self.said is None else self.said[index],
        )


@checked
def spoken_effects(
    model: HookedModel,
    bank: Bank,
    traffic: Traffic,
    *,
    batch_rows: int = 64,
    engine: Engine | None = None,
) -> dict[str, Effects]:
    """Measure a bank's effects on the clean requests of `traffic`, at every site it has.

    Every vector is added at every token and answers in its own words, greedily, so a response at
    generated tokens is what the vector does and what it makes the model say. (With clean answers
    held fixed, a vector that brings a behaviour out leaves no trace of it.) Costs a generation for
    every vector and request; one to two dozen requests are enough for means. An `engine`
    (`models.Ray`) deals them out in batches, for a model that came from `load_model`.

    Raises:
        ForeignModelError: the bank was made for another model.
        SettingError: no request; or with an engine, a model that did not come from `load_model`.
        ModelError: the model cannot generate.
        WorkerError: workers of the engine die again and again.
    """
    if not len(traffic) or batch_rows < 1:
        raise SettingError(f"{len(traffic)} requests, batch_rows={batch_rows}: expected 1 or more.")
    check_fits(model, bank.provenance)
    everywhere = replace(bank, positions=EVERYWHERE).perturbation()
    tokens = tokenize(model, list(traffic.prompts))
    horizon = traffic.mask.shape[1] - 1
    listening = _Listening(everywhere, tokens, tuple(traffic.activations), horizon)
    batches = [replace(b, ids=b.ids.cpu()) for b in row_batches(tokens, len(bank), batch_rows)]
    made: dict[Row, Kept] = {}
    with dealt(engine, setup_of(engine, model, listening), batches) as outcomes:
        for outcome in outcomes:
            made.update(zip(outcome.item.rows, outcome.get(), strict=True))
    heard = [[made[Row(v, p)] for p in range(len(tokens))] for v in range(len(bank))]
    said = _answers(heard, horizon)
    return {
        name: replace(
            effects_of([[kept.activations[i] for kept in row] for row in heard], traffic, name),
            said=said,
        )
        for i, name in enumerate(traffic.activations)
    }


@dataclass(frozen=True, eq=False)
class _Listening:
    """What hears a batch of answers under the vectors, here or in a worker."""

    edits: Perturbation
    tokens: TokenBatch
    sites: tuple[str, ...]
    horizon: int

    def __call__(self, model: HookedModel) -> Callable[[RowBatch], Sequence[Kept]]:
        sites = [resolve(model, name, target=True) for name in self.sites]
        host, device = host_of(model, sites), device_of(model)

        def listen(ids: Tensor, rows: list[Row]) -> list[Kept]:
            return kept_of(model, ids, host, self.horizon)

        def hear(batch: RowBatch) -> Sequence[Kept]:
            with frozen(model), torch.no_grad():
                there = replace(batch, ids=batch.ids.to(device))
                return run_rows(model, self.edits, self.tokens, there, listen)

        return hear


def _answers(heard: list[list[Kept]], horizon: int) -> Int[Tensor, "vec prompt pos"] | None:
    """The generated tokens that were read back in; `None` where none can be."""
    if not horizon:
        return None
    shape = len(heard), len(heard[0]), horizon
    said = torch.full(shape, NOTHING, dtype=torch.long, device="cpu")
    for v, row in enumerate(heard):
        for p, kept in enumerate(row):
            ids = kept.ids[1 : 1 + horizon]
            said[v, p, : len(ids)] = ids
    return said


def replays_of(said: Int[Tensor, "vec prompt pos"] | None, clean: Traffic) -> Replays | None:
    """With what is said to clean requests; `None` where nothing is known of what vectors say."""
    if said is None:
        return None
    return Replays(said, clean.ids[:, 1:].masked_fill(~clean.mask[:, 1:], NOTHING))


def effects_of(
    steered: Sequence[Sequence[Float[Tensor, "_ d"]]], clean: Traffic, site: str
) -> Effects:
    """Effects at one site from what was heard there, by vector and request: activations at the
    prompt's end and at every generated token."""
    at, mask = clean.activations[site].float(), clean.mask
    unsteered = [rows[own] for rows, own in zip(at, mask, strict=True)]
    each = [_spoken(list(rows), unsteered) for rows in steered]
    first, second, ends, few = (torch.stack(part) for part in zip(*each, strict=True))
    return Effects((first, second), (ends, few))


def _spoken(
    steered: list[Float[Tensor, "_ d"]], clean: list[Float[Tensor, "_ d"]]
) -> tuple[Tensor, ...]:
    """Of one vector, two responses (the mean over prompts, each with the mean of its generated
    tokens, less that of the clean answers) and activations. A prompt without a generated token adds
    nothing there."""
    at_end = torch.stack([rows[0] for rows in steered])
    first = (at_end - torch.stack([rows[0] for rows in clean])).mean(dim=0)
    said, unsteered = ([rows[1:] for rows in each if len(rows) > 1] for each in (steered, clean))
    spoke = bool(said and unsteered)
    second = _mean_of_means(said) - _mean_of_means(unsteered) if spoke else first
    few = torch.cat([rows[_spread(range(len(rows)))] for rows in steered])
    return first, second, at_end, few


def _spread(places: Sequence[int]) -> list[int]:
    """As many of every prompt's places: of its generated tokens, or its end where there are none.
    Place 0 is the end."""
    said = places[1:] or places
    even = (
        torch.linspace(0, len(said) - 1, _KEPT_TOKENS, dtype=torch.float32, device="cpu")
        .long()
        .tolist()
    )
    return [said[i] for i in even]


def _mean_of_means(rows: list[Float[Tensor, "_ d"]]) -> Float[Tensor, " d"]:
    return torch.stack([each.mean(dim=0) for each in rows]).mean(dim=0)


def references(
    traffic: Traffic, found: dict[str, Effects], sites: Sequence[str]
) -> Iterator[tuple[Reference, Reference]]:
    """For each site, what its two phases' detectors are fitted to. A phase without any clean token
    (horizon 0) borrows the other's."""
    for name in sites:
        at, effect = traffic.activations[name].float(), found[name]
        everything = at[traffic.mask]
        clean = at[:, 0], at[:, 1:][traffic.mask[:, 1:]]
        spoken = bool(len(clean[1]))
        phase_of = (0, 1) if spoken else (0, 0)
        first, second = (
            Reference(
                clean=clean[i],
                responses=effect.responses[i],
                steered=effect.steered[i],
                background=everything,
                per_prompt=effect.steered[i].shape[1] // effect.steered[0].shape[1],
            )
            for i in phase_of
        )
        yield first, second
