"""Models with hardly any context, hardly any vocabulary, no tokenizer, or no text to give."""

import warnings

import pytest
import torch
import transformer_lens
from conftest import HAS_BRIDGE, HAS_HOOKED, tokenizer
from state import snapshot

import tl_steer as ts
from tl_steer.errors import ModelError, PromptError
from tl_steer.models.bare import fixed_tokens
from tl_steer.models.fingerprint import fingerprint
from tl_steer.radii import InBand

SITES = {"source": "blocks.0.hook_resid_post", "target": "blocks.1.hook_resid_post"}
LAST = ts.Positions(last=1, bos=False)
FAST = {**SITES, "n": 2, "measured": LAST, "progress": False}


def small_hooked(context, vocabulary, own=None):
    config = transformer_lens.HookedTransformerConfig(
        n_layers=2, d_model=12, n_ctx=context, d_head=4, n_heads=3, d_mlp=16, d_vocab=vocabulary,
        act_fn="gelu_new", normalization_type="LN", seed=0, initializer_range=0.3, device="cpu",
    )  # fmt: skip
    return transformer_lens.HookedTransformer(config, tokenizer=own)


def small_bridge(context, vocabulary, own=None, head="AutoModelForCausalLM"):
    import transformers as hf
    from transformer_lens.model_bridge import TransformerBridge

    torch.manual_seed(0)
    sizes = {"vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": None}
    if head == "AutoModelForCausalLM":
        config = hf.GPT2Config(n_embd=12, n_layer=2, n_head=3, n_positions=context, **sizes)
    else:
        config = hf.BertConfig(
            hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=16,
            max_position_embeddings=context, pad_token_id=0, **sizes,
        )  # fmt: skip
    config.initializer_range = 0.3
    model = getattr(hf, head).from_config(config)
    made = TransformerBridge.boot_transformers("small", hf_model=model, tokenizer=tokenizer())
    if own is None:
        made.tokenizer = None
    return made.eval()


SMALL = {}
if HAS_BRIDGE:
    SMALL["bridge"] = small_bridge
if HAS_HOOKED:
    SMALL["hooked"] = small_hooked


@pytest.fixture(params=SMALL)
def small(request):
    return SMALL[request.param]


def uses(model, bank, prompts, room):
    """Every verb, as far as so many new tokens allow."""
    yield "inspect", lambda: ts.inspect(model, bank, prompts[0], top=50)
    yield "rank", lambda: ts.rank(model, bank, prompts, by="next_token_kl")
    yield "scan", lambda: ts.scan(model, prompts, [(SITES["source"], SITES["target"])], top=2,
                                  measured=LAST)  # fmt: skip
    yield "sweep", lambda: ts.sweep(model, bank, prompts, progress=False, n_random=1)
    if room:
        yield "generate", lambda: ts.generate(model, bank, prompts, max_new_tokens=room)
        yield (
            "sweep text",
            lambda: ts.sweep(
                model,
                bank,
                prompts,
                metrics=["perplexity"],
                generate=room,
                n_random=1,
                progress=False,
            ),
        )
        yield (
            "dose",
            lambda: ts.dose_response(model, bank, prompts, shares=[0.5], max_new_tokens=room),
        )


@pytest.mark.parametrize("context", [1, 2, 3, 7, 8, 9])
def test_a_tiny_context_is_enough_for_every_verb(small, context):
    model = small(context, 11, tokenizer())
    length = max(1, context - 1)
    prompts = [torch.arange(3, 3 + length), torch.arange(1, 1 + length)]
    before = snapshot(model)
    bank = ts.elicit(model, prompts, radius=1.0, **FAST)
    for name, use in uses(model, bank, prompts, context - length):
        use(), name
    with pytest.raises(PromptError, match=f"context of {context}"):
        ts.generate(model, bank, prompts, max_new_tokens=context - length + 1)
    assert snapshot(model) == before


