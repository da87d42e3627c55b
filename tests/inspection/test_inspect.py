"""Inspection: every number is what TransformerLens's own cache gives."""

import dataclasses
import itertools

import pytest
import torch
from conftest import LLAMAS, PROMPTS, SOURCE, TARGET, bank_of, bridge
from linear import LinearHost
from state import snapshot
from tampered import meta_of, tamper

import tl_steer as ts
from tl_steer.errors import InspectionFileError, PromptError, SettingError, ShapeError
from tl_steer.inspection.layout import AXES, INSPECTION_FILE, TEXTS

PROMPT = PROMPTS[0]
LAYERS = 4


def caches(model, bank, prompt=PROMPT):
    """Unsteered and steered (logits, cache) of TransformerLens, one run each."""
    ids = ts.tokenize(model, [prompt]).ids
    with torch.no_grad():
        clean = model.run_with_cache(ids)
        with ts.perturbing(model, bank, tokens=ts.tokenize(model, [prompt])):
            steered = model.run_with_cache(ids)
    return clean, steered


def close(a, b, tolerance=2e-5):
    torch.testing.assert_close(a.float(), b.float(), rtol=1e-3, atol=tolerance)


def test_attention_change_is_that_of_the_caches_patterns(model):
    bank = bank_of(model)
    seen = ts.inspect(model, bank, PROMPT, heads=2)
    for v in range(len(bank)):
        (_, clean), (_, steered) = caches(model, bank[v])
        both = [
            torch.stack([c[f"blocks.{i}.attn.hook_pattern"][0] for i in range(LAYERS)])
            for c in (clean, steered)
        ]
        change = (both[1] - both[0]).abs().sum(dim=-1).mean(dim=-1) / 2
        close(seen.attention_change[v], change)
        assert change.max() > 1e-3
        strongest = change.flatten().argsort(descending=True)[:2]
        for k, at in enumerate(strongest.tolist()):
            layer, head = divmod(at, change.shape[1])
            assert seen.kept[v, k].tolist() == [layer, head]
            close(seen.patterns[v, k, 0], both[0][layer, head], 1e-3)
            close(seen.patterns[v, k, 1], both[1][layer, head], 1e-3)


def test_last_rows_are_where_the_last_token_looks_in_every_head(model):
    bank = bank_of(model)
    seen = ts.inspect(model, bank, PROMPT, vectors=[2, 0], heads=1, batch_rows=1)
    for v, row in enumerate((2, 0)):
        for run, (_, cache) in enumerate(caches(model, bank[row])):
            for layer in range(LAYERS):
                pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0]
                close(seen.last_rows[v, layer, :, run], pattern[:, -1], 1e-3)
    assert not torch.equal(seen.last_rows[:, :, :, 0], seen.last_rows[:, :, :, 1])


def test_all_heads_are_kept_in_full_if_they_are_asked_for(llama):
    bank = bank_of(llama)
    seen = ts.inspect(llama, bank, PROMPT, vectors=[1], heads="all")
    _, (_, steered) = caches(llama, bank[1])
    assert seen.kept[0].unique(dim=0).shape == (LAYERS * 3, 2)
    for k, (layer, head) in enumerate(seen.kept[0].tolist()):
        close(seen.patterns[0, k, 1], steered[f"blocks.{layer}.attn.hook_pattern"][0, head], 1e-3)


def test_all_heads_are_refused_where_they_would_fill_memory(one, monkeypatch):
    monkeypatch.setattr(ts.inspection.asked, "_MEMORY", 1000)
    with pytest.raises(SettingError, match="expected at most 1"):
        ts.inspect(one, bank_of(one), PROMPT, heads="all")
    with pytest.raises(ShapeError, match="heads"):
        ts.inspect(one, bank_of(one), PROMPT, heads="every")


def test_next_token_numbers_are_those_of_the_logits(model):
    bank = bank_of(model)
    seen = ts.inspect(model, bank, PROMPT, top=5)
    ids = ts.tokenize(model, [PROMPT]).ids[0]
    for v in range(len(bank)):
        (clean, _), (steered, _) = caches(model, bank[v])
        p, q = (logits[0].log_softmax(dim=-1) for logits in (clean, steered))
        close(
            seen.kl[v], torch.nn.functional.kl_div(p, q, reduction="none", log_target=True).sum(1)
        )
        moved = q.exp() - p.exp()
        assert seen.gained[v, :, 0].tolist() == moved.argmax(dim=1).tolist()
        assert seen.lost[v, :, 0].tolist() == moved.argmin(dim=1).tolist()
        close(seen.gained_p[v, 1, 0, 0], p[1, seen.gained[v, 1, 0]].exp())
        close(seen.lost_p[v, 2, 3, 1], q[2, seen.lost[v, 2, 3]].exp())
        close(seen.next_lp[v + 1], q[torch.arange(len(ids) - 1), ids[1:]])
        close(seen.next_lp[0], p[torch.arange(len(ids) - 1), ids[1:]])
        close(seen.likely_lp[v + 1, :, 0], q.max(dim=1).values)
        rank = int((q[1] > q[1, ids[2]]).sum())
        assert int(seen.next_rank[v + 1, 1]) == rank


