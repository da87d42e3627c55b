"""What a bank can hold, and what it takes for the unsteered model."""

import contextlib
import dataclasses

import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET, bank_of
from test_bank import bank, same
from torch import nn

import tl_steer as ts
from tl_steer.errors import SettingError
from tl_steer.perturbations.kinds import KINDS

MEASURED = ts.Positions(last=1, bos=False)


class Twice(ts.Additive):
    def forward(self, activation, rows):
        return super().forward(super().forward(activation, rows), rows)


class Hooked(ts.Additive):
    def hooks(self, **knobs):
        return [*super().hooks(**knobs), *super().hooks(**knobs)]


class Narrow(ts.perturbations.Adapter):
    """Another class by another name, which no bank knows."""

    kind = "narrow"


class Loose(ts.Perturbation):
    """Not registered."""

    def __init__(self, site, vectors):
        super().__init__(site)
        self.vectors = nn.Parameter(vectors)

    def forward(self, activation, rows):
        return activation + self.vectors[rows][:, None].to(activation)

    def project_(self):
        pass


class Gain(ts.Perturbation):
    """Multiplies; ones are the identity, and zeros are not."""

    def __init__(self, site, gains, *, radius=1.0, positions=ts.Positions()):  # noqa: B008
        super().__init__(site, radius=radius, positions=positions)
        self.gains = nn.Parameter(gains.detach().clone())

    def forward(self, activation, rows):
        return activation * self.gains[rows.to(self.gains.device)][:, None].to(activation)

    def project_(self):
        pass


@contextlib.contextmanager
def known(kind, name="gain"):
    ts.perturbations.register(name)(kind)
    try:
        yield
    finally:
        del KINDS[name]
        del kind.kind


def start_of(kind):
    def start(segment, n, radius, seed, positions):
        generator = torch.Generator().manual_seed(seed)
        vectors = torch.randn(n, segment.source.width, generator=generator)
        if kind is Narrow:
            wide = torch.randn(n, 1, 1, segment.source.width, generator=generator)
            site = dataclasses.replace(segment.source, kind="hook_mlp_out")
            return Narrow(site, wide, wide)
        return kind(segment.source, 1 + vectors if kind is Gain else vectors)

    return start


def elicit(model, kind, method="power"):
    return ts.elicit(
        model,
        PROMPTS,
        source=SOURCE,
        target=TARGET,
        n=2,
        radius=1.0,
        perturbation=start_of(kind),
        measured=MEASURED,
        method=method,
        progress=False,
    )


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Twice, "its kind 'additive' is that of Additive"),
        (Hooked, "its kind 'additive' is that of Additive"),
        (Narrow, "not registered"),
        (Loose, "not registered"),
        (Gain, "not registered"),
    ],
)
def test_what_no_bank_can_hold_is_refused_before_the_first_step(one, kind, told):
    steps = []

    def method(objective, start):
        steps.append(1)
        yield ts.methods.Iterate(start, objective(start).value, 1, 1)

    with pytest.raises(SettingError, match=rf"cannot hold a {kind.__name__}: .*{told}"):
        elicit(one, kind, method)
    assert steps == []


def test_a_method_that_changes_the_kind_is_refused_at_its_first_step(one):
    steps = []

    def method(objective, start):
        for step in (1, 2, 3):
            steps.append(step)
            found = Twice(start.site, start.vectors.detach())
            yield ts.methods.Iterate(found, objective(found).value, step, 3)

    with pytest.raises(SettingError, match="cannot hold a Twice"):
        elicit(one, ts.Additive, method)
    assert steps == [1]


def test_a_kind_that_does_not_come_back_as_it_was_is_refused(one):
    class Lossy(Gain):
        @classmethod
        def unpack(cls, site, rows, **knobs):
            return super().unpack(site, rows.round(), **knobs)

    with known(Lossy, "lossy"), pytest.raises(SettingError, match="not what was packed"):
        elicit(one, Lossy)


def gains(model):
    held = bank_of(model, 4)
    rows = 1 + 0.5 * torch.randn(4, 24, generator=torch.Generator().manual_seed(0))
    form = {"parameters": {"gains": [24]}, "settings": {}}
    return dataclasses.replace(held, vectors=rows, kind="gain", form=form)


def test_the_unsteered_model_beside_a_kind_of_ones_own_is_the_unsteered_model(llama):
    plain, prompts = ts.generate(llama, bank_of(llama), PROMPTS, max_new_tokens=4), PROMPTS
    with known(Gain):
        own = gains(llama)
        assert ts.generate(llama, own, prompts, max_new_tokens=4).unsteered == plain.unsteered
        fast = {"n_random": 2, "metrics": ["kl", "entropy"], "progress": False}
        mine = ts.sweep(llama, own, prompts, **fast)
        theirs = ts.sweep(llama, bank_of(llama), prompts, **fast)
        assert (mine.values("kl", kind="unsteered") < 1e-5).all()
        bare = [found.values("entropy", kind="unsteered") for found in (mine, theirs)]
        assert abs(bare[0] - bare[1]).max() < 1e-5
        seen, other = (ts.inspect(llama, b, PROMPTS[0]) for b in (own, bank_of(llama)))
        torch.testing.assert_close(seen.clean, other.clean)
        torch.testing.assert_close(seen.likely_lp[0], other.likely_lp[0])


# What is saved can be loaded

LONG = [
    ("x" * 300,) * 4096,
    ("random",) * 120_000,
    ("🙂" * 20,) * 5000,
    ("\ud800 half", "\x00", '"\\"', *[""] * 3),
]


@pytest.mark.parametrize("labels", LONG, ids=["long", "many", "emoji", "odd"])
def test_labels_come_back_however_many_and_however_long(tmp_path, labels):
    before = bank(len(labels), labels=labels)
    assert same(ts.load_bank(before.save(tmp_path / "b.safetensors")), before)


def settings(value):
    return {
        "provenance": dataclasses.replace(bank().provenance, settings={"a": value}),
    }


def deep(n):
    value = 0
    for _ in range(n):
        value = [value]
    return value


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ("x" * 10_000_000,) * 5},
        {"vectors": torch.full((5, 6), float("nan"))},
        {"radius": float("inf")},
        {"responses": torch.zeros(5, 7)},
        {"scores": {"\ud800": torch.zeros(5)}},
        {"source": ts.hook_points.Site("blocks.2.hook_resid_post", 1, "hook_resid_post", 6)},
        {"provenance": dataclasses.replace(bank().provenance, seed=2**70)},
        settings(deep(200)),
        settings(10**5000),
        settings(object()),
        settings(torch.zeros(2)),
    ],
)
def test_what_could_not_be_loaded_is_refused_and_the_old_file_stays(tmp_path, change):
    path = bank().save(tmp_path / "b.safetensors")
    before = path.read_bytes()
    with pytest.raises(SettingError):
        dataclasses.replace(bank(), **change).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("value", [(1, (2, 3)), {"b": (1,)}, {3: "x"}, deep(40), 2**63, None])
def test_settings_of_any_kind_come_back_equal(tmp_path, value):
    before = dataclasses.replace(bank(), **settings(value))
    assert same(ts.load_bank(before.save(tmp_path / "b.safetensors")), before)


def test_scores_that_are_the_objective_itself_and_half_precision_are_saved(tmp_path):
    before = bank().with_score("own", bank().objective)
    before = dataclasses.replace(
        before.with_score("again", before.objective), responses=before.responses.bfloat16()
    )
    after = ts.load_bank(before.save(tmp_path / "b.safetensors"))
    assert same(after, before)
    assert torch.equal(after.scores["again"], before.objective)
