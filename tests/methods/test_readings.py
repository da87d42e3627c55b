"""What is read off two models is what was put between them."""

import numpy as np
import pytest
import torch
from conftest import KINDS, PROMPTS, D, make
from curved import final
from linear import LinearHost

import tl_steer as ts
from tl_steer.elicitation.run import Run
from tl_steer.errors import HookPointError, ModelError, PromptError, SettingError
from tl_steer.methods import CleanComponents, MeanDifference, WeightDifference
from tl_steer.methods.spectra import independent_rows, rounding, top_right
from tl_steer.models import Reference
from tl_steer.models.state import frozen
from tl_steer.objectives.divergence import Displacement
from tl_steer.objectives.objective import Objective

SOURCE, TARGET = "blocks.2.hook_resid_post", "blocks.3.hook_resid_post"
# A part's last map as each class of model calls it, and the axis on which it writes.
NAMES = {
    "mlp": {"down_proj": 0, "mlp._original_component.c_proj": 1, "4h_to_h": 0, "mlp.W_out": 1},
    "attn": {"o_proj": 0, "attn.o._": 1, "attention.o._": 0, "attn.W_O": 1},
}
CLASSES = [k for k in KINDS if k.endswith(("llama", "gpt2", "neox"))]


def unit(seed, d=D):
    made = torch.randn(d, generator=torch.Generator().manual_seed(seed))
    return made / made.norm()


def changed_(model, layer, part, *, size=1.0, seed=1):
    """Adds a change of rank one to a part's last map; returns the direction that it writes to."""
    writes = unit(seed)
    (axis, weight), *more = [
        (axis, p)
        for name, p in model.blocks[layer].named_parameters()
        for called, axis in NAMES[part].items()
        if called in name and p.ndim > 1
    ]
    assert not more
    with torch.no_grad():
        d_in = weight.numel() // D
        change = size * torch.outer(unit(seed + 50, d_in), writes)
        weight += (change if axis else change.T).reshape(weight.shape)
    return writes


def two(name, *changes):
    """A model with changes, and the one that it was made from."""
    model = KINDS[name]()
    return model, make(name), [changed_(model, *place, seed=i) for i, place in enumerate(changes)]


def read(method, model, *, source=SOURCE, prompts=PROMPTS, n=8, **more):
    return ts.elicit(
        model,
        prompts,
        source=source,
        target=TARGET,
        n=n,
        radius=2.0,
        method=method,
        measured=ts.Positions(last=1, bos=False),
        progress=False,
        **more,
    )


def lines(rows, others):
    """|cosine| of every row with every other."""
    return torch.nn.functional.normalize(rows, dim=1) @ torch.stack(others).T


