"""What each vector makes a model write behind one prompt, token by token: a value that views are
drawn from.

Log-probabilities are *teacher-forced*: both models read the same text, the one that was written
under the vector, and are asked for its next token. So the log-ratio of a token says how much the
vector has to do with that very token, given what stands before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.errors import InspectionFileError, SettingError
from tl_steer.files.jsons import text, texts
from tl_steer.files.tables import Sheet, number, shorten
from tl_steer.files.tensors import TensorFile
from tl_steer.inspection.layout import (
    PARTS,
    TEXTS,
    refuse_axes,
    refuse_dtypes,
    refuse_header,
)
from tl_steer.inspection.of_vectors import OfVectors
from tl_steer.models.fingerprint import Fingerprint

CONTINUATIONS_FILE = TensorFile("continuations", "tl_steer_continuations", InspectionFileError)
SAID = (*TEXTS, "unsteered", "texts")
# `two` is unsteered and steered; `along` are the prompt's tokens and all but the last new one.
STEPS: Mapping[str, str] = {
    "new": "vec step int",
    "lengths": "vec int",
    "lp": "vec two step",
    "rank": "vec two step int",
    "kl": "vec step",
    "likely": "vec two step top int",
    "likely_lp": "vec two step top two",
    "kept": "vec step kept two int",
    "change": "vec step kept",
    "rows": "vec step kept two along",
    "mean_rows": "vec step two along",
    "against": "vec step int",
    "moved": "vec step",
    "direct": "vec step stream part",
    "by_head": "vec step some two int",
    "by_head_part": "vec step some",
}
AXES: Mapping[str, str] = {"own": "base int", "own_lp": "run base", **STEPS}


@dataclass(frozen=True, eq=False, repr=False)
class Continuations(OfVectors):
    """Greedy continuations of one prompt under vectors of a bank, beside the unsteered one;
    `inspection.continuations` makes it.

    Continuations end with the token that ends an answer, or where `max_new_tokens` are reached;
    behind its `lengths` a row holds NaN, and 0 where it holds whole numbers.

    Attributes:
        prompt, model, source, target, tokens, vectors, labels, words: as in `Inspection`.
        bank, fingerprint: what it is of; `origin` has both.
        unsteered, texts: the continuations as text, special tokens left out.
        new: their tokens. `lp` and `rank` (0 is the likeliest) are the log-probability and the rank
            of each of them, unsteered and steered.
        own: the unsteered continuation's tokens; `own_lp` is their log-probability in the unsteered
            model (row 0) and under each vector.
        kl: KL(steered || unsteered) of the distribution that each token was taken from, in nats.
        likely, likely_lp: the likeliest tokens there, unsteered and steered, each with both
            log-probabilities.
        kept, change, rows: layer and head of the heads whose attention changes most where the token
            is predicted, the total variation between both rows, and the rows (half precision).
        mean_rows: the mean over all heads.
        against: the token that the unsteered model holds for likeliest there; where that is the
            token written, its second.
        moved: by how much steering moves the written token's logit less that of `against`.
        direct: of that, through each block's attention, its MLP, and the rest, as in `Inspection`;
            NaN where a model's last layers cannot be read.
        by_head, by_head_part: the heads that carry most of it, and how much.
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
    unsteered: str
    texts: tuple[str, ...]
    own: Int[Tensor, " base"]
    own_lp: Float[Tensor, "run base"]
    new: Int[Tensor, "vec step"]
    lengths: Int[Tensor, " vec"]
    lp: Float[Tensor, "vec 2 step"]
    rank: Int[Tensor, "vec 2 step"]
    kl: Float[Tensor, "vec step"]
    likely: Int[Tensor, "vec 2 step top"]
    likely_lp: Float[Tensor, "vec 2 step top 2"]
    kept: Int[Tensor, "vec step kept 2"]
    change: Float[Tensor, "vec step kept"]
    rows: Float[Tensor, "vec step kept 2 along"]
    mean_rows: Float[Tensor, "vec step 2 along"]
    against: Int[Tensor, "vec step"]
    moved: Float[Tensor, "vec step"]
    direct: Float[Tensor, "vec step stream 3"]
    by_head: Int[Tensor, "vec step some 2"]
    by_head_part: Float[Tensor, "vec step some"]
    bank: str = ""
    fingerprint: Fingerprint | None = None
    VERB: ClassVar[str] = "continue"
    CALL: ClassVar[str] = "inspection.continuations"

    def log_ratio(self, vector: int) -> Float[Tensor, " length"]:
        """Of each token that was written under a vector: its log-probability under the vector less
        the unsteered one, in nats.

        Raises:
            SettingError: the vector was not continued.
        """
        v = self.index(vector)
        told = self.lp[v, :, : int(self.lengths[v])]
        return told[1] - told[0]

    def departs(self, vector: int) -> int | None:
        """The first token that is another one than in the unsteered text; None if all are the same.

        Raises:
            SettingError: the vector was not continued.
        """
        v = self.index(vector)
        said, own = self.new[v, : int(self.lengths[v])].tolist(), self.own.tolist()
        if said == own:
            return None
        same = [a == b for a, b in zip(said, own, strict=False)]
        return same.index(False) if False in same else len(same)

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file; `load_continuations` reads it.

        Raises:
            SettingError: it holds what could not be loaded again; nothing is written.
            WriteError: the file cannot be written.
        """
        meta = self.header(SAID)
        tensors = {name: getattr(self, name) for name in AXES}
        try:
            refuse_said(meta, {name: list(values.shape) for name, values in tensors.items()})
            refuse_tensors(tensors)
        except ValueError as error:
            raise SettingError(f"These continuations cannot be saved: {error}.") from error
        return CONTINUATIONS_FILE.write(path, meta, tensors)

    def table(self) -> Sheet:
        rows = [("", "", "", "", shorten(self.unsteered, 80), "unsteered")]
        for v, vector in enumerate(self.vectors):
            departs = self.departs(vector)
            ratio = self.log_ratio(vector)
            at = int(ratio.nan_to_num(-torch.inf).argmax())
            rows.append(
                (
                    str(vector),
                    "" if departs is None else str(departs),
                    number(float(ratio.mean())),
                    f"{number(float(ratio[at]))} {shorten(self.word(int(self.new[v, at])), 16)}",
                    shorten(self.texts[v], 80),
                    self.labels[v],
                )
            )
        columns = ("#", "departs at", "log-ratio", "largest", "continuation", "label")
        note = (
            f"{self.model}, greedy, vectors added at {self.source}; log-ratio of a token: its "
            "log-probability under the vector less the unsteered one, in nats; the mean, and the "
            "largest with its token"
        )
        return Sheet(f"Continuations under {len(self)} vectors", columns, tuple(rows), note)


def refuse_said(meta: Mapping[str, Any], sizes: Mapping[str, list[int]]) -> None:
    """Refuse texts, numbers and shapes that no continuations have.

    Raises:
        ValueError, KeyError: saying which.
    """
    refuse_header(meta)
    text(meta["unsteered"])
    vec, pos = len(meta["vectors"]), len(meta["tokens"])
    if not len(texts(meta["texts"])) == len(meta["labels"]) == vec or pos == 0:
        raise ValueError("it has no tokens, or not a label and a text for every vector")
    known = {"vec": vec, "run": vec + 1, "two": 2, "part": len(PARTS)}
    step = sizes["new"][-1] if len(sizes["new"]) == 2 else 0
    refuse_axes(AXES, known | {"along": pos + step - 1}, sizes)
    if step == 0 or sizes["own"] == [0] or sizes["direct"][2] < 2 or sizes["likely"][-1] == 0:
        raise ValueError("it has no tokens, or no layers")


def refuse_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Refuse numbers that cannot be.

    Raises:
        ValueError: saying which.
    """
    refuse_dtypes(AXES, tensors)
    lengths, step = tensors["lengths"], tensors["new"].shape[1]
    if bool(((lengths < 1) | (lengths > step)).any()):
        raise ValueError("a continuation is longer than its tokens, or has none")
