"""The prompts of passes for which nobody said what they are.

A pass without a cache is one of prompts, whole; what comes behind a cache was generated. The
model's `attention_mask` tells padding, on either side. So nothing has to be tokenized twice, and
what cannot be told apart that way is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tl_steer.errors import PromptError, SettingError
from tl_steer.files.undo import Scope
from tl_steer.hook_points.positions import Positions
from tl_steer.models.hooks import layer_of
from tl_steer.models.passes import Passes
from tl_steer.models.plain import PlainModel
from tl_steer.models.state import listen
from tl_steer.perturbations.edit import Edit
from tl_steer.perturbations.perturbation import Hooks


def follow_unnamed(scope: Scope, model: PlainModel, hooks: Hooks, positions: Positions) -> None:
    """Tell the hooks which tokens run, until the scope ends.

    Raises:
        SettingError: hooks of a kind's own that cannot be told.
    """
    for name, function in hooks:
        if not hasattr(function, "passes"):
            raise SettingError(
                f"The hook of this perturbation at {name} edits {positions}, and cannot be told "
                "which tokens run: let it edit every token, or use TransformerLens."
            )
    edits = [function for _, function in hooks if isinstance(function, Edit)]
    passes = UnnamedPasses(edits, positions, model.bos)
    for _, function in hooks:
        function.passes = passes  # type: ignore[attr-defined]
    # From the outside in: a wrapper such as PEFT's generates with what it wraps.
    listen(scope, model.original_model, passes.begun, before=True)
    for module in _around(model.original_model, model.blocks[0]):
        listen(scope, module, passes.called, before=True)
    layers = {layer_of(name) for name, _ in hooks}
    passes.listen(scope, model.embed, {layer: model.blocks[layer] for layer in layers})


def _around(model: nn.Module, block: nn.Module) -> list[nn.Module]:
    """The modules that a block lies in, the outermost first."""
    return [
        module
        for module in model.modules()
        if module is not block
        and not isinstance(module, nn.ModuleList)
        and any(each is block for each in module.modules())
    ]


class UnnamedPasses(Passes):
    """`Passes` whose prompts are those that the model is called with.

    Raises:
        PromptError: a pass that may be one of prompts or go on with them.
    """

    def __init__(self, edits: Sequence[Edit], positions: Positions, bos: int | None) -> None:
        super().__init__(())
        self.edits, self.positions, self.bos = edits, positions, bos

    def begun(self, *_: Any) -> None:
        self._mask = None  # of a pass that failed

    def called(self, _m: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        given = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        if self._mask is None and isinstance(given, Tensor):
            self._mask = given

    def _begin(self, ids: Tensor, width: int, cached: int | None) -> None:
        if not cached:
            self._refuse_uncached(ids)
            mask, self._mask = self._mask, None
            self._take(ids, mask)
            self._mask = mask
        elif self._known is not None and ids.shape[1] > 1:
            raise PromptError(
                f"The model reads {ids.shape[1]} tokens at once behind a cache, and whether they "
                "belong to the prompts or were generated is not known: run the prompts whole, and "
                "generate token by token."
            )
        super()._begin(ids, width, cached)

    def _refuse_uncached(self, ids: Tensor) -> None:
        before, self._known = self._known, None
        if before is None or len(before) != len(ids) or ids.shape[1] != before.shape[1] + 1:
            return
        if torch.equal(ids[:, :-1], before):
            raise PromptError(
                "The model reads what it read before and one token more, without a cache: whether "
                "that was generated is not known. Generate with use_cache=True; for other prompts, "
                "open another block."
            )

    def _take(self, ids: Int[Tensor, "batch pos"], mask: Tensor | None) -> None:
        """These are the prompts from now on."""
        real = _real(ids, mask)
        self.prompts = [own[there] for own, there in zip(ids, real, strict=True)]
        self.lengths = [len(row) for row in self.prompts]
        if min(self.lengths) == 0:
            raise PromptError(
                f"Row {self.lengths.index(0)} is nothing but padding by its attention_mask."
            )
        first = torch.stack([row[0] for row in self.prompts])
        has_bos = first == (-1 if self.bos is None else self.bos)
        lengths = torch.tensor(self.lengths, dtype=torch.long, device="cpu")
        at = torch.arange(int(lengths.max()), device="cpu")
        chosen = self.positions.select(at < lengths[:, None], has_bos)
        for edit in self.edits:
            edit.prompt = chosen


def _real(ids: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if mask.shape != ids.shape:
        raise PromptError(
            f"attention_mask is {list(mask.shape)} for token ids {list(ids.shape)}, so where "
            "padding is cannot be told: give one number for each token."
        )
    return mask.cpu().bool()
