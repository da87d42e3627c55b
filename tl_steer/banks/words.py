r"""What vectors write, in the words of the model's vocabulary, before anything is generated.

Adding a vector $v$ to the residual stream moves the logits, to first order and on average, by
$W_U\,D\,J\,v$: $J$ is the mean Jacobian from there to the last block's output, $D$ the slope of the
final norm, and $W_U$ the unembedding. The logit lens takes $J = 1$; a Jacobian lens has fitted it
(Gurnee et al. 2026, "Verbalizable Representations Form a Global Workspace in Language Models").
"""

import dataclasses
import statistics
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.banks.control import chance_vectors
from tl_steer.banks.given import refuse_unread
from tl_steer.banks.provenance import check_fits
from tl_steer.errors import HookPointError, SettingError
from tl_steer.files.record import Record
from tl_steer.files.signatures import checked
from tl_steer.files.tables import MOST_ROWS, Sheet, number
from tl_steer.files.text import said
from tl_steer.hook_points.site import Site
from tl_steer.models.model import HookedModel, device_of, dtype_of, model_name
from tl_steer.models.state import frozen, without_hooks
from tl_steer.models.token_names import token_names
from tl_steer.objectives.output_kl import Readout, readout

_ROWS = 64  # vectors whose logits are held at once
_LOGIT_LENS = "logit lens"


@dataclass(frozen=True, repr=False)
class Words(Record):
    """The words of each vector; `words` reads them.

    Attributes:
        numbers, labels: of the vectors, as in the bank.
        promoted, suppressed: tokens whose logits the vector raises and lowers most, strongest
            first.
        peak: how far the logit that is moved most, either way, stands from the mean of all, in
            their standard deviations.
        random_peak: the same of random vectors, as many and a hundred at least. A vector that
            stands no higher than these writes no words in particular, whatever `promoted` says.
        lens, source, model: what read them, where they act, and on which model.
        bank: the bank's digest.
    """

    numbers: tuple[int, ...]
    labels: tuple[str, ...]
    promoted: tuple[tuple[str, ...], ...]
    suppressed: tuple[tuple[str, ...], ...]
    peak: tuple[float, ...]
    random_peak: tuple[float, ...]
    lens: str
    source: str
    model: str
    bank: str

    def __len__(self) -> int:
        return len(self.numbers)

    def beyond_random(self) -> tuple[bool, ...]:
        """Whether each vector's peak is above all random vectors'."""
        return tuple(peak > max(self.random_peak) for peak in self.peak)

    def onto(self, bank: Bank) -> Bank:
        """The bank with these words in the places of empty labels, and `peak` among its scores.
        What is written in a label stays; words that stand no higher than random vectors' are marked
        "(as random)".

        Raises:
            SettingError: another bank than was read.
        """
        if bank.digest() != self.bank:
            raise SettingError("These are the words of another bank: read this one's, words(...).")
        labels = tuple(own or self._said(row) for row, own in enumerate(bank.labels))
        peak = torch.tensor(self.peak, dtype=torch.float32, device="cpu")
        return dataclasses.replace(bank, labels=labels).with_score("peak", peak)

    def _said(self, row: int) -> str:
        found = f"writes {_joined(self.promoted[row])}, against {_joined(self.suppressed[row])}"
        return found if self.beyond_random()[row] else f"{found} (as random)"

    def table(self, *, most: int = MOST_ROWS) -> Sheet:
        """One row per vector."""
        rows = [
            (
                str(self.numbers[i]),
                _joined(self.promoted[i]),
                _joined(self.suppressed[i]),
                number(self.peak[i]),
                "yes" if beyond else "no",
                self.labels[i],
            )
            for i, beyond in enumerate(self.beyond_random()[:most])
        ]
        more = f"; {len(self) - len(rows)} more not shown" if len(rows) < len(self) else ""
        chance = f"{number(statistics.median(self.random_peak))}, {number(max(self.random_peak))}"
        note = (
            f"{self.lens} at {self.source} of {self.model}; peak: the logit moved most, in "
            f"standard deviations; of {len(self.random_peak)} random vectors: median and largest "
            f"{chance}{more}"
        )
        return Sheet(
            f"Words of {len(self)} vectors",
            ("#", "writes", "against", "peak", "beyond random", "label"),
            tuple(rows),
            note,
        )


