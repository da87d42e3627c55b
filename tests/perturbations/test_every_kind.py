"""Every kind of perturbation through every verb, one of the test's own among them."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET
from gain_kind import Gain
from tiny_monitor import prompts as many
from torch.nn.functional import normalize

import tl_steer as ts
from tl_steer.banks import halve
from tl_steer.elicitation import Adapters, Layers
from tl_steer.errors import BankFileError, SettingError
from tl_steer.hook_points import GENERATED, PROMPT
from tl_steer.monitoring.detectors import MatchedFilter
from tl_steer.perturbations import Ablation, Additive, Clamp, Gated, MultiSite

MLP = "blocks.1.hook_mlp_out"
LAST = ts.Positions(last=1, bos=False)
FAST = ts.methods.Power(steps=2)


def mixed(segment, n, radius, seed, positions):
    """A vector at the source and a direction taken out one block later."""
    generator = torch.Generator().manual_seed(seed)
    model, make = segment.model, {"generator": generator, "radius": radius}
    later = ts.models.resolve(model, "blocks.2.hook_resid_post")
    parts = [Additive.random(segment.source, n, **make), Ablation.random(later, n, **make)]
    return MultiSite(parts, positions=positions)


# What `elicit(perturbation=)` is given, and where.
STARTS = {
    "additive": (Additive, SOURCE),
    "norm_preserving": ("norm_preserving", SOURCE),
    "ablation": (Ablation, SOURCE),
    "clamp": (Clamp, SOURCE),
    "gated": (functools.partial(Gated, threshold=-0.1), SOURCE),
    "adapter": (Adapters(rank=1), MLP),
    "layers": (Layers((1, 2, 3)), SOURCE),
    "mixed": (mixed, SOURCE),
    "gain": (functools.partial(Gain, floor=0.1), SOURCE),
}
KINDS = pytest.mark.parametrize("kind", STARTS)


def elicit(model, kind, *, n=3, method=FAST, radius=2.0, **knobs):
    start, source = STARTS[kind]
    if kind == "layers":
        assert source.startswith("blocks.1.")
    return ts.elicit(
        model, PROMPTS, source=source, target=TARGET, n=n, radius=radius, perturbation=start,
        measured=LAST, method=method, progress=False, **knobs,
    )  # fmt: skip


_banks = {}


def bank_of(model, kind):
    if (id(model), kind) not in _banks:
        _banks[id(model), kind] = elicit(model, kind)
    return _banks[id(model), kind]


def logits(model, *edits, **knobs):
    with torch.no_grad():
        ids = ts.tokenize(model, PROMPTS[:1]).ids
        if not edits:
            return model(ids, return_type="logits")
        with ts.perturbing(model, *edits, **knobs):
            return model(ids, return_type="logits")


# What a kind is supposed to do, restated slowly.
def added(x, rows):
    return x + rows["vectors"]


def turned(x, rows):
    y = x + rows["vectors"]
    return y / y.norm() * x.norm()


def without(x, rows):
    d = rows["directions"]
    return x - (x @ d) * d


def clamped(x, rows):
    d = rows["directions"]
    return x - (x @ d) * d + 2.0 * d


def where_alike(x, rows):
    alike = x @ rows["gates"] / (x.norm() * rows["gates"].norm())
    return x + rows["vectors"] if alike > -0.1 else x


def multiplied(x, rows):
    return x * 1.1 * rows["gains"]


TRUTH = {
    "additive": added,
    "norm_preserving": turned,
    "ablation": without,
    "clamp": clamped,
    "gated": where_alike,
    "gain": multiplied,
}


@pytest.mark.parametrize("kind", TRUTH)
def test_a_kind_does_token_by_token_what_its_formula_says(llama, kind):
    bank = bank_of(llama, kind)
    edits = bank.perturbation()
    rows = [
        {name: values.detach()[k] for name, values in edits.named_parameters()}
        for k in range(len(bank))
    ]
    x = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(1))
    out = edits(x, torch.arange(3)).detach()
    slow = torch.stack(
        [torch.stack([TRUTH[kind](token, rows[k]) for token in x[k]]) for k in range(3)]
    )
    torch.testing.assert_close(out, slow, atol=1e-5, rtol=1e-5)
    assert float((out - x).abs().max()) > 0.01


@KINDS
def test_training_moves_the_kind_and_together_is_as_alone(llama, kind):
    bank = bank_of(llama, kind)
    assert (bank.objective > 0).all()
    assert bank.responses.isfinite().all()
    start = elicit(llama, kind, method=ts.methods.Power(steps=1, spread=0))
    assert bank.objective.sum() >= start.objective.sum() * 0.999
    tokens = ts.tokenize(llama, PROMPTS)
    segment = ts.Segment(llama, tokens, bank.source, bank.target)
    with torch.no_grad():
        together = segment.run(bank.perturbation())
        alone = torch.cat([segment.run(one.perturbation()) for one in bank])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@KINDS
@pytest.mark.parametrize("name", ["melbo", "dct", "sogi", "ascent", "quadratic", "jacobian"])
def test_every_method_trains_it_or_says_in_a_sentence_why_not(one, kind, name):
    quick = {
        "melbo": ts.methods.Melbo(steps=2),
        "dct": ts.methods.Dct(steps=2),
        "sogi": ts.methods.Sogi(steps=2),
        "ascent": ts.methods.Ascent(steps=2),
        "quadratic": ts.methods.Quadratic(steps=2),
        "jacobian": ts.methods.Jacobian(passes=2),
    }
    if (kind, name) in REFUSED:
        with pytest.raises(SettingError, match=r"no derivative|to first order"):
            elicit(one, kind, n=2, method=quick[name])
        return
    bank = elicit(one, kind, n=2, method=quick[name])
    assert (len(bank), bank.kind) == (2, bank_of(one, kind).kind)


# Zeros of these do something, or nothing to first order.
REFUSED = {
    ("ablation", "jacobian"),
    ("adapter", "jacobian"),
    ("gain", "jacobian"),
    ("gain", "quadratic"),
}


@KINDS
@pytest.mark.parametrize(
    "rule", [ts.radii.ShareOfNorm(0.1), ts.radii.Calibrated(n=3)], ids=["share", "calibrated"]
)
def test_a_radius_rule_is_for_kinds_that_say_their_radius_is_a_norm(one, kind, rule):
    if bank_of(one, kind).perturbation().radius_is_norm:
        bank = elicit(one, kind, radius=rule, method=ts.methods.Power(steps=1))
        assert bank.radius > 0
        assert bank.radius_share == pytest.approx(bank.radius / _norm(one, bank))
    else:
        with pytest.raises(SettingError, match="Give a number"):
            elicit(one, kind, radius=rule)
        assert torch.tensor(bank_of(one, kind).radius_share).isnan()


def _norm(model, bank):
    return ts.Segment(model, ts.tokenize(model, PROMPTS), bank.source, bank.target).source_norm()


@KINDS
def test_a_file_gives_back_the_same_edits(llama, kind, tmp_path):
    bank = bank_of(llama, kind)
    again = ts.load_bank(bank.save(tmp_path / "b.safetensors"))
    assert (again.kind, again.digest()) == (bank.kind, bank.digest())
    torch.testing.assert_close(logits(llama, again[1]), logits(llama, bank[1]))
    assert float((logits(llama, again[1]) - logits(llama)).abs().max()) > 1e-3


def test_a_fresh_process_reads_it_once_it_has_imported_the_module(one, tmp_path):
    path = bank_of(one, "gain").save(tmp_path / "b.safetensors")
    read = f"import tl_steer as ts; print(ts.load_bank({str(path)!r}).kind)"
    for begin, works in (("", False), ("import gain_kind; ", True)):
        ran = subprocess.run(
            [sys.executable, "-c", begin + read],
            capture_output=True, text=True, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        assert (ran.stdout.strip() == "test_gain") == works
        assert ("import gain_kind first" in ran.stderr) != works
        assert not works or not ran.stderr


@pytest.mark.parametrize(
    "forged",
    [
        {"parameters": {"gains": [23]}, "settings": {"floor": 0.1}},
        {"parameters": {"forward": [24]}, "settings": {}},
        {"parameters": {"gains": [24]}, "settings": {"forward": 1}},
        {"parameters": {"gains": [24]}, "settings": {"_parameters": {}}},
        {"parameters": {"gains": [24]}, "settings": {"sites": []}},
        {"parameters": {"gains": [-24]}, "settings": {}},
        {"parameters": {}, "settings": {}},
        {"parameters": {"gains": 24}},
        {},
    ],
)
def test_a_forged_form_is_refused(one, tmp_path, forged, monkeypatch):
    bank = bank_of(one, "gain")
    contents, tensors = bank.contents()
    path = bank.save(tmp_path / "b.safetensors")
    monkeypatch.setattr(ts.Bank, "contents", lambda self: (contents | {"form": forged}, tensors))
    bank.save(path)
    with pytest.raises((BankFileError, SettingError)):
        ts.load_bank(path).perturbation()


@KINDS
def test_a_control_is_of_the_same_kind_and_keeps_its_constraint(one, kind):
    bank = bank_of(one, kind)
    random = ts.random_bank(bank, n=5)
    assert (random.kind, random.form, len(random)) == (bank.kind, bank.form, 5)
    edits = random.perturbation()
    edits.project_()
    torch.testing.assert_close(edits.pack(), random.vectors)


@KINDS
def test_text_beside_the_unsteered_model_whose_row_gets_no_edit(llama, kind):
    bank = bank_of(llama, kind)
    told = ts.generate(llama, bank, PROMPTS, max_new_tokens=3)
    plain = ts.generate(llama, bank_of(llama, "additive"), PROMPTS, max_new_tokens=3)
    assert told.unsteered == plain.unsteered
    nothing = ts.generate(llama, bank, PROMPTS, max_new_tokens=3, scale=0)
    assert set(nothing.texts) == {plain.unsteered}
    uncached = ts.generate(llama, bank, PROMPTS, max_new_tokens=3, use_past_kv_cache=False)
    assert uncached.texts == told.texts


@KINDS
def test_sweeps_inspections_doses_and_reports_take_it(one, kind, tmp_path):
    bank = bank_of(one, kind)
    swept = ts.sweep(one, bank, PROMPTS, n_random=2, doses=(0.5, 1), progress=False)
    assert (swept.values("kl", kind="unsteered") < 1e-5).all()
    assert (swept.values("kl", dose=1.0) > 1e-6).any()
    seen = ts.inspect(one, bank, PROMPTS[0])
    assert seen.kl.shape[0] == len(bank)
    assert float(seen.kl.max()) > 1e-6
    doses = ts.dose_response(one, bank, PROMPTS[:1], shares=(0.5, 1), max_new_tokens=2)
    by_share = {d.share: d.kl for d in doses.doses if not d.control and d.sign == 1}
    assert all(value >= 0 for value in by_share.values())
    page = ts.report(bank, inspections=[seen]).save(tmp_path / "r.html")
    assert page.stat().st_size > 1000


@KINDS
def test_halving_and_growth_take_it(one, kind):
    bank = bank_of(one, kind)

    def length(prompts, texts):
        return [float(len(text)) for text in texts]

    found = halve(one, bank, length, PROMPTS[:2], held_out=PROMPTS[2:], keep=1, max_new_tokens=2)
    assert len(found.winners) == 1
    grown = ts.banks.Growth(factors=(0.5, 1))(one, bank, ts.tokenize(one, PROMPTS))
    assert grown.isfinite().all()


@KINDS
def test_a_monitor_takes_it_and_comes_back_from_its_file(one, kind, tmp_path):
    monitor = ts.Monitor.fit(
        one, bank_of(one, kind), many(60), sites=[TARGET], score=MatchedFilter(), horizon=2,
        effect_prompts=4,
    )  # fmt: skip
    path = monitor.save(tmp_path / "m.safetensors")
    again = ts.Monitor.load(path)
    assert again.bank.kind == bank_of(one, kind).kind


class _Cut(ts.methods.Power):
    """Power iteration that is interrupted once."""

    cut = True

    def __call__(self, objective, start, *, resume=None):
        for iterate in super().__call__(objective, start, resume=resume):
            yield iterate
            if type(self).cut and iterate.step == 2:
                raise KeyboardInterrupt


@KINDS
def test_a_run_that_was_cut_off_goes_on_to_the_same_bank(one, kind, tmp_path, monkeypatch):
    method, path = _Cut(steps=4, tolerance=0, spread=0.5), tmp_path / "c.safetensors"
    elicit(one, kind, method=method, checkpoint=path, every=0)
    monkeypatch.setattr(_Cut, "cut", False)
    resumed = elicit(one, kind, method=method, resume=path)
    whole = elicit(one, kind, method=method)
    assert torch.equal(resumed.vectors, whole.vectors)


# Strength and schedule where it is used


@KINDS
def test_a_strength_lies_on_the_line_from_no_edit_to_all_of_it(llama, kind):
    """At the hook point itself; `Additive`, whose strength is a length, among them."""
    edits = bank_of(llama, kind)[:2].perturbation()
    if type(edits).hooks is not ts.Perturbation.hooks:
        return  # several hook points: the next test
    x = torch.randn(2, 4, 24, generator=torch.Generator().manual_seed(2))
    whole = edits(x, torch.arange(2)).detach()
    for s in (0.0, 0.5, 1.0, -1.0):
        ((_, hook),) = edits.scaled(torch.tensor([s, 1.0])).hooks(rows=torch.arange(2))
        out = hook(x).detach()
        torch.testing.assert_close(out[1], whole[1], atol=1e-6, rtol=1e-5)
        if kind == "norm_preserving":  # a shorter vector, and not half of the turn
            assert torch.allclose(out[0].norm(dim=-1), x[0].norm(dim=-1), atol=1e-4)
        else:
            torch.testing.assert_close(out[0], x[0] + s * (whole[0] - x[0]), atol=1e-5, rtol=1e-4)


@KINDS
def test_a_choice_of_scaled_edits_keeps_their_strengths(one, kind):
    edits = bank_of(one, kind).perturbation().scaled(torch.tensor([0.0, 1.0, 0.5]))
    tokens = ts.tokenize(one, PROMPTS[:1])
    segment = ts.Segment(one, tokens, edits.site.name, TARGET)
    with torch.no_grad():
        whole = segment.run(edits)
        part = segment.run(edits.select([2, 0]))
        torch.testing.assert_close(part, whole[[2, 0]], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(part[1], segment.clean, atol=1e-5, rtol=1e-5)
    assert float((part[0] - segment.clean).abs().max()) > 1e-4


@KINDS
def test_scales_are_numbers_one_for_each_vector(llama, kind):
    bank, tokens = bank_of(llama, kind), ts.tokenize(llama, PROMPTS[:1])
    plain = logits(llama)
    assert torch.equal(logits(llama, bank[0], scale=0), plain)
    assert torch.equal(logits(llama, bank[0], scale=1), logits(llama, bank[0]))
    rows = tokens.ids.repeat(3, 1)
    with torch.no_grad():
        with ts.perturbing(llama, bank, rows=torch.arange(3), scale=[0, 1, 0.5]):
            out = llama(rows, return_type="logits")
    torch.testing.assert_close(out[:1], plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out[1:2], logits(llama, bank[1]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out[2:], logits(llama, bank[2], scale=0.5), atol=1e-5, rtol=1e-5)
    for wrong in ([1, 2], float("nan"), float("inf")):
        with pytest.raises(SettingError, match="scale="):
            logits(llama, bank, scale=wrong, rows=torch.arange(1))


def _cached(model, ids):
    """Four tokens of cached generation: the ids, and what stood at the target while it ran."""
    parts = []

    def keep(activation, hook=None):
        parts.append(activation.clone())

    model.hook_dict[TARGET].add_hook(keep)
    try:
        out = model.generate(ids, max_new_tokens=4, do_sample=False, verbose=False,
                             return_type="tokens", stop_at_eos=False)  # fmt: skip
    finally:
        model.hook_dict[TARGET].remove_hooks()
    return {"ids": out[:, ids.shape[1] :], "target": torch.cat(parts, dim=1)}


SCHEDULES = [
    ts.Positions(decay=0.5),
    ts.Positions(weights=(0.0, 2.0, 0.5)),
    ts.Positions(start=3),
    ts.Positions(start=6, decay=0.7),
    PROMPT,
    GENERATED,
]


def _weight(positions, place, length):
    """How strongly a token is edited, said slowly."""
    generated = place >= length
    if place < positions.start or (generated and not positions.generated):
        return 0.0
    if positions.last == 0 and not generated:
        return 0.0
    given = positions.weights[place] if place < len(positions.weights) else 1.0
    return given * (positions.decay ** (place - length + 1) if generated else 1.0)


@pytest.mark.parametrize("positions", SCHEDULES, ids=repr)
@pytest.mark.parametrize("kind", ["additive", "gain"])
def test_a_schedule_is_the_same_cached_and_uncached_and_what_it_says(llama, kind, positions):
    bank = bank_of(llama, kind)
    knobs = {"max_new_tokens": 4, "positions": positions}
    cached = ts.generate(llama, bank, PROMPTS, **knobs)
    assert cached.texts == ts.generate(llama, bank, PROMPTS, use_past_kv_cache=False, **knobs).texts
    tokens = ts.tokenize(llama, PROMPTS[:1])
    length = int(tokens.lengths[0])
    row = {n: v.detach()[1] for n, v in bank.perturbation().named_parameters()}

    def slow(activation, hook=None):
        edited = activation.clone()
        for place in range(activation.shape[1]):
            x = activation[0, place]
            by = _weight(positions, place, length)
            edited[0, place] = x + by * (TRUTH[kind](x, row) - x)
        return edited

    ids = tokens.ids[:, :length]
    with torch.no_grad(), ts.perturbing(llama, bank[1], tokens=tokens, positions=positions):
        kept = _cached(llama, ids)
        new = torch.cat([ids, kept["ids"]], dim=1)
        out = llama(new, return_type="logits")
    with torch.no_grad(), ts.models.capturing(llama, [TARGET]) as seen:
        expected = llama.run_with_hooks(new, fwd_hooks=[(SOURCE, slow)], return_type="logits")
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
    # With a cache, token by token.
    torch.testing.assert_close(kept["target"], seen[TARGET][:, :-1], atol=1e-4, rtol=1e-4)
    assert positions == ts.Positions.from_json(json.loads(json.dumps(positions.to_json())))


@pytest.mark.parametrize("positions", SCHEDULES[:4], ids=repr)
def test_a_segment_edits_prompts_by_the_schedule(llama, positions):
    edits = bank_of(llama, "additive")[0].perturbation().at(positions)
    tokens = ts.tokenize(llama, PROMPTS)
    segment = ts.Segment(llama, tokens, SOURCE, SOURCE)
    with torch.no_grad():
        moved = (segment.run(edits)[0] - segment.clean).norm(dim=-1)
    size = float(edits.vectors.norm())
    for p, length in enumerate(tokens.lengths.tolist()):
        expected = [abs(_weight(positions, i, length)) * size for i in range(length)]
        assert moved[p, :length].tolist() == pytest.approx(expected, abs=1e-4)
        assert not moved[p, length:].any()


# What is refused before training


class _Flat(ts.Perturbation):
    def __init__(self, site, rows, *, radius=1.0, positions=ts.Positions()):  # noqa: B008
        super().__init__(site, radius=radius, positions=positions)
        self.rows = torch.nn.Parameter(rows)

    def forward(self, activation, rows):
        return activation.sum(dim=-1)

    def project_(self):
        pass


class _Leaky(_Flat):
    def forward(self, activation, rows):
        return activation + activation.mean(dim=0, keepdim=True) + self.rows[rows][:, None]


class _Failing(_Flat):
    def forward(self, activation, rows):
        return activation @ self.rows


class _Hoarding(_Flat):
    def __init__(self, site, rows, *, radius=1.0, positions=ts.Positions()):  # noqa: B008
        super().__init__(site, rows, radius=radius, positions=positions)
        self.mean = torch.zeros(3)

    def forward(self, activation, rows):
        return activation + self.rows[rows][:, None]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (_Flat, "expected the same shape"),
        (_Leaky, "something else alone than beside others"),
        (_Failing, "fails on an activation"),
        (_Hoarding, "mean is a Tensor, which no file can hold"),
    ],
)
def test_a_kind_that_cannot_work_is_refused_before_training(one, kind, told, monkeypatch):
    from tl_steer.perturbations.kinds import KINDS as REGISTERED

    monkeypatch.setitem(REGISTERED, "broken", kind)
    monkeypatch.setattr(kind, "kind", "broken")
    with pytest.raises(SettingError, match=told):
        ts.elicit(
            one, PROMPTS, source=SOURCE, target=TARGET, radius=1.0, n=2, perturbation=kind,
            measured=LAST, progress=False,
        )  # fmt: skip


def test_names_are_taken_once_and_a_cell_may_run_again():
    again = ts.perturbations.register("test_gain")(Gain)
    assert again is Gain
    with pytest.raises(SettingError, match=r"gain_kind\.Gain already"):
        ts.perturbations.register("test_gain")(_Flat)
    with pytest.raises(SettingError, match="expected a name"):
        ts.perturbations.register(Gain)


def test_parts_share_their_numbers_where_they_are_one_edit(llama):
    """One vector over three layers, against a hook of the test's own in each."""
    bank = bank_of(llama, "layers")
    (edits,) = (bank[1].perturbation(),)
    assert bank.vectors.shape[1] == 24
    vector = normalize(bank.vectors[1], dim=0) * bank.vectors[1].norm()
    names = [site.name for site in edits.sites]
    hooks = [(name, lambda x, hook=None: x + vector) for name in names]
    with torch.no_grad():
        ids = ts.tokenize(llama, PROMPTS[:1]).ids
        expected = llama.run_with_hooks(ids, fwd_hooks=hooks, return_type="logits")
    assert names == [f"blocks.{i}.hook_resid_post" for i in (1, 2, 3)]
    torch.testing.assert_close(logits(llama, bank[1]), expected, atol=1e-5, rtol=1e-5)
