"""What a bank's vectors write, read off the unembedding, straight or through a fitted Jacobian."""

import dataclasses

import pytest
import torch
from conftest import HAS_BRIDGE, PROMPTS, SOURCE, VOCAB, adapter_bank, bank_of, make
from linear import LinearHost

import tl_steer as ts
from tl_steer.banks import words
from tl_steer.errors import ForeignModelError, HookPointError, ModelError, SettingError, ShapeError

LAYER = 1


@pytest.fixture
def bank(one):
    return bank_of(one)


def sharp(model, ids, *, source=SOURCE, prompts=PROMPTS[:1]):
    """A bank of columns of the unembedding: each raises its own token's logit."""
    rows = model.W_U[:, ids].detach().float().T
    return ts.Bank.from_vectors(model, rows, prompts=prompts, source=source, target=3)


def test_a_vector_that_lies_along_a_token_writes_it_in_every_class(model):
    tokens = [7, 30, 55]
    # Norms of folded models have no gains, and those of random ones have gains of 1.
    found = words(model, sharp(model, tokens))
    assert [row[0] for row in found.promoted] == [f"t{token - 3}" for token in tokens]
    assert words(model, -sharp(model, tokens)).suppressed == found.promoted


@pytest.mark.skipif(not HAS_BRIDGE, reason="no bridge")
@pytest.mark.parametrize("kind", ["bridge-llama", "bridge-gpt2"])
def test_words_are_those_of_transformers_own_norm_and_unembedding(kind):
    model = make(kind)
    plain = model.original_model
    norm = plain.model.norm if kind == "bridge-llama" else plain.transformer.ln_f
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        gain = 0.5 + torch.rand(norm.weight.shape, generator=torch.Generator().manual_seed(0))
        patch.setattr(norm.weight, "data", gain)
        if getattr(norm, "bias", None) is not None:
            patch.setattr(norm.bias, "data", 9 * gain.flip(0))
        vectors = torch.randn(4, len(gain), generator=torch.Generator().manual_seed(1))
        bank = ts.Bank.from_vectors(model, vectors, prompts=PROMPTS[:1], source=SOURCE, target=3)
        found = words(model, bank, most=VOCAB)
        centred = vectors - vectors.mean(dim=1, keepdim=True) * (kind == "bridge-gpt2")
        logits = (centred * gain) @ plain.lm_head.weight.T
    for v, row in enumerate(logits):
        order = row.argsort(descending=True).tolist()
        assert found.promoted[v] == tuple(plain_name(model, token) for token in order)
        assert found.suppressed[v] == found.promoted[v][::-1]
        spread = (row - row.mean()).abs().max() / row.std(correction=0)
        assert found.peak[v] == pytest.approx(float(spread), rel=1e-4)


def plain_name(model, token):
    return model.tokenizer.convert_ids_to_tokens(token)


def transport_by_differences(model, vectors, layer, prompts, step=1e-2):
    """What adding each vector at every token but the last does to the sum of the last block's
    outputs there, per token; by transformers and a hook of its own."""
    plain, found = model.original_model, []
    blocks = plain.model.layers

    def final(ids, added):
        kept = []

        def edit(_module, _args, out):
            whole = (out[0] if isinstance(out, tuple) else out).clone()
            whole[:, :-1] += added
            return (whole, *out[1:]) if isinstance(out, tuple) else whole

        def keep(_module, _args, out):
            kept.append((out[0] if isinstance(out, tuple) else out)[0, :-1].double())

        handles = [
            blocks[layer].register_forward_hook(edit),
            blocks[-1].register_forward_hook(keep),
        ]
        try:
            with torch.no_grad():
                plain(input_ids=ids)
        finally:
            [handle.remove() for handle in handles]
        return kept[0]

    for vector in vectors:
        changes = []
        for prompt in prompts:
            ids = model.to_tokens(prompt)
            both = [final(ids, sign * step * vector) for sign in (1, -1)]
            changes.append((both[0] - both[1]).sum(dim=0) / (2 * step) / (ids.shape[1] - 1))
        found.append(torch.stack(changes).mean(dim=0))
    return torch.stack(found).float()


@pytest.fixture(scope="module")
def fitted():
    """TransformerLens's own Jacobian lens of a tiny model."""
    analysis = pytest.importorskip("transformer_lens.tools.analysis.jacobian_lens")
    model = make("bridge-llama")
    lens = analysis.JacobianLens.fit(
        model, PROMPTS, corpus="ours", skip_first_positions=0, show_progress=False
    )
    return model, lens


