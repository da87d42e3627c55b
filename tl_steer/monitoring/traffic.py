"""Requests as a monitor sees them: activations at the prompt's end and at generated tokens."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_steer.errors import ModelError, SettingError
from tl_steer.files.signatures import checked
from tl_steer.hook_points.site import Point
from tl_steer.models.caches import refuse_no_text
from tl_steer.models.lookup import resolve
from tl_steer.models.model import HookedModel
from tl_steer.models.rows import before_end, continued, ends_of
from tl_steer.models.state import frozen, seeded
from tl_steer.models.taps import Host, host_of, listening
from tl_steer.models.tokens import Prompts, TokenBatch, decode, refuse_beyond_context, tokenize


@dataclass(frozen=True, eq=False)
class Traffic:
    """Some requests, each with what it said. Position 0 is the prompt's end, position i the i-th
    generated token, as the model read it back in; the last generated token never is.

    Attributes:
        activations: one tensor per site.
        mask: true where a token was generated, and at position 0.
        ids: the last prompt token, then the generated ones.
        prompts: token ids of each prompt.
        texts: the prompts, and `answers`, what was generated, for people to read.
    """

    activations: dict[str, Float[Tensor, "request pos d"]]
    mask: Bool[Tensor, "request pos"]
    ids: Int[Tensor, "request pos"]
    prompts: tuple[Int[Tensor, " _"], ...]
    texts: tuple[str, ...]
    answers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, rows: Sequence[int] | Tensor) -> "Traffic":
        """Some of the requests."""
        index = torch.as_tensor(rows, dtype=torch.long)
        chosen = index.tolist()
        return dataclasses.replace(
            self,
            activations={name: values[index] for name, values in self.activations.items()},
            mask=self.mask[index],
            ids=self.ids[index],
            prompts=tuple(self.prompts[i] for i in chosen),
            texts=tuple(self.texts[i] for i in chosen),
            answers=tuple(self.answers[i] for i in chosen),
        )


@checked
def observe(
    model: HookedModel,
    prompts: Prompts | TokenBatch,
    *,
    sites: Sequence[Point],
    horizon: int = 16,
    temperature: float | int | None = None,
    seed: int = 0,
    batch_rows: int = 32,
) -> Traffic:
    """Let the model answer prompts, and keep what a monitor would look at.

    Args:
        sites: target hook points, as `elicit` takes them.
        horizon: generated tokens to look at; 0 looks at prompts' ends alone.
        temperature: `None` decodes greedily. Use what deployment uses: it decides which activations
            are normal.
        batch_rows: requests per batch; lower it if memory runs out.

    Raises:
        HookPointError, PromptError, SettingError: bad arguments, before any work.
        ModelError: the model cannot generate, its cache is broken, or a hook point never fired.
    """
    if horizon < 0 or batch_rows < 1 or not sites:
        raise SettingError(
            f"horizon={horizon}, batch_rows={batch_rows}, {len(sites)} sites: expected at least 0, "
            "1 and 1."
        )
    places = [resolve(model, site, target=True) for site in sites]
    host, names = host_of(model, places), [place.name for place in places]
    if horizon:
        refuse_no_text(model)
    tokens = tokenize(model, prompts)
    refuse_beyond_context(model, tokens, horizon, knob="horizon")
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for i, length in enumerate(tokens.lengths.tolist()):
        by_length[length].append(i)
    kept: dict[int, Kept] = {}
    sampling = {} if temperature is None else {"do_sample": True, "temperature": temperature}
    with frozen(model), torch.no_grad(), seeded(model, seed):
        for length, members in sorted(by_length.items()):
            for start in range(0, len(members), batch_rows):
                rows = members[start : start + batch_rows]
                ids = tokens.ids[rows, :length]
                kept.update(zip(rows, kept_of(model, ids, host, horizon, sampling), strict=True))
    return _together(model, tokens, names, [kept[i] for i in range(len(tokens))], horizon)


@dataclass(frozen=True)
class Kept:
    """One request: its last prompt token and the generated ones, and activations by site."""

    ids: Int[Tensor, " pos"]
    activations: list[Float[Tensor, "pos d"]]


def kept_of(
    model: HookedModel,
    ids: Int[Tensor, "batch prompt"],
    host: Host,
    horizon: int,
    sampling: dict[str, Any] | None = None,
) -> list[Kept]:
    """Let the model answer prompts of one length, as it is hooked now, and keep what it said."""
    keeper = _Keeper(len(host.points))
    with listening(host, keeper):
        if horizon == 0:
            model(ids, return_type=None)
        else:
            # One more: the last token is generated and never read.
            continued(model, ids, horizon + 1, **(sampling or {}))
    return keeper.rows(ends_of(model))


@dataclass
class _Keeper:
    """Listens, and remembers everything of one batch."""

    sites: int
    ids: list[Tensor] = field(default_factory=list)
    seen: list[dict[int, Tensor]] = field(default_factory=list)

    def begin(self, ids: Tensor, mask: Tensor) -> None:
        if self.ids:
            raise ModelError(
                "The model began anew in the middle of one answer, so generated tokens cannot be "
                "told from prompts: its generate() changes rows or prompts on the way."
            )
        self.ids.append(ids[:, -1].cpu())
        self.seen.append({})

    def token(self, ids: Tensor) -> None:
        self.ids.append(ids.cpu())
        self.seen.append({})

    def activation(self, site: int, residual: Tensor) -> None:
        self.seen[-1][site] = residual.float().cpu()

    def rows(self, ends: Sequence[int]) -> list[Kept]:
        if not self.seen or any(len(step) != self.sites for step in self.seen):
            raise ModelError("A hook point did not fire in every forward pass; choose another.")
        ids = torch.stack(self.ids, dim=1)
        by_site = [torch.stack([step[i] for step in self.seen], dim=1) for i in range(self.sites)]
        return [
            Kept(row[:n], [at[b, :n] for at in by_site])
            for b, row in enumerate(ids)
            for n in [spoken(row, ends)]
        ]


def spoken(ids: Int[Tensor, " pos"], ends: Sequence[int]) -> int:
    """How many tokens of a row count: those before the first that ends an answer, the prompt's end
    always."""
    return 1 + before_end(ids[1:], ends)


def _together(
    model: HookedModel, tokens: TokenBatch, sites: Sequence[str], rows: list[Kept], horizon: int
) -> Traffic:
    n, pos = len(rows), 1 + horizon
    ids, mask = (
        torch.zeros(n, pos, dtype=torch.long, device="cpu"),
        torch.zeros(n, pos, dtype=torch.bool, device="cpu"),
    )
    activations = {
        name: torch.zeros(
            n, pos, rows[0].activations[i].shape[1], dtype=torch.float32, device="cpu"
        )
        for i, name in enumerate(sites)
    }
    for r, row in enumerate(rows):
        said = min(len(row.ids), pos)
        ids[r, :said], mask[r, :said] = row.ids[:said], True
        for i, name in enumerate(sites):
            activations[name][r, :said] = row.activations[i][:said]
    return Traffic(
        activations=activations,
        mask=mask,
        ids=ids,
        prompts=tuple(row.cpu() for row in tokens.rows()),
        texts=tokens.texts,
        answers=tuple(decode(model, ids[r, 1:][mask[r, 1:]], special=False) for r in range(n)),
    )
