"""Where: names, numbers of layers, sites, heads; kinds of one's own; what is refused."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET, bank_of

import tl_steer as ts
from tl_steer.errors import BankFileError, HookPointError, SettingError, ShapeError
from tl_steer.hook_points import Site, kinds as known_kinds
from tl_steer.hook_points.registry import stage_of
from tl_steer.models.hooks import capturing
from tl_steer.models.lookup import resolve

try:
    from transformer_lens.utilities.components_utils import get_act_name
except ImportError:  # before 4
    from transformer_lens.utils import get_act_name

MEASURED = {"measured": ts.Positions(last=1, bos=False), "progress": False}
SHORT = {
    "resid_pre": "hook_resid_pre", "resid_post": "hook_resid_post", "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out", "q": "attn.hook_q", "k": "attn.hook_k", "v": "attn.hook_v",
    "z": "attn.hook_z", "pre": "mlp.hook_pre", "post": "mlp.hook_post",
}  # fmt: skip


@pytest.fixture
def kinds(monkeypatch):
    """Whatever a test registers is forgotten after it."""
    monkeypatch.setattr("tl_steer.hook_points.registry._known", list(known_kinds()))


def test_the_number_of_a_layer_is_the_residual_stream_behind_it(one):
    post = resolve(one, "blocks.1.hook_resid_post")
    for layer in (1, -3, np.int64(1), np.array(1), torch.tensor(1)):
        assert resolve(one, layer) == post
    for layer in (4, -5, np.int32(9)):
        with pytest.raises(HookPointError, match=r"no layer -?\d.*layers 0 to 3"):
            resolve(one, layer)
    for wrong in (True, 1.0, None, ["blocks.1.hook_resid_post"]):
        with pytest.raises(HookPointError, match="named by a string"):
            resolve(one, wrong)


@pytest.mark.parametrize("short", SHORT)
def test_what_get_act_name_returns_is_a_name_and_what_it_takes_is_told_in_full(one, short):
    assert resolve(one, get_act_name(short, 2)).name == f"blocks.2.{SHORT[short]}"
    for part in (short, SHORT[short], SHORT[short].split(".")[-1]):
        with pytest.raises(HookPointError, match=rf"write 'blocks\.7\.{SHORT[short]}'"):
            resolve(one, part)


@pytest.mark.parametrize("name", ["hook_embed", "embed", get_act_name("embed"), "embed.hook_out"])
def test_what_lies_before_the_blocks_is_said_to_enter_the_first(one, name):
    if "." in name and name not in one.hook_dict:
        pytest.skip("this model has no such name")
    with pytest.raises(HookPointError, match=r"blocks\.0\.hook_resid_pre"):
        resolve(one, name)


def test_a_site_made_by_hand_is_as_good_as_a_name(one):
    by_hand = Site("blocks.1.attn.hook_z[2]", 1, "attn.hook_z", 8)
    assert resolve(one, by_hand) == by_hand == resolve(one, by_hand.point, head=2)
    made = ts.elicit(one, PROMPTS, source=by_hand, target=-1, n=2, radius=1.0, **MEASURED)
    again = ts.elicit(one, PROMPTS, source=by_hand.name, target=TARGET, n=2, radius=1.0, **MEASURED)
    assert torch.equal(made.vectors, again.vectors)
    with pytest.raises(ShapeError, match=r"is 8 wide .* made for width 24"):
        resolve(one, dataclasses.replace(by_hand, width=24))
    with pytest.raises(HookPointError, match=r"its Site says attn.hook_z of layer 2"):
        resolve(one, dataclasses.replace(by_hand, layer=2))
    with pytest.raises(HookPointError, match="Site says hook_mlp_out"):
        resolve(one, Site("blocks.1.hook_attn_out", 1, "hook_mlp_out", 24))


def test_every_verb_takes_them(one):
    z = resolve(one, 2, target=True)
    by_number = ts.scan(one, PROMPTS, [(np.int64(1), z), (0, "blocks.1.attn.hook_z")], top=1,
                        measured=ts.Positions(last=1))  # fmt: skip
    names = [(p.source, p.target) for p in by_number.pairs]
    assert names == [(SOURCE, z.name), ("blocks.0.hook_resid_post", "blocks.1.attn.hook_z")]
    segment = ts.Segment(one, ts.tokenize(one, PROMPTS), 1, z)
    assert (segment.source.name, segment.target) == (SOURCE, z)
    found = ts.elicitation.scan_contrast(
        one, PROMPTS, one, sources=[1, z], n=5, steps=1, lengths=[1.0]
    )
    assert [p.source for p in found.places] == [SOURCE, z.name]


def test_heads_are_counted_from_the_model(model):
    """Grouped keys and values are fewer than queries."""
    for kind in ("q", "k", "v", "z"):
        name = get_act_name(kind, 1)
        n = resolve(model, name).width // 8
        assert [resolve(model, name, head=h).head for h in range(-n, n)] == [*range(n)] * 2
        with pytest.raises(HookPointError, match=f"heads 0 to {n - 1} .*got head {n}"):
            resolve(model, name, head=n)
    assert n == 3
    for wrong in ("hook_mlp_out", "hook_resid_post", "mlp.hook_post"):
        with pytest.raises(HookPointError, match="has no heads; those of attention"):
            resolve(model, f"blocks.1.{wrong}[0]")
    with pytest.raises(HookPointError, match="leave one out"):
        resolve(model, "blocks.1.attn.hook_z[0]", head=1)
    with pytest.raises(HookPointError, match="expected the number of a head"):
        resolve(model, "blocks.1.attn.hook_z", head="1")


def test_an_edit_of_one_head_leaves_the_others(model):
    name = "blocks.1.attn.hook_z"
    site = resolve(model, name, head=1)
    vector = torch.linspace(1, 2, 8)
    ids = ts.tokenize(model, PROMPTS[:1]).ids
    with torch.no_grad(), capturing(model, [name]) as clean:
        model(ids)
    steering = ts.perturbing(model, ts.Additive(site, vector[None]))
    with torch.no_grad(), steering, capturing(model, [name]) as steered:
        model(ids)
    moved = (steered[name] - clean[name]).flatten(2)
    expected = torch.cat([torch.zeros(8), vector, torch.zeros(8)]).expand_as(moved)
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "target", ["hook_attn_out", "hook_mlp_out", "attn.hook_z", "attn.hook_z[1]"]
)
def test_parts_of_a_block_are_targets(model, target):
    """Against a whole pass of the model under the same edit."""
    tokens = ts.tokenize(model, PROMPTS)
    segment = ts.Segment(model, tokens, SOURCE, f"blocks.3.{target}")
    edit = ts.Additive(segment.source, 2 * torch.eye(3, 24))
    with torch.no_grad():
        found = segment.run(edit)
    point, columns = segment.target.point, slice(8, 16) if "[" in target else slice(None)
    assert found.shape[-1] == segment.target.width == (8 if "[" in target else 24)
    for v in range(3):
        with torch.no_grad(), ts.perturbing(model, edit.select([v])):
            with capturing(model, [point]) as seen:
                model(tokens.ids, attention_mask=tokens.mask.long())
        whole = seen[point].flatten(2)[..., columns]
        torch.testing.assert_close(found[v][tokens.mask], whole[tokens.mask], atol=1e-4, rtol=1e-4)


def test_a_bank_with_a_part_of_a_block_as_its_target_is_swept_and_shown(one):
    bank = ts.elicit(one, PROMPTS, source=0, target="blocks.2.attn.hook_z[1]", n=2, radius=2.0,
                     **MEASURED)  # fmt: skip
    assert bank.responses.shape == (2, 8)
    found = ts.sweep(one, bank, PROMPTS, metrics=["divergence"], n_random=1, progress=False)
    tokens = ts.tokenize(one, PROMPTS[:1])
    point = bank.target.point
    with torch.no_grad(), capturing(one, [point]) as clean:
        one(tokens.ids)
    with torch.no_grad(), ts.perturbing(one, bank[0]), capturing(one, [point]) as steered:
        one(tokens.ids)
    moved = (steered[point] - clean[point]).flatten(2)[0, -1, 8:16]
    assert found.values("divergence")[0, 0] == pytest.approx(float(moved.norm()), rel=1e-3)
    ts.inspect(one, bank, PROMPTS[0])


def test_heads_of_one_block_do_not_depend_on_each_other(one):
    tokens = ts.tokenize(one, PROMPTS)
    with pytest.raises(HookPointError, match="side by side"):
        ts.Segment(one, tokens, "blocks.1.attn.hook_z[0]", "blocks.1.attn.hook_z[1]")
    ts.Segment(one, tokens, "blocks.1.attn.hook_z[0]", "blocks.1.attn.hook_z")
    with pytest.raises(HookPointError, match="comes before"):
        ts.Segment(one, tokens, "blocks.1.mlp.hook_post", "blocks.1.hook_attn_out")


def test_what_needs_the_residual_stream_refuses_other_targets(one):
    kl = ts.objectives.OutputKL(one)
    for divergence in (kl, ts.objectives.Weighted(((1.0, ts.objectives.Displacement()), (-1, kl)))):
        with pytest.raises(HookPointError, match=r"OutputKL reads the residual stream"):
            ts.elicit(one, PROMPTS, source=0, target="blocks.3.hook_mlp_out", n=2, radius=1.0,
                      divergence=divergence, **MEASURED)  # fmt: skip
    with pytest.raises(SettingError, match="its target is"):
        ts.elicit(one, PROMPTS, source=0, target="blocks.3.attn.hook_z", n=2, against=one,
                  radius=1.0, progress=False)  # fmt: skip
    with pytest.raises(HookPointError, match=r"cannot be a target: .* one of hook_resid_pre, "):
        resolve(one, "blocks.1.mlp.hook_post", target=True)


def test_a_run_at_another_head_is_another_run(one, tmp_path):
    path = tmp_path / "bank.safetensors"
    how = {"target": 3, "n": 2, "radius": 1.0, **MEASURED}
    ts.elicit(one, PROMPTS, source="blocks.1.attn.hook_z[0]", checkpoint=path, **how)
    with pytest.raises(
        SettingError, match=r"source is blocks.1.attn.hook_z\[0\] there and .*\[1\]"
    ):
        ts.elicit(one, PROMPTS, source="blocks.1.attn.hook_z[1]", resume=path, **how)


# --- kinds of one's own -------------------------------------------------------------------------


def test_a_kind_of_ones_own_is_steered_like_ours(llama, kinds):
    name = "blocks.1.ln2.hook_normalized"
    with pytest.raises(HookPointError, match=r"cannot be steered here.*hook_points\.register"):
        resolve(llama, name)
    ts.hook_points.register("ln2.hook_normalized", after="hook_resid_mid")
    assert stage_of("hook_resid_mid") < stage_of("ln2.hook_normalized") < stage_of("mlp.hook_pre")
    try:
        site = resolve(llama, name)
    except HookPointError as error:
        assert "does not compute with what hooks return" in str(error)  # noqa: PT017
        return
    bank = ts.elicit(llama, PROMPTS, source=site, target=3, n=2, radius=1.0, **MEASURED)
    assert (bank.objective > 0).all()


def test_a_kind_is_registered_once_behind_one_that_is_known(kinds):
    register = ts.hook_points.register
    assert register("ln2.hook_scale", after="hook_resid_mid") == register(
        "ln2.hook_scale", after="hook_resid_mid"
    )
    for wrong, said in (
        ({"name": "ln2.hook_scale", "after": "hook_resid_pre"}, "registered already"),
        ({"name": "ln2.other", "after": "hook_nothing"}, "expected one of hook_resid_pre, "),
        ({"name": "ln2.other", "after": None}, "expected one of hook_resid_pre, "),
        ({"name": "blocks.1.ln2", "after": "hook_resid_mid"}, "behind"),
        ({"name": "ln2", "after": "hook_resid_mid", "source": False}, "a source, a target or both"),
    ):
        with pytest.raises(SettingError, match=said):
            register(**wrong)


def test_a_bank_of_an_unregistered_kind_says_what_to_register(one, kinds, tmp_path, monkeypatch):
    ts.hook_points.register("mlp.hook_own", after="hook_resid_mid")
    bank = dataclasses.replace(
        bank_of(one), source=Site("blocks.1.mlp.hook_own", 1, "mlp.hook_own", 24)
    )
    path = bank.save(tmp_path / "bank.safetensors")
    assert ts.load_bank(path).source == bank.source
    monkeypatch.undo()
    with pytest.raises(
        BankFileError, match=r"hook_points\.register\('mlp.hook_own', after=\.\.\.\)"
    ):
        ts.load_bank(path)