@pytest.mark.parametrize("source", [SOURCE, "blocks.2.hook_resid_pre"])
def test_a_jacobian_lens_reads_what_finite_differences_say(fitted, source):
    model, lens = fitted
    vectors = bank_of(model).vectors
    bank = ts.Bank.from_vectors(model, vectors, prompts=PROMPTS[:1], source=source, target=3)
    moved = transport_by_differences(model, vectors / vectors.norm(dim=1)[:, None], 1, PROMPTS)
    there = ts.Bank.from_vectors(model, moved, prompts=PROMPTS[:1], source=3, target=3)
    own, other = words(model, bank, lens=lens), words(model, there)
    assert own.promoted == other.promoted
    assert own.suppressed == other.suppressed
    torch.testing.assert_close(torch.tensor(own.peak), torch.tensor(other.peak), rtol=1e-2, atol=0)
    assert own.lens == "JacobianLens of 3 prompts"
    assert own.promoted != words(model, bank).promoted


def test_random_vectors_are_read_the_same_way(one, bank):
    found = words(one, bank, seed=4)
    random = words(one, ts.random_bank(bank, n=100, seed=4))
    assert found.random_peak == random.peak
    assert found.beyond_random() == tuple(p > max(random.peak) for p in found.peak)
    many = words(one, ts.random_bank(bank, n=130))
    assert len(many.random_peak) == 130


def test_words_go_into_empty_labels_only_and_are_saved_and_shown(one, bank, tmp_path):
    found = words(one, bank, most=2)
    labelled = found.onto(bank.label(1, "reams of paper"))
    assert labelled.labels[1] == "reams of paper"
    (a, b), (c, d) = found.promoted[0], found.suppressed[0]
    told = f"writes {a!r} {b!r}, against {c!r} {d!r}"
    assert found.beyond_random()[0] is False
    assert labelled.labels[0] == f"{told} (as random)"
    high = dataclasses.replace(found, random_peak=(0.0,))
    assert high.onto(bank).labels[0] == told
    assert labelled.scores["peak"].tolist() == pytest.approx(found.peak)
    labelled.save(tmp_path / "b.safetensors")
    assert labelled.labels[0] in repr(ts.load_bank(tmp_path / "b.safetensors"))
    assert words(one, labelled).onto(labelled).labels == labelled.labels


def test_the_table_has_the_words_and_what_random_vectors_reach(one, bank):
    found = words(one, bank)
    sheet = found.table(most=2)
    assert len(sheet.rows) == 2
    assert sheet.rows[0][1] == " ".join(map(repr, found.promoted[0]))
    assert "2 more not shown" in sheet.note
    assert f"{max(found.random_peak):.4g}" in sheet.note
    assert "logit lens" in sheet.note


def test_a_lens_of_any_make_will_do(one, bank):
    class Twice:
        def transport(self, rows, layer):
            return rows.flip(1) * layer

    turned = dataclasses.replace(bank, vectors=bank.vectors.flip(1))
    assert words(one, bank, lens=Twice()).promoted == words(one, turned).promoted


def test_what_cannot_be_read_is_refused_with_the_reason(one, bank):
    class Broken:
        def transport(self, rows, layer):
            raise KeyError(layer)

    class Narrow:
        def transport(self, rows, layer):
            return rows[:, 1:]

    class Nothing:
        def transport(self, rows, layer):
            return rows * float("nan")

    for lens in (3, "gpt2", Broken(), Narrow(), Nothing()):
        with pytest.raises(SettingError, match="lens"):
            words(one, bank, lens=lens)
    with pytest.raises(ShapeError, match="class Broken"):
        words(one, bank, lens=Broken)
    with pytest.raises(SettingError, match="responses"):
        words(one, adapter_bank(one))
    with pytest.raises(SettingError, match="no vectors"):
        words(one, bank[[]])
    with pytest.raises(SettingError, match="most=0"):
        words(one, bank, most=0)
    with pytest.raises(SettingError, match="another bank"):
        words(one, bank[:2]).onto(bank[2:])
    kept = bank.provenance
    other = dataclasses.replace(kept.fingerprint, d_vocab=7)
    foreign = dataclasses.replace(bank, provenance=dataclasses.replace(kept, fingerprint=other))
    with pytest.raises(ForeignModelError):
        words(one, foreign)


def test_vectors_that_are_not_on_the_stream_are_refused(one):
    inside = ts.Bank.from_vectors(
        one, torch.ones(1, 24), prompts=PROMPTS[:1], source="blocks.1.hook_mlp_out", target=3
    )
    with pytest.raises(HookPointError, match="residual stream"):
        words(one, inside)
    first = ts.Bank.from_vectors(
        one, torch.ones(1, 24), prompts=PROMPTS[:1], source="blocks.0.hook_resid_pre", target=3
    )

    class Lens:
        def transport(self, rows, layer):
            return rows

    with pytest.raises(HookPointError, match="outputs of blocks"):
        words(one, first, lens=Lens())
    assert len(words(one, first)) == 1


def test_a_model_without_an_unembedding_is_refused():
    host = LinearHost([torch.eye(4)] * 2)
    bank = ts.Bank.from_vectors(host, torch.ones(1, 4), prompts=["1 2 3 4"], source=0, target=1)
    with pytest.raises(ModelError, match="unembed"):
        words(host, bank)