def test_the_response_is_the_change_of_the_residual_stream(model):
    bank = bank_of(model)
    seen = ts.inspect(model, bank, PROMPT, vectors=[2])
    (_, clean), (_, steered) = caches(model, bank[2])
    names = ["blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(LAYERS))]
    for s, name in enumerate(names):
        close(seen.response[0, s], (steered[name] - clean[name])[0].norm(dim=-1), 1e-4)
        close(seen.clean[s], clean[name][0].norm(dim=-1), 1e-4)
    close(seen.added[0], torch.full((len(seen.tokens),), bank.radius), 1e-4)
    assert seen.steered.all()


def test_attribution_adds_up_to_the_change_of_every_logit(model):
    bank = bank_of(model)
    seen = ts.inspect(model, bank, PROMPT, toward=[7, 9])
    for v in range(len(bank)):
        (clean, _), (steered, _) = caches(model, bank[v])
        moved = (steered - clean)[0, -1, seen.toward[v]]
        close(seen.moved[v], moved, 1e-4)
        if seen.direct.numel():
            # A cap or scale that cancels in probabilities may shift all logits alike.
            total = seen.direct[v].sum(dim=(0, 1))
            close(total - total[0], moved - moved[0], 2e-3)
    assert seen.toward[:, -2:].tolist() == [[7, 9]] * len(bank)


def test_attribution_is_the_caches_components_times_the_average_gradient(llama):
    """Restated: the trapezoid rule over many steps, autograd through the last layers."""
    bank = bank_of(llama)
    seen = ts.inspect(llama, bank, PROMPT, vectors=[1])
    (_, clean), (_, steered) = caches(llama, bank[1])
    last = f"blocks.{LAYERS - 1}.hook_resid_post"
    x0, x1 = clean[last][0, -1], steered[last][0, -1]
    steps = torch.linspace(0, 1, 401)
    line = (x0 + steps[:, None] * (x1 - x0))[:, None].requires_grad_()
    token = int(seen.toward[0, 0])
    logit = llama.unembed(llama.ln_final(line))[:, 0, token].sum()
    gradient = torch.autograd.grad(logit, line)[0][:, 0]
    mean = torch.trapezoid(gradient, steps, dim=0)
    for layer in range(LAYERS):
        for part, kind in enumerate(("hook_attn_out", "hook_mlp_out")):
            name = f"blocks.{layer}.{kind}"
            expected = (steered[name] - clean[name])[0, -1] @ mean
            close(seen.direct[0, layer + 1, part, 0], expected, 1e-4)
        z, z0 = (c[f"blocks.{layer}.attn.hook_z"][0, -1] for c in (steered, clean))
        dz = (z - z0).reshape(3, -1)
        heads = torch.einsum("he,hed,d->h", dz, llama.blocks[layer].attn.W_O.detach(), mean)
        close(seen.heads[0, layer, :, 0], heads, 1e-4)
    # What neither attention nor MLP did at the source is the vector itself.
    close(seen.direct[0, 2, 2, 0], bank.vectors[1] @ mean, 1e-4)
    close(seen.direct[0, [0, 1, 3, 4], 2, 0], torch.zeros(4), 1e-4)


def test_heads_add_up_to_their_attention(model):
    seen = ts.inspect(model, bank_of(model), PROMPT)
    whole, parts = seen.direct[:, 1:, 0], seen.heads.sum(dim=2)
    known = ~parts.isnan()
    torch.testing.assert_close(parts[known], whole[known], rtol=0.05, atol=1e-3)


def test_the_lens_reads_the_stream_with_the_models_own_last_layers(llama):
    bank = bank_of(llama)
    seen = ts.inspect(llama, bank, PROMPT, vectors=[0])
    (_, clean), (_, steered) = caches(llama, bank[0])
    name = "blocks.2.hook_resid_post"
    for r, at in enumerate(seen.read_at[0].tolist()):
        with torch.no_grad():
            before, after = (
                llama.unembed(llama.ln_final(c[name]))[0, at] for c in (clean, steered)
            )
        change = after - before - (after - before).mean()
        assert int(seen.promoted[0, 3, r, 0]) == int(change.argmax())
        close(seen.promoted_by[0, 3, r, 0], change.max(), 1e-4)
        close(seen.suppressed_by[0, 3, r, 0], change.min(), 1e-4)
    assert len(seen.tokens) - 1 in seen.read_at[0].tolist()


def test_the_lens_tells_how_likely_its_words_are(llama):
    bank = bank_of(llama)
    seen = ts.inspect(llama, bank, PROMPT, vectors=[1])
    (_, clean), (_, steered) = caches(llama, bank[1])
    for layer, at in itertools.product(range(LAYERS), range(seen.read_at.shape[1])):
        place = int(seen.read_at[0, at])
        with torch.no_grad():
            p, q = (
                llama.unembed(llama.ln_final(c[f"blocks.{layer}.hook_resid_post"]))[
                    0, place
                ].softmax(-1)
                for c in (clean, steered)
            )
        for name, moved in (("lens_gained", q - p), ("lens_lost", p - q)):
            ids, both = getattr(seen, name)[0, layer + 1, at], getattr(seen, f"{name}_p")[0]
            if moved.max() > 1e-5:  # in front of the source nothing moves
                assert int(ids[0]) == int(moved.argmax())
            close(both[layer + 1, at, :, 0], p[ids], 1e-5)
            close(both[layer + 1, at, :, 1], q[ids], 1e-5)
        close(seen.promoted_p[0, layer + 1, at, :, 1], q[seen.promoted[0, layer + 1, at]], 1e-5)
        falling = seen.suppressed[0, layer + 1, at]
        close(seen.suppressed_p[0, layer + 1, at, :, 0], p[falling], 1e-5)
    last = seen.lens_gained[0, -1, -1, 0]
    assert int(last) == int(seen.gained[0, -1, 0]), (
        "the last layer's lens is the model's own output"
    )


def test_chosen_positions_are_shown_and_only_they_are_edited(llama):
    bank = dataclasses.replace(bank_of(llama), positions=ts.Positions(last=2))
    seen = ts.inspect(llama, bank, PROMPT, vectors=[0])
    assert seen.steered.tolist() == [False] * (len(seen.tokens) - 2) + [True] * 2
    close(seen.added[0], seen.steered * bank.radius, 1e-4)
    assert float(seen.kl[0, :-2].abs().max()) < 1e-6


@pytest.mark.parametrize("rows", [1, 3])
def test_the_number_of_vectors_in_a_pass_does_not_matter(llama, rows):
    bank = bank_of(llama)
    whole = ts.inspect(llama, bank, PROMPT)
    split = ts.inspect(llama, bank, PROMPT, batch_rows=rows)
    assert split.vectors == whole.vectors
    assert dict(split.words) == dict(whole.words)
    for name in AXES:
        a, b = getattr(whole, name), getattr(split, name)
        if a.is_floating_point():
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, equal_nan=True)
        elif name in ("ids", "steered", "likely", "next_rank", "kept"):
            assert torch.equal(a, b), name


