"""Models that are compiled, quantised, on meta or made in inference mode: right, or refused."""

import contextlib

import conftest
import pytest
import torch
import torch._dynamo
from conftest import PROMPTS, SOURCE, TARGET
from state import snapshot

import tl_steer as ts
from tl_steer.errors import ModelError

pytestmark = pytest.mark.skipif(not conftest.HAS_BRIDGE, reason="bridges hold these models")
K = {"source": SOURCE, "target": TARGET, "n": 2, "radius": 3.0, "progress": False}
K["measured"] = ts.Positions(last=1)


def reference():
    model = conftest.make("bridge-llama")
    return model, ts.elicit(model, PROMPTS, **K)


def compiled_outside():
    return torch.compile(conftest.bridge("llama"), backend="eager")


def compiled_inside():
    model = conftest.bridge("llama")
    model.original_model = torch.compile(model.original_model, backend="eager")
    return model


def compiled_in_place():
    model = conftest.bridge("llama")
    model.compile(backend="eager")
    model("t1 t2 t3")
    return model


@pytest.mark.parametrize("make", [compiled_outside, compiled_inside, compiled_in_place])
def test_a_compiled_model_is_steered_as_one_that_is_not(make):
    torch._dynamo.reset()
    plain, bank = reference()
    model = make()
    assert torch.equal(ts.elicit(model, PROMPTS, **K).vectors, bank.vectors)
    ids = ts.tokenize(plain, PROMPTS[:1]).ids
    with torch.no_grad():
        model(ids)  # a graph without hooks is there before
        with ts.perturbing(model, bank[0]), ts.capturing(model, [TARGET]) as seen:
            found = model(ids, return_type="logits")
        with ts.perturbing(plain, bank[0]), ts.capturing(plain, [TARGET]) as expected:
            wanted = plain(ids, return_type="logits")
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(seen[TARGET], expected[TARGET])
    assert ts.sweep(model, bank, PROMPTS, n_random=1, progress=False).prompts == len(PROMPTS)


def test_a_model_on_meta_is_refused_in_a_sentence():
    _, bank = reference()
    model = conftest.bridge("llama")
    model.original_model.to("meta")
    for verb in (
        lambda: ts.elicit(model, PROMPTS, **K),
        lambda: ts.generate(model, bank, PROMPTS),
        lambda: ts.inspect(model, bank, PROMPTS[0]),
        lambda: ts.sweep(model, bank, PROMPTS, progress=False),
    ):
        with pytest.raises(ModelError, match="meta device"):
            verb()


@pytest.mark.parametrize("inside", [False, True])
def test_weights_made_in_inference_mode_lose_no_flag_and_are_refused_for_gradients(inside):
    plain, bank = reference()
    with torch.inference_mode():
        model = conftest.bridge("llama")
    before = [p.requires_grad for p in model.parameters()]
    with torch.inference_mode(inside):
        for verb in (
            lambda: ts.elicit(model, PROMPTS, **K),
            lambda: ts.inspect(model, bank, PROMPTS[0]),
        ):
            with pytest.raises(ModelError, match="inference_mode"):
                verb()
        texts = ts.generate(model, bank, PROMPTS, max_new_tokens=3).texts
        assert ts.sweep(model, bank, PROMPTS, n_random=1, progress=False).prompts == 3
    assert texts == ts.generate(plain, bank, PROMPTS, max_new_tokens=3).texts
    assert [p.requires_grad for p in model.parameters()] == before
    assert any(before)


def test_a_quantised_model_is_steered_and_inspected_without_attribution():
    model = conftest.bridge("llama")
    torch.ao.quantization.quantize_dynamic(model.original_model, {torch.nn.Linear}, inplace=True)
    bank = ts.elicit(model, PROMPTS, **K)
    seen = ts.inspect(model, bank, PROMPTS[0])
    assert seen.kl.isfinite().all()
    assert seen.direct.shape[-1] == 0
    assert len(ts.generate(model, bank, PROMPTS, max_new_tokens=2).texts) == 2


def test_float_vectors_steer_weights_that_torchao_has_quantised():
    """To int8, each with a scale a row: what is learned is learned through them, and a hook adds
    what the bank holds."""
    quantization = pytest.importorskip("torchao.quantization")
    from transformer_lens.model_bridge import TransformerBridge

    # Before the bridge, by whose two names for a map it would be quantised twice.
    inner = conftest._hugging_face("llama").to(torch.bfloat16)
    quantization.quantize_(inner, quantization.Int8WeightOnlyConfig())
    assert type(inner.model.layers[1].mlp.up_proj.weight.data) is not torch.Tensor
    model = TransformerBridge.boot_transformers(
        "tiny-llama", hf_model=inner, tokenizer=conftest.tokenizer(), dtype=torch.bfloat16
    ).eval()
    bank = ts.elicit(model, PROMPTS, **K)
    assert bank.vectors.dtype == torch.float32
    assert (
        bank.objective.min()
        > ts.Bank.from_vectors(
            model, ts.random_bank(bank), prompts=PROMPTS, measured=K["measured"]
        ).objective.max()
    )
    ids = ts.tokenize(model, PROMPTS[:1]).ids
    seen = {}
    for name, how in (
        ("clean", contextlib.nullcontext()),
        ("steered", ts.perturbing(model, bank[1])),
    ):
        with torch.no_grad(), how, ts.capturing(model, [SOURCE]) as found:
            model(ids)
        seen[name] = found[SOURCE]
    added = bank.vectors[1].to(torch.bfloat16)
    assert torch.equal(seen["steered"], seen["clean"] + added)
    assert len(ts.generate(model, bank, PROMPTS, max_new_tokens=2).texts) == 2
    assert ts.inspect(model, bank, PROMPTS[0]).kl.isfinite().all()


def test_autocast_around_a_verb_changes_nothing():
    model, bank = reference()
    before = snapshot(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ts.elicit(model, PROMPTS, **K).vectors, bank.vectors)
        ts.generate(model, bank, PROMPTS, max_new_tokens=2)
        assert torch.is_autocast_enabled("cpu")
    assert snapshot(model) == before


def test_the_compiler_is_as_it_was_in_whatever_order_blocks_end():
    stance = torch._dynamo.eval_frame._stance
    model, bank = reference()
    first, second = (ts.perturbing(model, bank[i]) for i in (0, 1))
    first.__enter__()
    second.__enter__()
    assert torch._dynamo.eval_frame._stance.stance == "force_eager"
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert torch._dynamo.eval_frame._stance == stance