# --- weight differences


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("part", ["attn", "mlp"])
def test_a_change_of_rank_one_is_found_both_ways_and_nothing_else(name, part):
    model, base, (planted,) = two(name, (1, part))
    bank = read(WeightDifference(base), model)
    assert len(bank) == 2
    cosines = lines(bank.vectors, [planted])[:, 0]
    torch.testing.assert_close(cosines.sort().values, torch.tensor([-1.0, 1.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(bank.vectors.norm(dim=1), torch.full((2,), 2.0))
    torch.testing.assert_close(bank.scores["singular value"], torch.ones(2), atol=1e-4, rtol=0)
    assert bank.scores["block"].tolist() == [1.0, 1.0]
    assert bank.scores["mlp"].tolist() == [float(part == "mlp")] * 2


def test_directions_are_the_left_singular_vectors_that_numpy_finds(llama):
    model = KINDS[next(k for k in KINDS if make(k) is llama)]()
    generator = torch.Generator().manual_seed(4)
    for block in model.blocks:
        for name, p in block.named_parameters():
            if p.ndim > 1 and any(x in name for part in NAMES.values() for x in part):
                with torch.no_grad():
                    p += 0.1 * torch.randn(p.shape, generator=generator)
    segment = ts.Segment(model, ts.tokenize(model, PROMPTS), SOURCE, TARGET)
    found = WeightDifference(llama, maps=("mlp",), blocks=1, top=5).directions(segment)
    change = (model.blocks[2].mlp.W_out - llama.blocks[2].mlp.W_out).detach().numpy().T
    left, values, _ = np.linalg.svd(change)
    np.testing.assert_allclose(found.scores["singular value"], values[:5], rtol=1e-4)
    np.testing.assert_allclose(
        np.abs(np.sum(found.rows.numpy() * left.T[:5], axis=1)), np.ones(5), atol=1e-3
    )


def test_larger_changes_come_first_whatever_their_block():
    name = CLASSES[0]
    model, base = KINDS[name](), make(name)
    small, large = (changed_(model, i, "mlp", size=s, seed=i) for i, s in ((2, 0.5), (0, 2.0)))
    segment = ts.Segment(model, ts.tokenize(model, PROMPTS), SOURCE, TARGET)
    found = WeightDifference(base).directions(segment)
    assert found.scores["block"].tolist() == [0.0, 2.0]
    torch.testing.assert_close(
        lines(found.rows, [large, small]).diagonal().abs(), torch.ones(2), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("blocks.2.hook_resid_post", {(1, 0), (1, 1), (2, 0), (2, 1)}),
        ("blocks.2.hook_mlp_out", {(1, 0), (1, 1), (2, 0), (2, 1)}),
        ("blocks.2.hook_attn_out", {(1, 0), (2, 0), (0, 1), (1, 1)}),
        ("blocks.2.hook_resid_pre", {(0, 0), (1, 0), (0, 1), (1, 1)}),
        ("blocks.0.hook_resid_post", {(0, 0), (0, 1)}),
    ],
)
def test_maps_that_write_behind_the_source_are_left_out(source, seen):
    places = [(i, part) for i in range(4) for part in ("attn", "mlp")]
    model, base, _ = two(CLASSES[0], *places)
    segment = ts.Segment(model, ts.tokenize(model, PROMPTS), source, TARGET)
    scores = WeightDifference(base, blocks=2).directions(segment).scores
    found = zip(scores["block"].tolist(), scores["mlp"].tolist(), strict=True)
    assert {(int(i), int(mlp)) for i, mlp in found} == seen


def test_maps_and_how_many_of_each_are_a_choice():
    model, base, _ = two(CLASSES[0], (1, "attn"), (2, "mlp"), (2, "attn"))
    segment = ts.Segment(model, ts.tokenize(model, PROMPTS), SOURCE, TARGET)
    attention = WeightDifference(base, maps=["attn", "attn"]).directions(segment)
    assert attention.scores["mlp"].tolist() == [0.0, 0.0]
    changed_(model, 2, "mlp", seed=30)
    for top, n in ((1, 1), (2, 2), (3, 2)):
        found = WeightDifference(base, maps=("mlp",), top=top).directions(segment)
        assert len(found.rows) == n


def test_a_source_that_nothing_has_written_at_is_refused():
    model, base, _ = two(CLASSES[0], (0, "mlp"))
    with pytest.raises(SettingError, match=r"No attn or mlp has written at blocks\.0\."):
        read(WeightDifference(base), model, source="blocks.0.hook_resid_pre")


def test_a_source_beside_the_stream_is_refused():
    model, base, _ = two(CLASSES[0], (0, "mlp"))
    with pytest.raises(HookPointError, match=r"attn.hook_z is not on the residual stream.*Use"):
        read(WeightDifference(base), model, source="blocks.1.attn.hook_z")


def test_rounding_of_weights_is_no_direction():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(300, 200, generator=generator, dtype=torch.float64)
    for dtype in (torch.float32, torch.bfloat16):
        rounded = weights.to(dtype)
        noise = float(torch.linalg.matrix_norm(weights - rounded.double(), 2))
        assert 0.05 * rounding(rounded) < noise < rounding(rounded)


def test_wide_matrices_are_read_as_well_by_random_projections(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    u, v = (
        torch.linalg.qr(torch.randn(n, 60, generator=generator, dtype=torch.float64))[0]
        for n in (90, 70)
    )
    matrix = u @ torch.diag(0.7 ** torch.arange(60, dtype=torch.float64)) @ v.T
    monkeypatch.setattr("tl_steer.methods.spectra._SMALL", 10)
    state = torch.get_rng_state()
    values, rows = top_right(matrix, 6)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_allclose(values, 0.7 ** np.arange(6), rtol=1e-6)
    np.testing.assert_allclose(np.abs((rows @ v[:, :6]).numpy()), np.eye(6), atol=1e-5)


# --- clean differences


@pytest.mark.parametrize("name", CLASSES)
def test_the_mean_difference_is_that_of_two_plain_runs(name):
    model, base, _ = two(name, (0, "mlp"), (2, "attn"))
    tokens = ts.tokenize(model, PROMPTS)
    streams = []
    for each in (model, base):
        rows = []
        for ids in tokens.rows():  # one by one, so without padding
            with torch.no_grad(), ts.capturing(each, [SOURCE]) as seen:
                each(ids[None], return_type=None)
            rows.append(seen[SOURCE][0])
        streams.append(rows)
    bos = tokens.has_bos.int().tolist()
    behind_bos = [(a - b)[k:] for a, b, k in zip(*streams, bos, strict=True)]
    expected = torch.cat(behind_bos).mean(dim=0)
    bank = read(MeanDifference(base), model)
    assert len(bank) == 2
    torch.testing.assert_close(bank.scores["norm"], expected.norm().expand(2), rtol=1e-3, atol=0)
    signed = lines(bank.vectors, [expected / expected.norm()])[:, 0]
    torch.testing.assert_close(signed.sort().values, torch.tensor([-1.0, 1.0]), atol=1e-4, rtol=0)
    ends = torch.stack([rows[-1] for rows in behind_bos]).mean(dim=0)
    last = read(MeanDifference(base, at=ts.Positions(last=1), signs=(1,)), model)
    assert float(lines(last.vectors, [ends / ends.norm()])) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(*_components(read(CleanComponents(base, top=3), model), behind_bos))


def _components(bank, rows):
    """The shares of variance along the bank's lines, and numpy's."""
    rows = torch.cat(rows).numpy()
    values = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)[:3] ** 2 / len(rows)
    assert len(bank) == 6
    along = (rows - rows.mean(axis=0)) @ bank.vectors.numpy().T / 2.0
    np.testing.assert_allclose((along**2).mean(axis=0), bank.scores["variance"], rtol=1e-3)
    return np.unique(bank.scores["variance"].numpy())[::-1], values, 1e-3


def test_a_change_that_writes_one_way_shows_one_component():
    model, base, (planted,) = two(CLASSES[0], (2, "mlp"))
    bank = read(CleanComponents(base), model)
    assert len(bank) == 2
    assert float(lines(bank.vectors, [planted]).abs().min()) == pytest.approx(1, abs=1e-4)
    mean = read(MeanDifference(base), model)
    assert float(lines(mean.vectors, [planted]).abs().min()) == pytest.approx(1, abs=1e-4)


def test_a_prompt_without_the_tokens_that_are_read_is_refused():
    model, base, _ = two(CLASSES[0], (0, "mlp"))
    with pytest.raises(PromptError, match="tokens that can be measured"):
        read(MeanDifference(base, at=ts.Positions(last=40, bos=False)), model)


@pytest.mark.parametrize("kind", [MeanDifference, CleanComponents])
def test_activations_of_another_class_of_model_compare(kind):
    """RMS norms fold without a trace in the stream."""
    if not {"bridge-llama", "compat-llama"} <= {*KINDS}:
        pytest.skip("one class alone")
    model, base, _ = two("bridge-llama", (0, "mlp"))
    for each in (base, make("compat-llama")):
        bank = read(kind(Reference.of(each)), model, n=2)
        if each is base:
            first = bank.vectors
    torch.testing.assert_close(lines(bank.vectors, [*first]).abs().amax(dim=1) / 2, torch.ones(2))


# --- what all of them are


READINGS = [WeightDifference, MeanDifference, CleanComponents]


@pytest.mark.parametrize("kind", READINGS)
def test_two_models_that_are_one_have_nothing_to_read(kind, llama):
    with pytest.raises(ModelError, match="There is no difference between tiny-llama and tiny"):
        read(kind(llama), llama)


@pytest.mark.parametrize("kind", READINGS)
def test_a_base_of_another_size_is_refused(kind, one):
    other = LinearHost([torch.eye(D)])
    with pytest.raises(ModelError, match="it has n_layers 1, and that has 4"):
        read(kind(other), one)


@pytest.mark.parametrize("kind", READINGS)
def test_a_base_that_is_no_model_is_refused_when_the_method_is_made(kind):
    with pytest.raises(ModelError, match="load it"):
        kind("smollm2")


@pytest.mark.parametrize("kind", READINGS)
def test_what_was_made_before_a_change_is_not_seen(kind):
    """A source before the change: nothing differs there yet."""
    model, base, _ = two(CLASSES[0], (3, "mlp"))
    with pytest.raises(ModelError, match="a source behind what was changed"):
        read(kind(base), model)


@pytest.mark.parametrize("kind", READINGS)
def test_the_bank_says_which_base_and_holds_no_model(kind, tmp_path):
    model, base, _ = two(CLASSES[0], (2, "mlp"))
    bank = read(kind(base), model)
    assert bank.provenance.method == kind.__name__.lower()
    told = bank.provenance.settings["base"]
    assert told == repr(Reference.of(base))
    assert told.startswith("tiny-")
    assert "fingerprint" in told
    bank.save(tmp_path / "bank.safetensors")
    again = ts.load_bank(tmp_path / "bank.safetensors")
    assert again.provenance == bank.provenance
    assert torch.equal(again.vectors, bank.vectors)


@pytest.mark.parametrize("kind", READINGS)
def test_fewer_vectors_than_directions_are_the_first_of_them(kind):
    model, base, _ = two(CLASSES[0], (0, "mlp"), (1, "attn"), (2, "mlp"))
    segment = ts.Segment(model, ts.tokenize(model, PROMPTS), SOURCE, TARGET)
    rows = kind(base).directions(segment).rows
    bank = read(kind(base), model, n=1)
    assert len(bank) == 1
    torch.testing.assert_close(bank.vectors / 2.0, rows[:1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", READINGS)
def test_one_side_alone_can_be_asked_for(kind):
    model, base, _ = two(CLASSES[0], (2, "mlp"))
    plus, minus = (read(kind(base, signs=(s,)), model) for s in (1, -1))
    assert len(plus) == len(minus) == 1
    torch.testing.assert_close(plus.vectors, -minus.vectors)


@pytest.mark.parametrize("kind", READINGS)
@pytest.mark.parametrize("signs", [(), (2,), (1, 0)])
def test_signs_out_of_range_are_refused(kind, signs, one):
    with pytest.raises(SettingError, match="signs"):
        kind(one, signs=signs)


@pytest.mark.parametrize(
    ("kind", "knobs"),
    [
        (WeightDifference, {"blocks": 0}),
        (WeightDifference, {"top": 0}),
        (WeightDifference, {"maps": ()}),
        (WeightDifference, {"maps": ("down_proj",)}),
        (CleanComponents, {"top": 0}),
    ],
)
def test_settings_out_of_range_are_refused(kind, knobs, one):
    with pytest.raises(SettingError, match=f"{kind.__name__}.*{next(iter(knobs))}"):
        kind(one, **knobs)


@pytest.mark.parametrize("kind", READINGS)
def test_another_kind_of_perturbation_is_refused(kind):
    model, base, _ = two(CLASSES[0], (2, "mlp"))
    with pytest.raises(SettingError, match="is for steering vectors"):
        ts.elicit(
            model,
            PROMPTS,
            source="blocks.2.hook_mlp_out",
            target=TARGET,
            n=2,
            radius=1.0,
            perturbation=ts.elicitation.Adapters(),
            method=kind(base),
            measured=ts.Positions(last=1, bos=False),
            progress=False,
        )


@pytest.mark.parametrize("kind", READINGS)
def test_the_one_step_ends_on_the_sphere_and_leaves_nothing_to_go_on_with(kind):
    model, base, _ = two(CLASSES[0], (2, "mlp"))
    tokens = ts.tokenize(model, PROMPTS)
    segment = ts.Segment(model, tokens, SOURCE, TARGET)
    objective = Objective(segment, Displacement(), tokens.mask)
    start = ts.Additive.random(
        segment.source, 4, radius=1.5, generator=torch.Generator().manual_seed(0)
    )
    before = start.vectors.detach().clone()
    with frozen(model):
        end = final(kind(base), objective, start)
        assert list(kind(base)(objective, start, resume=end.state)) == []
    assert (end.step, end.steps) == (1, 1)
    assert torch.equal(start.vectors.detach(), before)
    torch.testing.assert_close(end.perturbation.vectors.norm(dim=1), torch.full((2,), 1.5))
    torch.testing.assert_close(end.value, objective(end.perturbation, gradient=False).value)


@pytest.mark.parametrize("kind", READINGS)
def test_a_bank_that_holds_all_there_is_says_so_and_can_be_resumed(kind, tmp_path):
    model, base, _ = two(CLASSES[0], (2, "mlp"))
    path = tmp_path / "bank.safetensors"
    bank = read(kind(base), model, n=8, checkpoint=path)
    assert len(bank) == 2
    assert bank.provenance.notes == (
        "2 of the 8 vectors that were asked for: the method has no more",
    )
    again = read(kind(base), model, n=8, resume=path)
    assert torch.equal(again.vectors, bank.vectors)
    assert again.provenance == bank.provenance
    with pytest.raises(SettingError, match="n is 8 there and 2 here"):
        read(kind(base), model, n=2, resume=path)
    other = Reference.of(LinearHost([torch.eye(D)] * 4))
    other.model.cfg.d_vocab = model.cfg.d_vocab
    with pytest.raises(SettingError, match=r"settings is .* there and .*linear"):
        read(kind(other), model, n=8, resume=path)


def test_a_run_that_was_killed_behind_its_only_step_ends_with_what_it_had(tmp_path, monkeypatch):
    model, base, _ = two(CLASSES[0], (2, "mlp"))
    path = tmp_path / "bank.safetensors"

    def killed(*_):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_end", killed)
        with pytest.raises(RuntimeError, match="killed"):
            read(WeightDifference(base), model, checkpoint=path)
    rest = read(WeightDifference(base), model, resume=path)
    whole = read(WeightDifference(base), model)
    assert torch.equal(rest.vectors, whole.vectors)
    assert rest.provenance == whole.provenance


@pytest.mark.parametrize("kind", READINGS)
def test_a_basis_is_orthonormal_and_spans_the_directions(kind):
    model, base, _ = two(CLASSES[0], (0, "mlp"), (1, "attn"), (2, "mlp"), (2, "attn"))
    tokens = ts.tokenize(model, PROMPTS)
    segment = ts.Segment(model, tokens, SOURCE, TARGET)
    objective = Objective(segment, Displacement(), tokens.mask)
    basis, rows = kind(base).basis(objective), kind(base).directions(segment).rows
    torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis)), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows @ basis.T @ basis, rows, atol=1e-4, rtol=0)


def test_a_basis_holds_what_is_there_twice_once():
    twice = torch.tensor([[3.0, 0, 0], [3.0, 0, 0], [0, 1.0, 1e-6]])
    assert independent_rows(twice).shape == (2, 3)


@pytest.mark.parametrize("kind", READINGS)
def test_hooks_flags_and_modes_of_the_base_are_left_as_they_are(kind):
    model, base, _ = two(CLASSES[0], (2, "mlp"))
    base.train()
    read(kind(base), model)
    assert base.training
    assert all(p.requires_grad for p in base.parameters())
    assert not any(point.fwd_hooks for point in base.hook_dict.values())
    base.eval()
