"""What each vector changes inside a model on one prompt: a value that views are drawn from.

An `Inspection` holds no activations, only what is read off them, so that it stays small and can be
sent. Row 0 of the axis `run` is the unsteered model, row v + 1 is vector v. Along `stream` lie the
residual stream entering block 0 and leaving each block.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.files.tables import Sheet, number, shorten
from tl_steer.inspection.layout import (
    AXES as AXES,
    INSPECTION_FILE,
    PARTS as PARTS,
    TEXTS,
    refuse_header,
    refuse_kinds,
    refuse_sizes,
)
from tl_steer.inspection.of_vectors import OfVectors
from tl_steer.models.fingerprint import Fingerprint


@dataclass(frozen=True, eq=False, repr=False)
class Inspection(OfVectors):
    """Vectors of a bank on one prompt, steered beside unsteered.

    Attributes:
        prompt, model, source, target: what was run, and where.
        tokens: the prompt's tokens as text; `words` has the text of every other token id named.
        vectors: their numbers in the bank; `labels` are its notes on them.
        bank, fingerprint: the bank's digest and the model's fingerprint (`origin` has both); empty
            and None in files of version 0.1.0.
        steered: which tokens the vectors were added at.
        attention_change: total variation between steered and unsteered attention of a head,
            $\\frac12\\sum_{src}|p - p_0|$, mean over destination tokens; 0 to 1, NaN in layers
            without attention.
        kept, patterns: layer and head of the heads that change most, and their unsteered and
            steered attention (half precision).
        last_rows: where the prompt's last token looks, in every head: its unsteered and steered row
            (half precision; NaN in layers without attention). None in files of version 0.1.0.
        kl: KL(steered || unsteered) of the next token, in nats.
        gained, gained_p: tokens whose probability rises most, with (unsteered, steered)
            probability; `lost`, `lost_p` those whose falls most.
        likely, likely_lp: the likeliest next tokens and their log-probabilities.
        next_lp, next_rank: log-probability and rank (0 is the likeliest) of the prompt's own next
            token.
        response: norm of the steered minus the unsteered residual stream; `clean` is the norm of
            the unsteered one.
        added, entering: norm of what was added at the source, and of the activation it was added
            to.
        read_at: tokens at which the logit lens was read; `promoted`, `suppressed` are the tokens
            whose lens logit (less the mean over the vocabulary) rises and falls most, by how much.
        lens_gained, lens_lost: those whose lens probability rises and falls most. `lens_gained_p`,
            `lens_lost_p`, `promoted_p` and `suppressed_p` are (unsteered, steered) probabilities
            that the lens reads. None in files of version 0.1.0.
        toward, moved: tokens that effects are attributed to, and how far their logits moved behind
            the prompt.
        direct: of that, through each block's attention, its MLP, and the rest: the vector itself
            where it is added (at index 0 what changed in front of block 0).
        heads: of what goes through attention, each head's part; NaN where it cannot be split.
    """

    prompt: str
    model: str
    source: str
    source_layer: int
    target: str
    tokens: tuple[str, ...]
    vectors: tuple[int, ...]
    labels: tuple[str, ...]
    words: Mapping[int, str]
    ids: Int[Tensor, " pos"]
    steered: Bool[Tensor, " pos"]
    attention_change: Float[Tensor, "vec layer head"]
    kept: Int[Tensor, "vec kept 2"]
    patterns: Float[Tensor, "vec kept 2 pos pos"]
    kl: Float[Tensor, "vec pos"]
    gained: Int[Tensor, "vec pos top"]
    gained_p: Float[Tensor, "vec pos top 2"]
    lost: Int[Tensor, "vec pos top"]
    lost_p: Float[Tensor, "vec pos top 2"]
    likely: Int[Tensor, "run pos top"]
    likely_lp: Float[Tensor, "run pos top"]
    next_lp: Float[Tensor, "run next"]
    next_rank: Int[Tensor, "run next"]
    response: Float[Tensor, "vec stream pos"]
    clean: Float[Tensor, "stream pos"]
    added: Float[Tensor, "vec pos"]
    entering: Float[Tensor, " pos"]
    read_at: Int[Tensor, "vec read"]
    promoted: Int[Tensor, "vec stream read word"]
    promoted_by: Float[Tensor, "vec stream read word"]
    suppressed: Int[Tensor, "vec stream read word"]
    suppressed_by: Float[Tensor, "vec stream read word"]
    toward: Int[Tensor, "vec token"]
    moved: Float[Tensor, "vec token"]
    direct: Float[Tensor, "vec stream part token"]
    heads: Float[Tensor, "vec layer head token"]
    bank: str = ""
    fingerprint: Fingerprint | None = None
    last_rows: Float[Tensor, "vec layer head 2 pos"] | None = None
    promoted_p: Float[Tensor, "vec stream read word 2"] | None = None
    suppressed_p: Float[Tensor, "vec stream read word 2"] | None = None
    lens_gained: Int[Tensor, "vec stream read word"] | None = None
    lens_gained_p: Float[Tensor, "vec stream read word 2"] | None = None
    lens_lost: Int[Tensor, "vec stream read word"] | None = None
    lens_lost_p: Float[Tensor, "vec stream read word 2"] | None = None
    VERB: ClassVar[str] = "inspect"
    CALL: ClassVar[str] = "inspect"

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file; `load_inspection` reads it.

        Raises:
            SettingError: it holds what could not be loaded again; nothing is written.
            WriteError: the file cannot be written.
        """
        meta = self.header(TEXTS)
        every = {name: getattr(self, name) for name in AXES}
        tensors = {name: values for name, values in every.items() if values is not None}
        try:
            refuse_header(meta)
            refuse_sizes(meta, {name: list(values.shape) for name, values in tensors.items()})
            refuse_kinds(tensors)
        except ValueError as error:
            raise SettingError(f"This inspection cannot be saved: {error}.") from error
        return INSPECTION_FILE.write(path, meta, tensors)

    def table(self) -> Sheet:
        rows = []
        for v, vector in enumerate(self.vectors):
            layer, head, change = self.strongest_head(v)
            rows.append(
                (
                    str(vector),
                    number(float(self.kl[v, -1])),
                    f"{layer}.{head} ({change:.2f})" if layer >= 0 else "",
                    shorten(self.word(int(self.gained[v, -1, 0])), 20),
                    shorten(self.word(int(self.lost[v, -1, 0])), 20),
                    self.labels[v],
                )
            )
        columns = ("#", "KL", "head most changed", "gained", "lost", "label")
        note = (
            f"{self.model}, {len(self.tokens)} tokens, vectors added at {self.source}; KL in nats "
            f"and tokens gained and lost are those behind the prompt"
        )
        return Sheet(f"Inspection of {len(self)} vectors", columns, tuple(rows), note)

    def strongest_head(self, v: int) -> tuple[int, int, float]:
        """Layer and head whose attention changes most, and by how much; (-1, -1, 0) without any."""
        change = self.attention_change[v].nan_to_num(-1.0)
        if change.numel() == 0 or float(change.max()) < 0:
            return -1, -1, 0.0
        layer, head = divmod(int(change.argmax()), change.shape[1])
        return layer, head, float(change[layer, head])


def joined(parts: list[Inspection]) -> Inspection:
    """Inspections of other vectors on the same prompt, as one."""
    first = parts[0]
    if len(parts) == 1:
        return first

    def together(name: str, axes: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        if any(value is None for value in values):
            return None
        if axes.startswith("vec"):
            return torch.cat(values)
        if axes.startswith("run"):
            return torch.cat([values[0], *(value[1:] for value in values[1:])])
        return values[0]  # type: ignore[no-any-return]

    changed: dict[str, Any] = {name: together(name, axes) for name, axes in AXES.items()}
    return dataclasses.replace(
        first,
        vectors=tuple(v for part in parts for v in part.vectors),
        labels=tuple(label for part in parts for label in part.labels),
        words={token: text for part in parts for token, text in part.words.items()},
        **changed,
    )
