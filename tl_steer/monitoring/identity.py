"""What a monitor was fitted on, and whether what it now sees is that.

Detectors are statements about exact activations: another dtype, a model whose weights were folded
or centred, or another chat template gives other ones, and false alarms nobody promised. So more is
compared than a bank needs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.errors import ForeignModelError, PromptError
from tl_steer.models.bare import fixed_tokens
from tl_steer.models.fingerprint import Fingerprint, fingerprint
from tl_steer.models.lookup import resolve
from tl_steer.models.model import HookedModel, context_of, model_name
from tl_steer.models.prompt_row import templated
from tl_steer.models.rows import ends_of
from tl_steer.models.state import without_hooks
from tl_steer.models.taps import glance, host_of
from tl_steer.models.tokens import TokenBatch, chat, tokenize

# Relative distance at which activations of the same tokens count as another model's.
_TOLERANCE = {"float32": 1e-3, "float64": 1e-3}
_HALF_TOLERANCE = 0.03


@dataclass(frozen=True, eq=False)
class Identity:
    """A model, its arithmetic, and how it is prompted.

    Attributes:
        fingerprint: `models.fingerprint`.
        checked: raw activations of eight fixed tokens at every site (fewer where the context ends
            before), not centred and not scaled.
        prefix, suffix: tokens that every prompt began and ended with (the chat template's), empty
            where prompts were free text.
        end: the token that ends an answer, or the tokens, behind which nothing is scored.
    """

    model: str
    fingerprint: Fingerprint
    checked: Float[Tensor, "site eight d"]
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    end: int | tuple[int, ...] | None

    @property
    def ends(self) -> tuple[int, ...]:
        """All tokens that end an answer."""
        if isinstance(self.end, tuple):
            return self.end
        return () if self.end is None else (self.end,)

    def refuse_other_model(
        self, dtype: torch.dtype, run: Callable[[Tensor], Sequence[Tensor]]
    ) -> None:
        """Run the fixed tokens and compare.

        Args:
            dtype: of the model's weights.
            run: token ids `[1 8]` to activations `[1 8 d]` at every site.

        Raises:
            ForeignModelError: with what differs.
        """
        name = str(dtype).removeprefix("torch.")
        if name != self.fingerprint.dtype:
            raise ForeignModelError(
                f"This monitor was fitted in {self.fingerprint.dtype}, and the model computes in "
                f"{name}: its thresholds mean nothing there. Fit it anew in {name}."
            )
        ids = fixed_tokens(self.fingerprint.d_vocab, most=self.checked.shape[1])
        seen = [at.float().cpu() for at in run(ids)]
        tolerance = _TOLERANCE.get(name, _HALF_TOLERANCE)
        for i, (here, there) in enumerate(zip(seen, self.checked, strict=True)):
            alike = here[0].shape == there.shape
            apart = float((here[0] - there).norm() / there.norm()) if alike else float("nan")
            if not apart <= tolerance:
                raise ForeignModelError(
                    f"This monitor was fitted on {self.model}. Here the same tokens give other "
                    f"activations at its site {i} (relative distance {apart:.3g}): another model, "
                    "changed or processed weights, or hooks that edit them. Fit a monitor for "
                    "this one."
                )

    def refuse_other_template(self, prompts: Sequence[Tensor]) -> None:
        """Raises:
        PromptError: a prompt does not begin and end as all prompts did that the monitor knows.
        """
        for i, row in enumerate(prompts):
            ids = tuple(int(token) for token in row)
            n, m = len(self.prefix), len(self.suffix)
            if len(ids) < n + m or ids[:n] != self.prefix or ids[len(ids) - m :] != self.suffix:
                raise PromptError(
                    f"Prompt {i} does not have the template that this monitor was fitted on: its "
                    f"prompts begin with tokens {list(self.prefix)} and end with "
                    f"{list(self.suffix)}; this one is {list(ids[: n + 2])} ... "
                    f"{list(ids[-m - 2 :])}. Fit a monitor on prompts like those that it will see."
                )


def shared_ends(rows: Sequence[Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The longest common beginning and end of token rows; they never overlap."""
    lists = [[int(token) for token in row] for row in rows]
    shortest = min(map(len, lists))
    same = [len({row[i] for row in lists}) == 1 for i in range(shortest)]
    n = [*same, False].index(False)
    back = [len({row[-1 - i] for row in lists}) == 1 for i in range(shortest - n)]
    m = [*back, False].index(False)
    return tuple(lists[0][:n]), tuple(lists[0][len(lists[0]) - m :])


def identity_of(model: HookedModel, tokens: TokenBatch, sites: Sequence[str]) -> Identity:
    """What a monitor on these prompts is tied to."""
    mark = fingerprint(model)
    host = host_of(model, [resolve(model, name, target=True) for name in sites])
    with without_hooks(model):
        seen = glance(host, fixed_tokens(mark.d_vocab, most=context_of(model)))
    prefix, suffix = _template(model, tokens)
    ends = ends_of(model)
    return Identity(
        model=model_name(model),
        fingerprint=mark,
        checked=torch.stack([at[0].float().cpu() for at in seen]),
        prefix=prefix,
        suffix=suffix,
        end=ends if len(ends) > 1 else next(iter(ends), None),
    )


def _template(model: HookedModel, tokens: TokenBatch) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens around every prompt: the chat template's where all prompts end as it does, else a
    BOS token that all begin with."""
    rows: list[Tensor] = [row.cpu() for row in tokens.rows()]
    bos = (int(rows[0][0]),) if bool(tokens.has_bos.all()) else ()
    if not templated(model):
        return bos, ()
    # Two contents that differ, also in length, leave the template between them.
    asked = tokenize(model, [chat("Why? 7"), chat("No, zebras please.")])
    prefix, suffix = shared_ends([row.cpu() for row in asked.rows()])
    m = len(suffix)
    ends = all(len(row) > m and tuple(row[len(row) - m :].tolist()) == suffix for row in rows)
    if not suffix or not ends:
        return bos, ()
    # A system turn of one's own changes how prompts begin: keep what all have in common.
    start = shared_ends(
        [
            *(row[: len(prefix)] for row in rows),
            torch.tensor(prefix, dtype=torch.long, device="cpu"),
        ]
    )[0]
    return start, suffix
