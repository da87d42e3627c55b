"""elicit, end to end on tiny models."""

import re

import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET, make
from state import snapshot

import tl_steer as ts
from tl_steer.errors import HookPointError, NotFiniteError, PromptError, SettingError, ShapeError

FAST = {
    "source": SOURCE,
    "target": TARGET,
    "n": 4,
    "radius": 1.0,
    "progress": False,
    "measured": ts.Positions(last=2, bos=False),
}


def test_a_bank_beats_random_vectors_of_the_same_radius(model):
    bank = ts.elicit(model, PROMPTS, **FAST)
    start = ts.elicit(model, PROMPTS, **FAST, method=ts.methods.Power(steps=1))
    assert float(bank.objective.min()) > 0
    assert float(bank.objective.sum()) > 1.2 * float(start.objective.sum())
    torch.testing.assert_close(bank.vectors.norm(dim=1), torch.full((4,), 1.0))
    assert bank.objective.tolist() == sorted(bank.objective.tolist(), reverse=True)


def test_the_response_is_what_the_vector_does_to_the_model(llama):
    bank = ts.elicit(llama, PROMPTS[:1], **FAST)
    tokens = ts.tokenize(llama, PROMPTS[:1])
    streams = []
    for hooks in ([], bank[0].hooks()):
        with torch.no_grad(), ts.capturing(llama, [TARGET]) as seen:
            llama.run_with_hooks(tokens.ids, fwd_hooks=hooks)
        streams.append(seen[TARGET][0, -2:])
    expected = (streams[1] - streams[0]).mean(dim=0)
    torch.testing.assert_close(bank.responses[0], expected, atol=1e-4, rtol=1e-3)
    size = (streams[1] - streams[0]).square().sum().sqrt().item()
    assert bank.objective[0].item() == pytest.approx(size, rel=1e-3)


@pytest.mark.parametrize(
    "method", [ts.methods.Power(steps=9, tolerance=0.5), ts.methods.Melbo(steps=9)]
)
def test_a_search_that_ends_early_says_so(one, capsys, method):
    ts.elicit(one, PROMPTS, **FAST | {"progress": True}, method=method)
    *_, last = capsys.readouterr().err.splitlines()
    if isinstance(method, ts.methods.Power):
        assert re.search(r"step (\d) of \1, objective .*; \1 of 9 steps were enough$", last)
    else:
        assert re.search(r"step 9 of 9, objective [\d.e+]+$", last)


def test_the_same_seed_gives_the_same_bank(one):
    first, second = (ts.elicit(one, PROMPTS, **FAST, seed=3) for _ in range(2))
    assert torch.equal(first.vectors, second.vectors)
    assert torch.equal(first.objective, second.objective)
    other = ts.elicit(one, PROMPTS, **FAST, seed=4)
    assert not torch.allclose(first.vectors, other.vectors)


@pytest.mark.parametrize("method", ["power", "melbo", ts.methods.Melbo(steps=3, orthogonal=True)])
@pytest.mark.parametrize("kind", ["hook_resid_pre", "hook_mlp_out", "attn.hook_z"])
def test_methods_and_sources_combine(one, method, kind):
    method = ts.methods.Melbo(steps=3) if method == "melbo" else method
    bank = ts.elicit(one, PROMPTS, **FAST | {"source": f"blocks.1.{kind}"}, method=method)
    assert bank.provenance.method in ("power", "melbo")
    assert bank.source.kind == kind


def test_the_model_is_as_before_after_success_and_failure(model):
    before = snapshot(model)
    bank = ts.elicit(model, PROMPTS, **FAST)
    assert snapshot(model) == before
    ts.generate(model, bank, PROMPTS[:1], max_new_tokens=2, temperature=1)
    assert snapshot(model) == before

    def fails(steered, clean, measured):
        raise RuntimeError("the user's own divergence fails")

    with pytest.raises(SettingError, match="own divergence"):
        ts.elicit(model, PROMPTS, **FAST, divergence=fails)
    assert snapshot(model) == before


def test_it_works_where_gradients_are_switched_off(one):
    with torch.no_grad():
        without = ts.elicit(one, PROMPTS, **FAST)
    with torch.inference_mode():
        inference = ts.elicit(one, PROMPTS, **FAST)
    assert torch.equal(without.vectors, ts.elicit(one, PROMPTS, **FAST).vectors)
    assert torch.equal(inference.vectors, without.vectors)


def interrupted(after):
    calls = {"n": 0}
    plain = ts.objectives.Displacement()

    def divergence(steered, clean, measured):
        calls["n"] += len(steered) == 4  # it is tried on fewer first
        if calls["n"] == after:
            raise KeyboardInterrupt
        return plain(steered, clean, measured)

    return divergence


def test_ctrl_c_returns_what_is_there(model):
    before = snapshot(model)
    bank = ts.elicit(model, PROMPTS, **FAST, divergence=interrupted(after=4))
    assert len(bank) == 4
    assert bank.provenance.notes == ("interrupted after step 3 of 12",)
    assert bool(bank.objective.isfinite().all())
    assert snapshot(model) == before


def test_ctrl_c_before_the_first_step_is_passed_on(model):
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        ts.elicit(model, PROMPTS, **FAST, divergence=interrupted(after=1))
    assert snapshot(model) == before