@checked
def words(
    model: HookedModel, bank: Bank, *, lens: Any = None, most: int = 5, seed: int = 0
) -> Words:
    """The words that each vector promotes and suppresses where it is added. Runs the model on a few
    tokens only, and generates nothing.

    Args:
        lens: a `JacobianLens` of TransformerLens (3.9 and 4.3 have it, in
            `transformer_lens.tools.analysis`: `fit(model, prompts, corpus=...)` or
            `from_pretrained(...)`), or anything else with `transport(vectors, layer)` to the output
            of the last block. Unless given, the logit lens: good in the last third of a model, and
            far from its end often no more than noise.
        most: words each way.
        seed: of the random vectors.

    Raises:
        ForeignModelError: the bank was made for another model.
        HookPointError: vectors that are not on the residual stream, or, for a lens, not at the
            output of a block.
        ModelError: the model's output cannot be read (see `OutputKL`).
        SettingError: perturbations that are no vectors, an empty bank, no lens, or one that does
            not fit.

    A first-order reading of what the vector says there and then. What later layers make of it at
    the vector's full length is what `generate` shows.
    """
    refuse_unread(bank, most, call="words")
    check_fits(model, bank.provenance)
    with frozen(model), without_hooks(model), torch.no_grad():
        read = readout(model)
        at = _transported(model, bank.vectors, bank.source, lens)
        top, low, peak = _read(model, read, at, most)
        control = chance_vectors(bank, seed=seed)
        _, _, random_peak = _read(
            model, read, _transported(model, control, bank.source, lens), most
        )
    return Words(
        bank.numbers,
        bank.labels,
        _named(model, top),
        _named(model, low),
        tuple(peak.tolist()),
        tuple(random_peak.tolist()),
        _called(lens),
        bank.source.name,
        model_name(model),
        bank.digest(),
    )


def _transported(
    model: HookedModel, rows: Float[Tensor, "vec d_model"], source: Site, lens: Any
) -> Float[Tensor, "vec d_model"]:
    """The vectors as they arrive at the output of the last block."""
    rows = rows.detach().to("cpu", torch.float32)
    if lens is None:
        return rows
    if not callable(getattr(lens, "transport", None)):
        raise SettingError(
            f"lens={type(lens).__name__}: expected a fitted JacobianLens, or another object with "
            "transport(vectors, layer)."
        )
    layer = source.layer - (source.kind == "hook_resid_pre")
    if source.kind not in ("hook_resid_pre", "hook_resid_post") or layer < 0:
        raise HookPointError(
            f"A lens is fitted at the outputs of blocks, and {source} is none. Leave lens= out."
        )
    if layer == int(model.cfg.n_layers) - 1:
        return rows
    return _through(model, rows, layer, lens)


def _through(
    model: HookedModel, rows: Float[Tensor, "vec d_model"], layer: int, lens: Any
) -> Float[Tensor, "vec d_model"]:
    try:
        if callable(getattr(lens, "validate_model", None)):
            lens.validate_model(model)
        moved = torch.cat([lens.transport(part, layer).float().cpu() for part in rows.split(4096)])
    except Exception as error:  # somebody else's code
        raise SettingError(
            f"This lens does not read block {layer} of {model_name(model)}: "
            f"{said(error, most=300)}."
        ) from error
    if moved.shape != rows.shape or not bool(moved.isfinite().all()):
        raise SettingError(
            f"This lens gave {tuple(moved.shape)} for vectors {tuple(rows.shape)}, or NaN; "
            "expected finite vectors of the same shape."
        )
    return moved


def _read(
    model: HookedModel, read: Readout, rows: Float[Tensor, "vec d_model"], most: int
) -> tuple[Int[Tensor, "vec most"], Int[Tensor, "vec most"], Float[Tensor, " vec"]]:
    """Tokens raised and lowered most, and the peak."""
    place = {"device": device_of(model), "dtype": dtype_of(model)}
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for part in rows.split(_ROWS):
        # To both sides: what the norm and the unembedding add to every vector cancels.
        ahead, behind = (read((sign * part).to(**place)[None])[0].float() for sign in (1, -1))
        logits = (ahead - behind) / 2
        most = min(most, logits.shape[1])
        centred = logits - logits.mean(dim=1, keepdim=True)
        peak = centred.abs().amax(dim=1) / centred.std(dim=1, correction=0)
        top, low = (sign * centred for sign in (1, -1))
        found.append((top.topk(most).indices, low.topk(most).indices, peak.nan_to_num(0.0)))
    top, low, peak = (torch.cat(each).cpu() for each in zip(*found, strict=True))
    return top, low, peak


def _named(model: HookedModel, ids: Int[Tensor, "vec most"]) -> tuple[tuple[str, ...], ...]:
    named = token_names(getattr(model, "tokenizer", None), ids.flatten().tolist())
    width = ids.shape[1]
    return tuple(named[i : i + width] for i in range(0, len(named), width))


def _called(lens: Any) -> str:
    if lens is None:
        return _LOGIT_LENS
    name, fitted = type(lens).__name__, getattr(lens, "n_prompts", None)
    return f"{name} of {fitted} prompts" if isinstance(fitted, int) else name


def _joined(found: tuple[str, ...]) -> str:
    return " ".join(map(repr, found))
