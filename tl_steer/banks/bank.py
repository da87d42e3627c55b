"""Banks: many trained steering vectors, and all that is known of them.

A bank is a value. Slicing, sorting, merging and arithmetic make new banks.
"""

import hashlib
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.banks.file import BANK_FILE, contents_of, load_checkpoint
from tl_steer.banks.given import columns_of, refuse_no_bank
from tl_steer.banks.pretrained import Pretrained
from tl_steer.banks.provenance import check_fits
from tl_steer.banks.sheet import frame_of, sheet_of
from tl_steer.errors import NotFiniteError
from tl_steer.files.pieces import odd_row, parts_of
from tl_steer.files.signatures import checked, typed
from tl_steer.files.tables import MOST_ROWS, Sheet
from tl_steer.hook_points.positions import Positions
from tl_steer.hook_points.site import Point
from tl_steer.models.installing import installing
from tl_steer.models.model import HookedModel
from tl_steer.models.tokens import Prompts, TokenBatch
from tl_steer.objectives.divergence import Displacement, Divergence
from tl_steer.perturbations.kinds import kind_of
from tl_steer.perturbations.perturbation import Hooks, Perturbation, Scale


class Bank(Pretrained):
    """Steering vectors and what each does at the target.

    Rows are counted from 0, and `bank[4]`, `bank[[0, 3]]` and iteration give banks. `-bank`,
    `bank * 2` and `bank[0] + bank[3]` are banks whose responses and objectives are unknown (NaN);
    `np.asarray(bank)` is `[vec width]`.

    Attributes:
        vectors: what is added at `source`; rows have norm `radius`. For other kinds, each row holds
            all parameters of one perturbation.
        responses: the mean effect at `target`, over measured tokens and prompts.
        objective: what the method climbed, for each vector. Comparable within a bank only.
        radius: norm of the vectors; `radius_share` is the same over the median clean norm of the
            residual stream at the source (BOS left out), which is comparable across layers. For
            adapters the radius is R in W' = W + R B A^T, and there is no share (NaN).
        positions: the tokens that the vectors are added at.
        labels: a note on each vector, the user's own.
        comments: more about each, at any length; what was written into a report's page comes here
            (`tl_steer.views.notes`).
        kind: how a row is to be read: the name that a kind of perturbation was registered by.
        form: what else that kind needs to know (layers and rank of an adapter).
        scores: further numbers per vector, by name (singular values, say).
        numbers: what each vector is called wherever it is shown; 0, 1, ... unless given. Choosing
            and sorting keep them; rows are counted from 0 all the same.
    """

    @classmethod
    def why_not(cls, value: Any) -> None:
        """Raises how what was given becomes a bank."""
        refuse_no_bank(value)

    def holding(self, vectors: Float[Tensor, "vec n"]) -> Perturbation:
        """Other vectors in the place of the bank's own, as many as you like.

        Raises:
            NotFiniteError: one is NaN or infinite, which a large file may hold: it is not read
                through when it is opened.
        """
        odd = odd_row(vectors)
        if odd is not None:
            raise NotFiniteError(
                f"Row {odd} of the bank's vectors is not finite, so it cannot steer: choose "
                "others, or learn it anew."
            )
        return kind_of(self.kind).unpack(
            self.source, vectors, radius=self.radius, positions=self.positions, form=self.form
        )

    def perturbation(self) -> Perturbation:
        """The vectors as a `Perturbation`, to be trained further or run in a `Segment`."""
        return self.holding(self.vectors)

    def for_model(self, model: HookedModel) -> Perturbation:
        """`perturbation`, for a model that the bank was made for.

        Raises:
            ForeignModelError: it was made for another.
        """
        check_fits(model, self.provenance)
        return self.perturbation()

    def hooks(self, *, rows: Tensor | None = None, prompt: Tensor | None = None) -> Hooks:
        """TransformerLens hooks, as data: `model.run_with_hooks(..., fwd_hooks=bank[4].hooks())`.

        Nothing can check here that the model is the right one; `perturbing` does.
        """
        return self.perturbation().hooks(rows=rows, prompt=prompt)

    @typed
    def install(
        self,
        model: Any,
        *,
        rows: Int[Tensor, " batch"] | None = None,
        scale: Scale = 1,
        positions: Positions | None = None,
    ) -> AbstractContextManager[Any]:
        """Steer a plain transformers model inside a `with` block, without TransformerLens.

            with bank[4].install(model):
                model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=40)

        The hooks are PyTorch's own, on the model's modules, and are taken off at the end, after
        exceptions too. Logits are those of `perturbing` on the same weights.

        Args:
            model: what `AutoModelForCausalLM` gives, with one stack of decoder blocks.
            rows: with several vectors, the one for each batch row.
            scale: how strongly it acts: a number, or one for each vector.
            positions: other tokens than the bank's own. Where not all are edited alike, a pass
                without a cache is taken to be one of prompts, whole, and what comes behind its
                cache to be generated; the model's `attention_mask` tells padding, and its config
                what BOS is.

        Raises:
            ModelError: no such model.
            ForeignModelError: the bank was made for another.
            HookPointError: a point other than the residual stream, attention's and MLP's outputs
                and what their last maps read; or one that this model's blocks do not have.
            SettingError: several vectors but no rows.
            PromptError: from inside the model, where prompts and what was generated cannot be
                told apart.

        Wrong to use with banks of attention's parts (`hook_z`) that were learned in compatibility
        mode, which moves biases from one place to another.
        """
        return installing(model, self, rows=rows, scale=scale, positions=positions)

    def digest(self) -> str:
        """Identifies what the bank does and where, labels and scores aside: 16 hex digits."""
        measured, form = self.provenance.measured, dict(self.form)
        what = (self.kind, form, self.source.name, self.target.name, self.positions, measured)
        own = hashlib.sha256(repr(what).encode())
        for values in (self.vectors, self.responses):
            for part in parts_of(values):
                own.update(part.float().contiguous().numpy().data)
        own.update(repr(self.provenance.fingerprint).encode())
        return own.hexdigest()[:16]

    def contents(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What a file of it holds: the header, JSON, and the tensors.

        Raises:
            SettingError: what no file could hold, or no reader would accept.
        """
        return contents_of(self)

    @typed
    def save(self, path: str | Path) -> Path:
        """Write one safetensors file. An existing bank stays whole until the new one is
        complete.

        Raises:
            SettingError: it holds what could not be loaded again (vectors that are not finite,
                labels that take too much room); nothing is written.
            WriteError: the file cannot be written.
        """
        return BANK_FILE.write(path, *self.contents())

    @classmethod
    @checked
    def from_vectors(
        cls,
        model: HookedModel,
        vectors: Any,
        *,
        prompts: Prompts | TokenBatch,
        source: Point | None = None,
        target: Point | None = None,
        labels: Sequence[str] | None = None,
        divergence: Divergence = Displacement(),  # noqa: B008 (frozen)
        measured: Positions | None = None,
        positions: Positions | None = None,
    ) -> "Bank":
        """A bank of vectors that you have, with what they do on these prompts, at their own lengths
        (`bank * 2` is another). Its provenance says "given, not trained".

        Args:
            vectors: `[vec width]`, or one vector: a tensor, an array, or a mapping from names,
                which become labels; an autoencoder with a `W_dec`. Or a bank, of any kind: what
                arithmetic made is measured so, and one that was learned on another model (a
                fine-tune's base, say) is measured on this one and belongs to it from then on. Or a
                `Perturbation` of any kind, at its own hook point.
            prompts: what responses and objectives are measured on, as for `elicit`.
            source, target: as for `elicit`; a bank has its own.
            labels: a note on each; the mapping's names, or the bank's labels, unless given.
            divergence, measured, positions: as for `elicit`; a bank keeps its own tokens.

        Raises:
            HookPointError, PromptError, SettingError: bad arguments, before any work.
            NotFiniteError: a vector overflows the model.
            ShapeError: vectors that are none, or of another width than the source.

        Not a search: what is given is neither rescaled nor improved, and a direction found by other
        means (an autoencoder's, a probe's) may do nothing when it is added. `random_bank` is the
        control here too.
        """
        found = columns_of(
            model,
            vectors,
            prompts,
            source=source,
            target=target,
            labels=labels,
            divergence=divergence,
            measured=measured,
            positions=positions,
        )
        return cls(**found)

    @classmethod
    @typed
    def load(cls, path: str | Path, *, verify: bool = False) -> "Bank":
        """Read a bank that `save` wrote. No model is needed, and nothing in the file is executed.

        A file of more than 128 MiB is mapped into memory, and its tensors are read as they are
        used. It must not change meanwhile: `save` never writes into a file that is there.

        Args:
            verify: read such a file through at once, as smaller ones are: compare its checksum, and
                refuse vectors that are not finite, which otherwise come out where they are used.

        Raises:
            BankFileError: the file is missing, truncated, tampered with, or not a bank.
        """
        return load_checkpoint(cls, path, verify=verify)[0]

    def table(self, *, most: int = MOST_ROWS) -> Sheet:
        """One row per vector: objective, size of the response, nearest other response, label, and
        the start of the comment where there are any.

        The nearest of a row shown is looked for among all vectors; where there are more than 16384
        of them that column is left out, and `nearest(most=...)` finds it.
        """
        return sheet_of(self, most)

    def to_pandas(self) -> Any:
        """One row per vector, as a data frame: number, label, comment (where there are any),
        objective, size of the response and scores.

        Raises:
            SettingError: pandas is not installed.
        """
        return frame_of(self)


load_bank = Bank.load
"""`Bank.load`: read a bank's file. No model is needed, and nothing in the file is executed."""


def largest(bank: Bank, n: int) -> list[int]:
    """The rows of largest objective, at most n, in the bank's order; unmeasured ones come last."""
    keys = bank.objective.nan_to_num(-math.inf)
    rows: list[int] = keys.topk(min(n, len(bank))).indices.sort().values.tolist()
    return rows