@pytest.mark.parametrize("vocabulary", [2, 3, 5])
def test_a_tiny_vocabulary_is_enough_for_every_verb(small, vocabulary):
    if vocabulary == 2 and HAS_HOOKED:
        pytest.skip("HookedTransformer takes every pad token of a prompt for padding")
    model = small(24, vocabulary, tokenizer())
    prompts = [torch.tensor([1, 0, 1]), torch.tensor([0, 1])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no band
        bank = ts.elicit(model, prompts, radius=InBand(max_new_tokens=4, n=2), **FAST)
    for name, use in uses(model, bank, prompts, 4):
        use(), name


def test_a_model_without_a_tokenizer_works_on_ids_or_says_that_its_generate_wants_one(small):
    model = small(24, 11)
    prompts = [torch.tensor([3, 4, 5]), torch.tensor([6, 7])]
    bank = ts.elicit(model, prompts, radius=1.0, **FAST)
    for name, use in uses(model, bank, prompts, 4):
        try:
            use(), name
        except ModelError as error:
            # Without one, TransformerLens 3.9 generates something else with a cache.
            assert "no tokenizer" in str(error) or "cache" in str(error)  # noqa: PT017
            assert name in ("generate", "sweep text", "dose")
    with pytest.raises(PromptError, match="no tokenizer"):
        ts.inspect(model, bank, "t1")


def test_text_that_does_not_fit_is_refused_before_any_work(small):
    model = small(20, 11, tokenizer())
    short, long = torch.arange(3), torch.arange(10)
    runs = []
    model.blocks[0].register_forward_pre_hook(lambda *_: runs.append(1))
    bank = ts.elicit(model, [short], radius=1.0, **FAST)
    ts.generate(model, bank, [short, long], max_new_tokens=10)
    with pytest.raises(PromptError, match=r"Prompt 0 is 10 tokens .*Calibrated"):
        ts.elicit(model, [long], **FAST)
    for use in (
        lambda: ts.generate(model, bank, [short, long], max_new_tokens=11),
        lambda: ts.dose_response(model, bank, [short, long], shares=[0.5], max_new_tokens=11),
        lambda: ts.halve(
            model, bank, lambda p, t: [1.0] * len(t), [short, long], held_out=[torch.arange(2)],
            max_new_tokens=11,
        ),
    ):  # fmt: skip
        runs.clear()
        with pytest.raises(
            PromptError, match=r"Prompt 1 is 10 tokens .*max_new_tokens.* at most 10"
        ):
            use()
        assert len(runs) <= 3  # the fingerprint's pass, and a segment's
    with pytest.raises(PromptError, match=r"Prompt 1 is 10 tokens .*horizon.* at most 10"):
        ts.Monitor.fit(model, bank, [short, long], horizon=11)


def test_the_fixed_tokens_are_as_they_were_where_the_context_holds_them():
    assert fixed_tokens(101).tolist() == fixed_tokens(101, most=8).tolist()
    assert fixed_tokens(101, most=3).tolist() == [fixed_tokens(101)[0, :3].tolist()]


def test_models_of_a_tiny_context_are_told_apart(small):
    model = small(3, 11)
    own = fingerprint(model)
    assert fingerprint(model) == own
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    assert fingerprint(model) != own


@pytest.mark.skipif(not HAS_BRIDGE, reason="HookedTransformer gives text always")
def test_a_model_that_only_fills_in_blanks_is_steered_and_says_that_it_cannot_go_on(recwarn):
    model = small_bridge(24, 101, tokenizer(), head="AutoModelForMaskedLM")
    prompts, before = ["t5 t6 t7", "t8 t9 t10 t11"], snapshot(model)
    with pytest.warns(UserWarning, match=r"generate\(\) does not work on this model.*Calibrated"):
        bank = ts.elicit(model, prompts, **FAST)
    anchor = ts.elicit(model, prompts, radius=ts.radii.Calibrated(), **FAST)
    assert bank.radius == anchor.radius
    ts.inspect(model, bank, prompts[0])
    for use in (
        lambda: ts.generate(model, bank, prompts),
        lambda: ts.dose_response(model, bank, prompts),
        lambda: ts.sweep(model, bank, prompts, metrics=["perplexity"], generate=2, progress=False),
        lambda: ts.Monitor.fit(model, bank, prompts * 100),
    ):
        with pytest.raises(ModelError, match=r"generate\(\) does not work .*NotImplementedError"):
            use()
    assert snapshot(model) == before