def test_the_model_is_left_as_it_was(llama):
    before = snapshot(llama)
    ts.inspect(llama, bank_of(llama), PROMPT)
    assert snapshot(llama) == before


def test_half_precision_and_one_token():
    if "bridge-llama" not in LLAMAS:
        pytest.skip("this TransformerLens has no TransformerBridge")
    model = bridge("llama", dtype=torch.bfloat16)
    bank = ts.elicit(model, [PROMPT], source=SOURCE, target=TARGET, n=2, radius=3.0, progress=False)
    seen = ts.inspect(model, bank, torch.tensor([9]))
    assert len(seen.tokens) == 1
    assert seen.kl.shape == (2, 1)
    assert bool(seen.kl.isfinite().all())


def test_a_model_without_attention_and_unembedding_is_inspected_as_far_as_it_goes():
    """Closed form: each block multiplies by a matrix, so the response is a product of matrices."""
    torch.manual_seed(0)
    matrices = [torch.eye(6) + 0.3 * torch.randn(6, 6) for _ in range(3)]
    host = LinearHost(matrices)
    host.forward = _logits(host)
    bank = ts.elicit(
        host,
        ["1 2 3"],
        source="blocks.0.hook_resid_post",
        target="blocks.2.hook_resid_post",
        n=2,
        radius=1.0,
        measured=ts.Positions(last=1, bos=False),
        progress=False,
    )
    seen = ts.inspect(host, bank, "1 2 3")
    assert seen.patterns.shape == (2, 0, 2, 3, 3)
    v = bank.vectors[1]
    expected = [0.0, 1.0, float((matrices[1] @ v).norm())]
    expected.append(float((matrices[2] @ matrices[1] @ v).norm()))
    close(seen.response[1, :, 0], torch.tensor(expected), 1e-5)
    assert seen.direct.shape[-1] == 0