def test_nan_names_the_step_and_the_vector_and_leaves_the_model(one):
    before = snapshot(one)

    def breaks(steered, clean, measured):
        value = ts.objectives.Displacement()(steered, clean, measured)
        if len(value) < 4:  # it is tried on fewer first
            return value
        return torch.where(torch.arange(len(value)) == 1, value / 0 * 0, value)

    with pytest.raises(NotFiniteError, match="step 1 for vector 1"):
        ts.elicit(one, PROMPTS, **FAST, divergence=breaks)
    assert snapshot(one) == before


@pytest.mark.filterwarnings("ignore:No band")
def test_auto_radius_is_reported_as_a_share_of_the_norm(one):
    bank = ts.elicit(one, PROMPTS, **FAST | {"radius": "auto"})
    tokens = ts.tokenize(one, PROMPTS)
    norm = ts.Segment(one, tokens, SOURCE, TARGET).source_norm()
    assert bank.radius_share == pytest.approx(bank.radius / norm)
    torch.testing.assert_close(bank.vectors.norm(dim=1), torch.full((4,), bank.radius))


def test_a_layer_comparable_radius_can_be_asked_for(one):
    bank = ts.elicit(one, PROMPTS, **FAST | {"radius": ts.radii.ShareOfNorm(0.2)})
    assert bank.radius_share == pytest.approx(0.2)


def test_vectors_act_only_at_the_chosen_positions(one):
    bank = ts.elicit(one, PROMPTS, **FAST, positions=ts.Positions(last=1))
    assert bank.positions == ts.Positions(last=1)
    with pytest.raises(SettingError, match="without the prompt"):
        bank[0].hooks()


def test_provenance_says_how_the_bank_was_made(one):
    bank = ts.elicit(one, PROMPTS, **FAST, seed=9)
    made = bank.provenance
    assert (made.method, made.seed, made.model) == ("power", 9, one.cfg.model_name)
    assert made.settings == {"steps": 12, "tolerance": 0.01, "spread": 0.7}
    assert made.divergence == "Displacement(p=2, q=None)"
    assert set(made.versions) == {"tl_steer", "transformer_lens", "torch"}
    assert made.prompts != ts.elicit(one, PROMPTS[:1], **FAST, seed=9).provenance.prompts


@pytest.mark.parametrize(
    ("knobs", "error", "message"),
    [
        ({"source": "blocks.1.hook_resid_pots"}, HookPointError, "Did you mean"),
        ({"source": TARGET, "target": SOURCE}, HookPointError, "comes before the source"),
        ({"n": 0}, SettingError, "at least one vector"),
        (
            {"n": 25, "method": ts.methods.Power(spread=1)},
            SettingError,
            "do not fit into 24 dimensions",
        ),
        ({"radius": 0}, SettingError, "above 0"),
        ({"radius": -1.0}, SettingError, "above 0"),
        ({"radius": float("nan")}, SettingError, "above 0"),
        ({"radius": "big"}, SettingError, "'auto' or a radius rule"),
        ({"method": "magic"}, SettingError, "there are auto, power, melbo"),
        ({"vec_batch": 0}, SettingError, "vec_batch"),
        ({"measured": ts.Positions(last=3, bos=False)}, PromptError, "Prompt 1 has 2 tokens"),
        ({"seed": "x"}, ShapeError, "argument 'seed' is 'x'; expected int"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(model, knobs, error, message):
    before = snapshot(model)
    with pytest.raises(error, match=message):
        ts.elicit(model, PROMPTS, **FAST | knobs)
    assert snapshot(model) == before


def test_a_divergence_that_is_a_function_is_named_in_the_provenance(one):
    def mine(steered, clean, measured):
        return ts.objectives.Displacement()(steered, clean, measured)

    made = ts.elicit(one, PROMPTS, **FAST, divergence=mine).provenance.divergence
    assert re.search(r"mine\(code='[0-9a-f]{8}'\)$", made)
    assert "0x" not in made


def test_empty_prompts_are_refused(one):
    for prompts in ([], [""]):
        with pytest.raises(PromptError):
            ts.elicit(one, prompts, **FAST)


def test_a_bank_from_the_bridge_fits_compatibility_mode():
    names = ["bridge-gpt2", "compat-gpt2"]
    from conftest import KINDS

    if not set(names) <= set(KINDS):
        pytest.skip("this TransformerLens has no TransformerBridge")
    raw, compatible = make(names[0]), make(names[1])
    bank = ts.elicit(raw, PROMPTS, **FAST)
    with ts.perturbing(compatible, bank[0]) as steered:
        assert steered is compatible


def test_ends_may_be_given_by_place_and_radii_as_shares(one):
    knobs = {"measured": ts.Positions(last=1, bos=False), "n": 2, "progress": False}
    bank = ts.elicit(one, PROMPTS, SOURCE, TARGET, radius="0.25x", **knobs)
    assert (bank.source.name, bank.target.name) == (SOURCE, TARGET)
    assert bank.radius_share == pytest.approx(0.25)
    same = ts.elicit(one, PROMPTS, SOURCE, TARGET, radius=ts.radii.ShareOfNorm(0.25), **knobs)
    assert torch.equal(bank.vectors, same.vectors)
    assert ts.elicit(one, PROMPTS, SOURCE, TARGET, radius="2.5", **knobs).radius == 2.5
    for wrong in ("x", "0x", "-1", "nan", "a quarter"):
        with pytest.raises(SettingError, match=r"radius|ShareOfNorm"):
            ts.elicit(one, PROMPTS, SOURCE, TARGET, radius=wrong, **knobs)
