"""What is asked of every model: each cell does one thing with tl_steer and compares it with the
truth of plain modules (`plain.py`). A cell that returns is right; a `Wrong` says how far off."""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from plain import Edit, Truth, own_truth
from torch import Tensor, nn

import tl_steer as ts
from tl_steer.elicitation.start import Adapters
from tl_steer.errors import HookPointError, SteerError
from tl_steer.methods import Power
from tl_steer.models.lookup import resolve
from tl_steer.monitoring.audit import read_log
from tl_steer.objectives.output_kl import OutputKL
from tl_steer.perturbations.adapter import Adapter
from tl_steer.sweeps.scorer import Scorer

PROMPTS = ("t5 t9 t30 t7 t61", "t8 t3 t44", "t70 t1 t44 t12 t13 t14 t2")
RADIUS, NEW, LAST = 3.0, 4, 3
SOURCE, TARGET = "blocks.1.hook_resid_post", f"blocks.{LAST}.hook_resid_post"
# Of the change that the edit makes (so that an edit left out is never near), and of the whole.
TOLERANCE, ROUNDING = 1e-3, 1e-5


class Wrong(AssertionError):
    """A number that is not the truth's."""


class Absent(Exception):
    """The model has nothing that the cell could ask for, and tl_steer says so."""


@dataclass
class Subject:
    """A model in one class, and what is true of it.

    Attributes:
        truth: transformers, or the model itself where the two differ without any steering.
        inner: where activations inside are looked up: transformers as well, unless weights have
            been processed.
        again: makes the same model anew, in another dtype or with dropout.
    """

    model: Any
    truth: Truth
    inner: Truth
    again: Callable[..., "Subject"]
    plain: nn.Module | None = None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def tokens(self) -> Any:
        return ts.tokenize(self.model, PROMPTS)

    @cached_property
    def vectors(self) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        drawn = torch.randn(2, int(self.model.cfg.d_model), generator=generator)
        return RADIUS * nn.functional.normalize(drawn, dim=-1)

    @cached_property
    def bank(self) -> Any:
        return elicited(self)

    def additive(self, point: str, positions: ts.Positions | None = None) -> ts.Additive:
        site = resolve(self.model, point)
        generator = torch.Generator().manual_seed(4)
        drawn = torch.randn(2, site.width, generator=generator)
        vectors = RADIUS * nn.functional.normalize(drawn, dim=-1)
        return ts.Additive(site, vectors, positions=positions or ts.Positions())

    def first(self, kind: str) -> str:
        """The hook point of that kind in block 1 or 2; in hybrids, not every block has it."""
        names = [f"blocks.{layer}.{kind}" for layer in (1, 2)]
        return next((name for name in names if name in self.model.hook_dict), names[0])


def near(
    what: str, found: Tensor, truth: Tensor, clean: Tensor, tolerance: float = TOLERANCE
) -> None:
    """`found` is `truth`, up to a small share of the way from `clean` to it."""
    found, truth, clean = (x.detach().double().cpu() for x in (found, truth, clean))
    if found.shape != truth.shape:
        raise Wrong(f"{what}: shape {tuple(found.shape)}, expected {tuple(truth.shape)}")
    effect = float((truth - clean).norm())
    if not effect > 1e-4 * float(clean.norm()):
        raise Wrong(f"{what}: the edit has no effect ({effect:.1e}), so this says nothing")
    off = float((found - truth).norm())
    if not off <= tolerance * effect + ROUNDING * float(truth.norm()):
        raise Wrong(f"{what}: off by {off:.2g}, where the whole effect is {effect:.2g}")