def _logits(host):
    """The host's stream read as logits by its own embedding."""
    inner = type(host).forward

    def forward(ids, attention_mask=None, stop_at_layer=None, return_type=None):
        stream = inner(host, ids, attention_mask, stop_at_layer, return_type)
        return stream @ host.embed.T if return_type == "logits" else stream

    return forward


def test_bad_arguments_are_refused(one):
    bank = bank_of(one)
    with pytest.raises(SettingError, match="rows from 0 to 3"):
        ts.inspect(one, bank, PROMPT, vectors=[4])
    with pytest.raises(SettingError, match=r"at least 0 \(or 'all'\), 1 and 1"):
        ts.inspect(one, bank, PROMPT, top=0)
    with pytest.raises(PromptError, match="got 3"):
        ts.inspect(one, bank, ts.tokenize(one, PROMPTS))
    with pytest.raises(SettingError, match="ids below"):
        ts.inspect(one, bank, PROMPT, toward=[10**6])
    with pytest.raises(SettingError, match="was not inspected"):
        ts.inspect(one, bank, PROMPT, vectors=[1]).index(0)


def saved(one, tmp_path):
    seen = ts.inspect(one, bank_of(one), PROMPT, vectors=[3, 1])
    return seen, seen.save(tmp_path / "seen.safetensors")


def test_a_saved_inspection_is_the_same_when_loaded(one, tmp_path):
    seen, path = saved(one, tmp_path)
    again = ts.inspection.load_inspection(path)
    for field in dataclasses.fields(seen):
        a, b = getattr(seen, field.name), getattr(again, field.name)
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        else:
            assert a == b, field.name
    assert "Inspection of 2 vectors" in repr(again)


def test_files_without_last_rows_and_fingerprint_are_still_read(one, tmp_path):
    """As version 0.1.0 wrote them."""
    seen, path = saved(one, tmp_path)
    assert seen.fingerprint == ts.models.fingerprint(one)
    assert seen.origin.bank == bank_of(one).digest()
    old = dataclasses.replace(seen, last_rows=None, fingerprint=None, bank="")
    again = ts.inspection.load_inspection(old.save(path))
    assert again.last_rows is None
    assert again.fingerprint is None
    assert torch.equal(again.kl, seen.kl)


meta = meta_of("tl_steer_inspection")

HOSTILE = {
    "another prompt": lambda h: meta(h, prompt="changed"),
    "too many tokens": lambda h: meta(h, tokens=["x"] * 5000),
    "no tokens": lambda h: meta(h, tokens=[]),
    "tokens of a wrong type": lambda h: meta(h, tokens=7),
    "missing labels": lambda h: meta(h, labels=[]),
    "another format": lambda h: meta(h, format=99),
    "a header that is no object": lambda h: h["__metadata__"].update(tl_steer_inspection="[1]"),
    "a header that is no JSON": lambda h: h["__metadata__"].update(tl_steer_inspection="{"),
    "no header": lambda h: h["__metadata__"].clear(),
    "a shape turned round": lambda h: h["kl"]["shape"].reverse(),
    "another dtype": lambda h: h["kl"].update(dtype="I32"),
    "a missing tensor": lambda h: h.pop("kl"),
    "last rows of other heads": lambda h: h["last_rows"]["shape"].reverse(),
    "last rows that are numbers": lambda h: h["last_rows"].update(dtype="I16"),
    "a fingerprint that is none": lambda h: meta(h, fingerprint=[1]),
    "a fingerprint of texts": lambda h: meta(
        h, fingerprint={"signature": ["x"], "d_model": 1, "n_layers": 1, "d_vocab": 1, "dtype": ""}
    ),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_files_that_were_changed_are_refused(one, tmp_path, change):
    _, path = saved(one, tmp_path)
    tamper(path, change)
    with pytest.raises(InspectionFileError):
        ts.inspection.load_inspection(path)


@pytest.mark.parametrize("size", [0, 7, 100, 2000])
def test_truncated_files_are_refused(one, tmp_path, size):
    _, path = saved(one, tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InspectionFileError):
        ts.inspection.load_inspection(path)


def test_heads_and_tokens_that_are_not_there_are_refused(one, tmp_path):
    seen, path = saved(one, tmp_path)
    for change, told in (
        ({"kept": seen.kept + 50}, "heads that are not there"),
        ({"read_at": seen.read_at + 50}, "tokens that are not there"),
    ):
        odd = dataclasses.replace(seen, **change)
        with pytest.raises(SettingError, match=told):
            odd.save(path)
        meta = {name: getattr(odd, name) for name in TEXTS} | {"words": {}}
        INSPECTION_FILE.write(path, meta, {name: getattr(odd, name) for name in AXES})
        with pytest.raises(InspectionFileError, match=told):
            ts.inspection.load_inspection(path)
    with pytest.raises(InspectionFileError, match="No inspection at"):
        ts.inspection.load_inspection(tmp_path / "none")
