"""Which token of which prompt the columns of a forward pass are.

A perturbation that edits some tokens has to find them in whatever is run: prompts padded on either
side, generation with a cache or without, the same prompts once more. So the ids are read off the
embedding as they go in, the padding off the model's own `attention_mask` or by finding the prompts
among the ids, and the place in a cached run off the cache that the block is called with. What does
not fit the prompts is refused: it would be edited somewhere, and nobody would see where.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tl_steer.errors import PromptError, ShapeError
from tl_steer.files.undo import Scope
from tl_steer.models.model import HookedModel
from tl_steer.models.state import listen
from tl_steer.models.tokens import TokenBatch

_ALL = -1  # of a cache that does not count


def follow(
    scope: Scope, model: HookedModel, tokens: TokenBatch, layers: Iterable[int]
) -> "Passes | None":
    """Follow what the model runs until the scope ends; `None` where it has no module `embed` that
    could be listened to."""
    embed = getattr(model, "embed", None)
    if not isinstance(embed, nn.Module):
        return None
    passes = Passes([row.cpu() for row in tokens.rows()])
    # The model itself, and what a bridge wraps: hf_generate calls that one alone.
    for module in {id(m): m for m in (model, getattr(model, "original_model", None))}.values():
        if isinstance(module, nn.Module):
            listen(scope, module, passes.called, before=True)
    passes.listen(scope, embed, {layer: model.blocks[layer] for layer in layers})
    return passes


class Passes:
    """The passes over some prompts, one at a time.

    A pass begins where ids are embedded. With a cache it goes on from the one before; without, the
    whole text is run again.
    """

    def __init__(self, prompts: Sequence[Int[Tensor, " _"]]) -> None:
        self.shifts = True  # whether edits are told of padding on the left
        self.prompts = list(prompts)
        self.lengths = [len(row) for row in self.prompts]
        self._mask: Tensor | None = None
        self._ids: Tensor | None = None  # embedded, and not yet in a block
        self._entered: set[int] = set()
        self._first: Tensor | None = None  # `places` of the first pass
        self._known: Tensor | None = None  # ids of the run so far
        self._width = 0
        self._ends: list[int] = []  # behind the last real token of every row of the first pass

    def listen(self, scope: Scope, embed: nn.Module, blocks: Mapping[int, nn.Module]) -> None:
        """Be told of what is embedded, and of what enters these blocks, until the scope ends."""
        listen(scope, embed, self.embedded, before=True)
        for layer, block in sorted(blocks.items()):
            listen(scope, block, self.entering(layer), before=True)

    def called(self, _m: Any, _args: Any, kwargs: Mapping[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        self._mask = self._mask if mask is None else mask

    def embedded(self, _m: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        ids = args[0] if args else next((v for v in kwargs.values() if isinstance(v, Tensor)), None)
        if isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_floating_point():
            self._ids = ids.detach().cpu()

    def entering(self, layer: int) -> Any:
        """In front of a block whose edits want to know."""

        def enter(_m: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            stream = args[0] if args else kwargs["hidden_states"]
            if self._ids is not None:
                ids, self._ids = self._ids, None
                self._entered = {layer}
                self._begin(ids, stream.shape[1], _cached(args[1:], kwargs, layer))
            elif layer in self._entered or self._known is None:
                self._known = None  # another pass, and nobody knows of what
            else:
                self._entered.add(layer)

        return enter

    def places(self, shape: Sequence[int]) -> Int[Tensor, "batch run"]:
        """Where in its text every token of this pass stands, from 0 on; -1 for padding.

        Raises:
            PromptError: other prompts are run.
        """
        if self._known is None or self._first is None:
            raise PromptError(
                "The tokens to be edited cannot be found: the model was not called with token ids, "
                "but with embeddings or from a later layer on."
            )
        width = self._known.shape[1]
        # Behind the first pass stands what was generated since, in every row.
        behind = torch.arange(max(0, width - self._width), device="cpu")
        since = self._first.amax(dim=1, keepdim=True) + 1 + behind
        return torch.cat([self._first, since], dim=1)[:, width - shape[1] :]

    def _places_in(
        self, columns: Int[Tensor, "batch longest"], width: int
    ) -> Int[Tensor, "batch width"]:
        """`places` of the first pass: the prompts, and what follows them in it."""
        places = torch.full((len(columns), width), -1, dtype=torch.long, device="cpu")
        for row, (at, n) in enumerate(zip(columns, self.lengths, strict=True)):
            places[row, at[:n]] = torch.arange(n, device="cpu")
            first, end = int(at[n - 1]) + 1, self._ends[row]
            places[row, first:end] = torch.arange(n, n + end - first, device="cpu")
        return places

    def _begin(self, ids: Tensor, width: int, cached: int | None) -> None:
        known, self._known = self._known, None
        mask, self._mask = self._mask, None
        before = known.shape[1] if known is not None else 0
        if known is not None and len(known) == len(ids):
            at = before if cached == _ALL else cached
            if at and at <= before and width == ids.shape[1]:
                known = known[:, :at]
                if at < self._width:
                    raise PromptError("A part of the prompts came out of a cache: run them whole.")
                return self._go_on(torch.cat([known, ids], dim=1))
            if ids.shape[1] == 1 and width == before + 1 and width > 1:
                # HookedTransformer without a cache: it embeds the new token alone.
                return self._go_on(torch.cat([known, ids], dim=1))
            if width > before and torch.equal(ids[:, :before], known):
                return self._go_on(ids)
        if cached:
            raise PromptError(
                "The model goes on from a cache that was filled before this block, so the prompts "
                "in it are unknown: fill it inside."
            )
        self._first = self._places_in(self._found(ids, mask), ids.shape[1])
        self._known, self._width = ids, ids.shape[1]

    def _go_on(self, ids: Tensor) -> None:
        for row, end in enumerate(self._ends):
            if end < self._width:
                raise PromptError(
                    f"Prompt {row} is padded on the right, and what is generated stands behind the "
                    "padding: the model does not go on from its last token. Use ts.generate, give "
                    "model.generate the texts, or prompts of one length."
                )
        self._known = ids

    def _found(self, ids: Tensor, mask: Any) -> Int[Tensor, "batch longest"]:
        """The columns of every prompt token in a first pass."""
        if len(ids) != len(self.prompts):
            raise ShapeError(
                f"The model ran on {len(ids)} rows, but the prompts given are {len(self.prompts)}."
            )
        if ids.shape[1] < min(self.lengths):
            raise ShapeError(
                f"The model ran on {ids.shape[1]} tokens, but the prompts given have "
                f"{max(self.lengths)}: pass the prompts that you run."
            )
        told = isinstance(mask, Tensor) and mask.shape == ids.shape and not bool(mask.all())
        columns = self._by_mask(ids, mask.cpu()) if told else self._by_side(ids)
        if not self.shifts and any(int(at[-1]) != len(at) - 1 for at in columns):
            raise PromptError(
                "These prompts are padded on the left, and the hooks of this perturbation count "
                "from the right-padded prompts: run prompts of one length."
            )
        out = torch.zeros(len(ids), max(self.lengths), dtype=torch.long, device="cpu")
        for row, at in enumerate(columns):
            out[row, : len(at)] = at
        return out

    def _by_mask(self, ids: Tensor, told: Tensor) -> list[Tensor]:
        """The real tokens are those that the model was told of; what follows a prompt among them
        is its answer."""
        columns, self._ends = [], []
        for row, (own, mask) in enumerate(zip(ids, told, strict=True)):
            at = mask.nonzero().flatten()
            n = self.lengths[row]
            if not torch.equal(own[at[:n]], self.prompts[row]):
                raise self._other(row, own[at])
            if len(at) > n and int(at[n]) != int(at[n - 1]) + 1:
                raise PromptError(f"There is padding between prompt {row} and what follows it.")
            columns.append(at[:n])
            self._ends.append(int(at[-1]) + 1)
        return columns

    def _by_side(self, ids: Tensor) -> list[Tensor]:
        """Without a mask: all prompts at the beginning of their rows, or all at the end."""
        width, longest = ids.shape[1], max(self.lengths)
        both = list(zip(ids, self.prompts, strict=True))
        right = [torch.equal(own[: len(p)], p) for own, p in both]
        left = [torch.equal(own[width - len(p) :], p) for own, p in both]
        starts = [0] * len(both)
        ragged = width > min(self.lengths) and len(set(self.lengths)) > 1
        if all(left) and (ragged or not all(right)):
            if all(right) and width != min(self.lengths):
                raise PromptError(
                    "The prompts are found both at the beginning and at the end of what is run: "
                    "pass the model its attention_mask."
                )
            starts = [width - n for n in self.lengths]
        elif not all(right):
            row = (right if any(right) else left).index(False)
            raise self._other(row, ids[row])
        elif ragged and width > longest:
            raise PromptError(
                f"Prompts of {min(self.lengths)} to {longest} tokens are run in rows of {width}, "
                "and where the padding ends is not known: pass the model its attention_mask."
            )
        self._ends = [
            width if width > longest else start + n
            for start, n in zip(starts, self.lengths, strict=True)
        ]
        return [
            torch.arange(start, start + n, device="cpu")
            for start, n in zip(starts, self.lengths, strict=True)
        ]

    def _other(self, row: int, ids: Tensor) -> PromptError:
        def short(found: Tensor) -> str:
            shown = ", ".join(str(int(token)) for token in found[:8])
            return f"[{shown}{', ...' if len(found) > 8 else ''}]"

        return PromptError(
            f"Row {row} runs the tokens {short(ids)}, which are not prompt {row} of tokens= with "
            f"{short(self.prompts[row])}: pass the prompts that you run, in their order, and a new "
            "block for others."
        )


def _cached(args: Sequence[Any], kwargs: Mapping[str, Any], layer: int) -> int | None:
    """How many tokens lie in the cache that a block is called with: `None` without one, `_ALL` for
    one that does not count them, as recurrent models have it."""
    for value in (*args, *kwargs.values()):
        if hasattr(value, "get_seq_length"):
            try:
                count = int(value.get_seq_length(layer))
            except ValueError:  # of a layer that counts none, as linear attention does
                count = 0
            return _ALL if count == 0 and _has_state(value, layer) else count
        if isinstance(getattr(value, "past_keys", None), Tensor):
            return int(value.past_keys.shape[1])
    return _ALL if _has_state(kwargs.get("cache_params"), layer) else None


def _has_state(cache: Any, layer: int) -> bool:
    found = getattr(cache, "has_previous_state", False)
    try:
        return bool(found(layer) if callable(found) else found)
    except ValueError:  # of a layer with attention, which has none
        return False