def same(what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise Wrong(f"{what}: {found!r}, expected {expected!r}")


# --- the segment ------------------------------------------------------------------------------


def _segment(
    subject: Subject,
    source: str,
    target: str = TARGET,
    *,
    prompts: Sequence[str] = PROMPTS,
    positions: ts.Positions | None = None,
) -> None:
    """Every vector and prompt of the segment, against that prompt alone in the whole model."""
    tokens = ts.tokenize(subject.model, prompts)
    with torch.no_grad():
        segment = ts.Segment(subject.model, tokens, source, target)
        edits = subject.additive(source, positions)
        steered = segment.run(edits)
    chosen = tokens.select(edits.positions)
    for p, row in enumerate(tokens.rows()):
        at = chosen[p : p + 1, : len(row)]
        _, clean = subject.inner(row[None], read=[target])
        for v, vector in enumerate(edits.vectors.detach()):
            _, seen = subject.inner(row[None], Edit(source, vector, at), read=[target])
            found = steered[v, p, : len(row)]
            near(f"vector {v}, prompt {p}", found, seen[target][0], clean[target][0])


def segment_post(s: Subject) -> None:
    _segment(s, SOURCE)


def segment_pre(s: Subject) -> None:
    _segment(s, "blocks.1.hook_resid_pre", "blocks.3.hook_resid_pre")


def segment_within(s: Subject) -> None:
    """From a block's own input to its output, and over the whole model."""
    _segment(s, "blocks.2.hook_resid_pre", "blocks.2.hook_resid_post")
    _segment(s, "blocks.0.hook_resid_pre", TARGET)


def segment_attention(s: Subject) -> None:
    _segment(s, s.first("hook_attn_out"))


def segment_mlp(s: Subject) -> None:
    _segment(s, s.first("hook_mlp_out"))


def segment_z(s: Subject) -> None:
    _segment(s, s.first("attn.hook_z"))


def segment_neurons(s: Subject) -> None:
    _segment(s, s.first("mlp.hook_post"))


def segment_to_parts(s: Subject) -> None:
    """What attention and the MLP of a later block give."""
    _segment(s, SOURCE, f"blocks.{LAST}.hook_mlp_out")
    _segment(s, SOURCE, f"blocks.{LAST}.hook_attn_out")


def segment_mid(s: Subject) -> None:
    _segment(s, "blocks.1.hook_resid_mid")


def segment_batches(s: Subject) -> None:
    """As many prompts as heads, one, and a batch as long as its prompts."""
    equal = ["t5 t9", "t30 t7", "t61 t3", "t12 t9", "t40 t41", "t42 t50"]
    for n in (1, 2, 3, 4, 6):
        _segment(s, SOURCE, prompts=equal[:n])


def segment_positions(s: Subject) -> None:
    for positions in (ts.Positions(last=1), ts.Positions(bos=False)):
        _segment(s, SOURCE, positions=positions)
        _segment(s, "blocks.2.hook_resid_pre", positions=positions)


# --- eliciting --------------------------------------------------------------------------------


def elicited(s: Subject, **how: Any) -> Any:
    told = {"source": SOURCE, "target": TARGET, "n": 2, "radius": RADIUS, "progress": False}
    told |= {"method": Power(steps=2), "measured": ts.Positions(last=2, bos=False)}
    return ts.elicit(s.model, PROMPTS, **(told | how))


def _measured(s: Subject, vector: Tensor, last: int = 2) -> list[tuple[Tensor, Tensor]]:
    """Clean and steered activations at the measured tokens of every prompt."""
    both = []
    for row in s.tokens.rows():
        clean = s.inner(row[None], read=[TARGET])[1][TARGET][0, -last:]
        steered = s.inner(row[None], Edit(SOURCE, vector), read=[TARGET])[1][TARGET][0, -last:]
        both.append((clean.double(), steered.double()))
    return both


def elicit(s: Subject) -> None:
    """The objective, restated from activations of whole passes; and the response."""
    bank = s.bank
    for v, vector in enumerate(bank.vectors):
        both = _measured(s, vector)
        objective = sum(float((after - before).norm()) for before, after in both)
        response = torch.stack([(after - before).mean(dim=0) for before, after in both]).mean(dim=0)
        near("objective", bank.objective[v], torch.tensor(objective), torch.zeros(()))
        near("response", bank.responses[v], response, torch.zeros_like(response))
    start = s.additive(SOURCE)
    norms = bank.vectors.norm(dim=1)
    if float((norms - RADIUS).abs().max()) > 1e-3:
        raise Wrong(f"norms {norms.tolist()}, expected {RADIUS}")
    random = sum(float((b - a).norm()) for a, b in _measured(s, start.vectors.detach()[0]))
    if float(bank.objective.max()) < 0.5 * random:
        raise Wrong(f"objective {bank.objective.tolist()}; a random vector has {random:.2g}")


def elicit_kl(s: Subject) -> None:
    bank = elicited(s, divergence=OutputKL(s.model), measured=ts.Positions(last=1))
    for v, vector in enumerate(bank.vectors):
        nats = torch.zeros((), dtype=torch.float64)
        for row in s.tokens.rows():
            before = s.truth(row[None])[0][0, -1].double()
            after = s.truth(row[None], Edit(SOURCE, vector))[0][0, -1].double()
            nats += (before.exp() * (before - after)).sum()
        near("KL", bank.objective[v], nats, torch.zeros(()))


def elicit_auto(s: Subject) -> None:
    """The default radius: it generates, and steered text has to stay fluent."""
    bank = elicited(s, n=1, radius="auto", method=Power(steps=1))
    if not 0 < bank.radius < math.inf:
        raise Wrong(f"radius {bank.radius}")
    near("norm", bank.vectors.norm(), torch.tensor(bank.radius), torch.zeros(()))


# --- steering ---------------------------------------------------------------------------------


def perturbing(s: Subject) -> None:
    """A forward pass of whole rows, each row its own vector."""
    edits = s.additive(SOURCE)
    for row in s.tokens.rows():
        clean, _ = s.truth(row[None])
        with torch.no_grad(), ts.perturbing(s.model, edits, rows=torch.tensor([1, 0])):
            logits = s.model(torch.stack([row, row]), return_type="logits")
        for i, v in enumerate((1, 0)):
            steered, _ = s.truth(row[None], Edit(SOURCE, edits.vectors.detach()[v]))
            near(f"vector {v}", _logprobs(logits[i]), steered[0], clean[0])


def perturbing_positions(s: Subject) -> None:
    """A right-padded batch, steered at some of its tokens."""
    for positions in (ts.Positions(last=1), ts.Positions(bos=False)):
        one = s.additive(SOURCE, positions).select([0])
        with torch.no_grad(), ts.perturbing(s.model, one, tokens=s.tokens):
            logits = s.model(
                s.tokens.ids, attention_mask=s.tokens.mask.long(), return_type="logits"
            )
        chosen = s.tokens.select(positions)
        for p, row in enumerate(s.tokens.rows()):
            at = chosen[p : p + 1, : len(row)]
            clean, _ = s.truth(row[None])
            steered, _ = s.truth(row[None], Edit(SOURCE, one.vectors.detach()[0], at))
            near(f"prompt {p}", _logprobs(logits[p, : len(row)]), steered[0], clean[0])


def padded_left(s: Subject) -> None:
    """As transformers pads for generation; with the last token alone: steered there, or refused."""
    ids, mask = _left(s)
    edit = s.additive(SOURCE).select([0])
    truth = _padding_truth(s, ids, mask)
    clean, _ = truth(ids, mask=mask)
    steered, _ = truth(ids, Edit(SOURCE, edit.vectors.detach()[0]), mask=mask)
    with torch.no_grad(), ts.perturbing(s.model, edit):
        logits = s.model(ids, attention_mask=mask.long(), return_type="logits")
    near("all tokens", _logprobs(logits)[mask], steered[mask], clean[mask])


def padded_left_last(s: Subject) -> None:
    ids, mask = _left(s)
    edit = s.additive(SOURCE, ts.Positions(last=1)).select([0])
    at = torch.zeros_like(mask)
    at[:, -1] = True
    truth = _padding_truth(s, ids, mask)
    clean, _ = truth(ids, mask=mask)
    steered, _ = truth(ids, Edit(SOURCE, edit.vectors.detach()[0], at), mask=mask)
    with torch.no_grad(), ts.perturbing(s.model, edit, tokens=s.tokens):
        logits = s.model(ids, attention_mask=mask.long(), return_type="logits")
    near("last token", _logprobs(logits)[:, -1], steered[:, -1], clean[:, -1])


def _left(s: Subject) -> tuple[Tensor, Tensor]:
    rows, width = s.tokens.rows(), int(s.tokens.lengths.max())
    ids = torch.stack([nn.functional.pad(row, (width - len(row), 0), value=1) for row in rows])
    mask = torch.stack([torch.arange(width) >= width - len(row) for row in rows])
    return ids, mask


def _padding_truth(s: Subject, ids: Tensor, mask: Tensor) -> Truth:
    """transformers, where its plain pass counts positions from the mask as TransformerLens does;
    else the model itself."""
    own = own_truth(s.model)
    apart = (own(ids, mask=mask)[0] - s.truth(ids, mask=mask)[0])[mask].abs().max()
    return s.truth if float(apart) < 1e-3 else own


def _logprobs(logits: Tensor) -> Tensor:
    return logits.float().log_softmax(dim=-1)


def _texts(s: Subject, vector: Tensor | None) -> list[str]:
    edits = [] if vector is None else [Edit(SOURCE, vector)]
    return [_text(s, s.truth.continued(row, NEW, *edits, ends=[1])) for row in s.tokens.rows()]


def _text(s: Subject, told: Sequence[int]) -> str:
    return str(s.model.tokenizer.decode(list(told), skip_special_tokens=True))


def generate(s: Subject) -> None:
    """With a cache, without one, and by transformers, without any cache."""
    for cached in (True, False):
        said = ts.generate(s.model, s.bank, PROMPTS, max_new_tokens=NEW, use_past_kv_cache=cached)
        same(f"unsteered, cached={cached}", list(said.unsteered), _texts(s, None))
        for v, vector in enumerate(s.bank.vectors):
            same(f"vector {v}, cached={cached}", list(said.texts[v]), _texts(s, vector))


def hf_generate(s: Subject) -> None:
    """The bridge's door to transformers' own generation."""
    if not hasattr(s.model, "hf_generate"):
        raise Absent("no hf_generate")
    vector = s.bank.vectors[0]
    for row in s.tokens.rows():
        with torch.no_grad(), ts.perturbing(s.model, s.bank[0]):
            try:
                out = s.model.hf_generate(row[None], max_new_tokens=NEW, do_sample=False)
            except NotImplementedError as error:
                raise Absent(str(error)) from error
        ids = out if isinstance(out, Tensor) else out.sequences
        told = ids[0, len(row) :].tolist()
        same("tokens", told, s.truth.continued(row, NEW, Edit(SOURCE, vector), ends=[1]))


# --- reading ----------------------------------------------------------------------------------


def sweep(s: Subject) -> None:
    """What changes behind each prompt, and what is said."""
    told: dict[str, list[str]] = {}

    def length(prompt: str, text: str) -> float:
        told.setdefault(prompt, []).append(text)
        return float(len(text))

    metrics = ["kl", "entropy", "flip", "divergence", Scorer("length", length)]
    found = ts.sweep(
        s.model, s.bank, PROMPTS, metrics=metrics, generate=NEW, n_random=2, progress=False
    )
    if found.failures():
        raise Wrong(f"failed cells: {found.failures()[:2]}")
    said = [_texts(s, vector) for vector in s.bank.vectors]
    for p, row in enumerate(s.tokens.rows()):
        base = s.truth(row[None])[0][0, -1].double()
        clean = s.inner(row[None], read=[TARGET])[1][TARGET][0, -2:]
        for v, vector in enumerate(s.bank.vectors):
            own = s.truth(row[None], Edit(SOURCE, vector))[0][0, -1].double()
            seen = s.inner(row[None], Edit(SOURCE, vector), read=[TARGET])[1][TARGET][0, -2:]
            truths = {
                "kl": float((own.exp() * (own - base)).sum()),
                "entropy": float(_entropy(own) - _entropy(base)),
                "flip": float(own.argmax() != base.argmax()),
                "divergence": float((seen - clean).norm()),
                "length": float(len(said[v][p])),
            }
            for name, truth in truths.items():
                value = float(found.values(name)[v, p])
                if not abs(value - truth) <= 1e-3 * abs(truth) + 2e-5:
                    raise Wrong(f"{name} of vector {v}, prompt {p}: {value:.6g}, not {truth:.6g}")


def _entropy(logprobs: Tensor) -> Tensor:
    return -(logprobs.exp() * logprobs).sum()


def inspect(s: Subject) -> None:
    row = s.tokens.rows()[2]
    seen = ts.inspect(s.model, s.bank, PROMPTS[2], top=4)
    clean, before = s.truth(row[None])[0][0].double(), s.inner(row[None], read=[TARGET])[1][TARGET]
    same("likely, unsteered", seen.likely[0, :, 0].tolist(), clean.argmax(dim=-1).tolist())
    for v, vector in enumerate(s.bank.vectors):
        own = s.truth(row[None], Edit(SOURCE, vector))[0][0].double()
        after = s.inner(row[None], Edit(SOURCE, vector), read=[TARGET])[1][TARGET]
        nats = (own.exp() * (own - clean)).sum(dim=-1)
        near("KL", seen.kl[v], nats, torch.zeros_like(nats))
        same("likely, steered", seen.likely[v + 1, :, 0].tolist(), own.argmax(dim=-1).tolist())
        moved = (after - before)[0].norm(dim=-1)
        near("response", seen.response[v, LAST + 1], moved, torch.zeros_like(moved))
        gain = (own.exp() - clean.exp())[-1]
        same("gained", int(seen.gained[v, -1, 0]), int(gain.argmax()))
    _attributed(s, seen)


def _attributed(s: Subject, seen: Any) -> None:
    """What is attributed to parts adds up to what the logits did."""
    if seen.toward.shape[1] == 0:
        s.notes.append("inspect: no lens, no attribution")
        return
    total = seen.direct.double().sum(dim=(1, 2))
    near("attribution", total, seen.moved.double(), torch.zeros_like(total), 0.02)


# --- watching ---------------------------------------------------------------------------------


def _monitor(s: Subject) -> Any:
    generator = torch.Generator().manual_seed(8)
    asked = [
        " ".join(f"t{int(i)}" for i in torch.randint(3, 98, (4 + k % 3,), generator=generator))
        for k in range(42)
    ]
    return ts.Monitor.fit(s.model, s.bank, asked[:36], horizon=2, effect_prompts=4, ends=1), asked[
        36:40
    ]


def monitor(s: Subject) -> None:
    """Live statistics are those of activations that a hook of one's own reads meanwhile."""
    watched, asked = _monitor(s)
    rows = [s.model.to_tokens(prompt)[0] for prompt in asked]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "a.sqlite"
        with ts.watch(s.model, watched, alpha=0.2, log=log, drift=None):
            for row in rows:
                _answer(s, row)
        live = [row["statistic"] for row in read_log(log, "requests")]
    same("requests", len(live), len(rows))
    for row, statistic in zip(rows, live, strict=True):
        seen: list[Tensor] = []
        remove = own_truth(s.model).place(TARGET).hook(lambda x, seen=seen: seen.append(x[:, -1:]))
        told = _answer(s, row)
        remove()
        spoken = told.index(1) if 1 in told[:2] else 2  # an end of text does not count
        truth = _scored(watched, torch.cat(seen, dim=1), spoken)
        if not abs(statistic - truth) <= 2e-3 * abs(truth) + 2e-3:
            raise Wrong(f"statistic {statistic:.6g}, offline {truth:.6g}")
        alone = s.inner(torch.cat([row, torch.tensor(told[:2])])[None], read=[TARGET])[1][TARGET]
        if float((alone[0, -3:] - _rows_of(seen)).norm()) > 0.01 * float(alone[0, -3:].norm()):
            s.notes.append("cached activations of this model are not those of a full pass")


def _rows_of(seen: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(seen), dim=1)[0]


def _answer(s: Subject, row: Tensor) -> list[int]:
    out = s.model.generate(
        row[None],
        max_new_tokens=3,
        do_sample=False,
        stop_at_eos=False,
        verbose=False,
        return_type="tokens",
    )
    return [int(token) for token in out[0, len(row) :]]


def _scored(watched: Any, seen: Tensor, spoken: int) -> float:
    mask = torch.arange(3)[None] <= spoken
    return float(watched.score({TARGET: seen.detach().float()}, mask=mask).statistic)


def attach(s: Subject) -> None:
    """The monitor on the model of transformers, with no TransformerLens around it."""
    if s.plain is None:
        raise Absent("no plain model with these weights")
    watched, asked = _monitor(s)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "a.sqlite"
        with watched.attach(s.plain, alpha=0.2, log=log, drift=None), torch.no_grad():
            for prompt in asked:
                row = s.model.to_tokens(prompt)
                s.plain.generate(
                    row,
                    attention_mask=torch.ones_like(row),
                    max_new_tokens=3,
                    min_new_tokens=3,
                    do_sample=False,
                )
        live = [row["statistic"] for row in read_log(log, "requests")]
    same("requests", len(live), len(asked))
    for prompt, statistic in zip(asked, live, strict=True):
        truth = _ending(s, watched, s.model.to_tokens(prompt)[0])
        if not abs(statistic - truth) <= 2e-3 * abs(truth) + 2e-3:
            raise Wrong(f"statistic {statistic:.6g}, offline {truth:.6g}")


def _ending(s: Subject, watched: Any, row: Tensor) -> float:
    """Of one request that transformers was told not to end (`min_new_tokens`)."""
    told: list[int] = []
    for _ in range(2):
        logprobs = s.truth(torch.cat([row, torch.tensor(told, dtype=row.dtype)])[None])[0][0, -1]
        logprobs[1] = -torch.inf
        told.append(int(logprobs.argmax()))
    grown = torch.cat([row, torch.tensor(told)])[None]
    return _scored(watched, s.inner(grown, read=[TARGET])[1][TARGET][:, -3:], 2)


# --- files, adapters, conditions --------------------------------------------------------------


def replay(s: Subject) -> None:
    """Saved, loaded, and the same on a model made anew."""
    with tempfile.TemporaryDirectory() as folder:
        s.bank.save(Path(folder) / "b.safetensors")
        bank = ts.load_bank(Path(folder) / "b.safetensors")
    other = s.again()
    row = s.tokens.rows()[0]
    with torch.no_grad(), ts.perturbing(other.model, bank[1]):
        logits = other.model(row[None], return_type="logits")
    clean, _ = s.truth(row[None])
    steered, _ = s.truth(row[None], Edit(SOURCE, s.bank.vectors[1]))
    near("logits", _logprobs(logits), steered, clean)
    foreign = s.again(seed=1)
    try:
        with ts.perturbing(foreign.model, bank[1]):
            pass
    except SteerError:
        return
    raise Wrong("a model of other weights took the bank")


def adapter_mlp(s: Subject) -> None:
    _adapter(s, s.first("hook_mlp_out"))


def adapter_attention(s: Subject) -> None:
    _adapter(s, s.first("hook_attn_out"))


def _adapter(s: Subject, source: str) -> None:
    """Through hooks, as in the weights themselves (where there is one plain weight)."""
    segment = ts.Segment(s.model, s.tokens, source, TARGET)
    adapter = Adapters(rank=2)(segment, 2, 2.0, 0, ts.Positions())
    with torch.no_grad():
        steered = segment.run(adapter)
    for v in range(2):
        one = adapter.select([v])
        for p, row in enumerate(s.tokens.rows()):
            with torch.no_grad(), ts.perturbing(s.model, one):
                logits = s.model(row[None], return_type="logits")
            before, clean = s.inner(row[None], read=[TARGET])
            with _changed(s, adapter, v):
                after, seen = s.inner(row[None], read=[TARGET])
            near("target", steered[v, p, : len(row)], seen[TARGET][0], clean[TARGET][0])
            near("logits", _logprobs(logits), after, before)


class _changed:
    """The weights of a linear map, changed by an adapter for a while; or hooks that do it."""

    def __init__(self, s: Subject, adapter: Adapter, v: int) -> None:
        ((reads, writes),) = adapter.maps
        self.a, self.b = adapter.reads.detach()[v, 0], adapter.writes.detach()[v, 0]
        self.read, self.write = s.inner.place(reads), s.inner.place(writes)
        self.radius = adapter.radius
        self.undo: list[Callable[[], None]] = []

    def __enter__(self) -> None:
        map_, weight = self.read.module, getattr(self.read.module, "weight", None)
        if self.read.before and weight is not None and weight.ndim == 2:
            kept = weight.data.clone()
            self.undo = [lambda: weight.data.copy_(kept)]
            change = self.radius / self.write.scale * self.a.T @ self.b  # [d_in d_out]
            weight.data += change.T if isinstance(map_, nn.Linear) else change
            return
        found: list[Tensor] = []

        def read(x: Tensor) -> None:
            found.append(x.reshape(-1, self.a.shape[-1]))

        def write(x: Tensor) -> Tensor:
            return x + (self.radius * (found.pop() @ self.a.T) @ self.b).view(x.shape)

        self.undo = [self.read.hook(read), self.write.hook(write)]

    def __exit__(self, *_: Any) -> None:
        for undo in self.undo:
            undo()


def train_mode(s: Subject) -> None:
    """Dropout must not reach anything that is measured, and stays on afterwards."""
    other = s.again(dropout=0.4)
    other.model.train()
    getattr(other.model, "original_model", other.model).train()
    modules = [*getattr(other.model, "original_model", other.model).modules()]
    modes = [m.training for m in modules]
    bank = elicited(other)
    same("modes", [m.training for m in modules], modes)
    near("objective", bank.objective, s.bank.objective, torch.zeros(2))
    said = ts.generate(other.model, bank, PROMPTS, max_new_tokens=NEW)
    same("texts", list(said.texts[0]), _texts(s, bank.vectors[0]))


def half(s: Subject) -> None:
    """bfloat16 against the same model in bfloat16: replayed blocks are the model's own."""
    other = s.again(dtype=torch.bfloat16)
    tokens = ts.tokenize(other.model, PROMPTS)
    with torch.no_grad():
        edits = other.additive(SOURCE)
        steered = ts.Segment(other.model, tokens, SOURCE, TARGET).run(edits)
    for p, row in enumerate(tokens.rows()):
        _, clean = other.inner(row[None], read=[TARGET])
        _, seen = other.inner(row[None], Edit(SOURCE, edits.vectors.detach()[0]), read=[TARGET])
        near("target", steered[0, p, : len(row)], seen[TARGET][0], clean[TARGET][0], 0.1)
    bank = elicited(other)
    said = ts.generate(other.model, bank, PROMPTS[:1], max_new_tokens=NEW)
    if not bool(bank.objective.isfinite().all()) or len(said.texts) != 2:
        raise Wrong(f"objective {bank.objective.tolist()}")


def impossible(s: Subject) -> None:
    """What cannot be is refused in words, and nothing else."""
    tries: Mapping[str, Callable[[], Any]] = {
        "target before source": lambda: elicited(s, source=TARGET, target=SOURCE),
        "no such layer": lambda: elicited(s, source="blocks.99.hook_resid_post"),
        "no such point": lambda: elicited(s, source="blocks.1.hook_nothing"),
        "no target": lambda: elicited(s, target="blocks.3.mlp.hook_post"),
        "attention scores": lambda: elicited(s, source="blocks.1.attn.hook_attn_scores"),
        "embedding": lambda: elicited(s, source="hook_embed"),
    }
    for name, attempt in tries.items():
        try:
            attempt()
        except HookPointError as error:
            if len(str(error)) < 20:
                raise Wrong(f"{name}: {error}") from error
        else:
            raise Wrong(f"{name}: done without a word")


CELLS: Mapping[str, Callable[[Subject], None]] = {
    "segment post": segment_post,
    "segment pre": segment_pre,
    "segment within": segment_within,
    "segment attn_out": segment_attention,
    "segment mlp_out": segment_mlp,
    "segment z": segment_z,
    "segment neurons": segment_neurons,
    "segment to parts": segment_to_parts,
    "segment mid": segment_mid,
    "segment batches": segment_batches,
    "segment positions": segment_positions,
    "elicit": elicit,
    "elicit KL": elicit_kl,
    "elicit auto": elicit_auto,
    "perturbing": perturbing,
    "perturbing positions": perturbing_positions,
    "padded left": padded_left,
    "padded left, last": padded_left_last,
    "generate": generate,
    "hf_generate": hf_generate,
    "sweep": sweep,
    "inspect": inspect,
    "monitor": monitor,
    "attach": attach,
    "replay": replay,
    "adapter mlp": adapter_mlp,
    "adapter attn": adapter_attention,
    "train mode": train_mode,
    "bfloat16": half,
    "impossible": impossible,
}
