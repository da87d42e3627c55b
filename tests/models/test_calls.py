"""Blocks get their arguments as the model would give them, whatever those look like."""

import functools
from collections import namedtuple

import conftest
import pytest
import torch
from conftest import HAS_BRIDGE, HEADS, LAYERS, SOURCE, TARGET, VOCAB, D
from linear import Block, Host

import tl_steer as ts
from tl_steer.errors import ModelError
from tl_steer.models import calls
from tl_steer.models.calls import cacheless
from tl_steer.models.hooks import capturing, installed
from tl_steer.models.packed import Packed, packed_if_possible

# As many as there are heads, fewer and more; of several lengths.
WORDS = ["t5 t9 t30 t7 t61", "t8 t3", "t70 t1 t44 t12 t13 t14 t2", "t1 t2 t3 t4"]
EVEN = ["t5 t9 t30", "t8 t3 t4", "t70 t1 t44", "t9 t9 t9"]
needs_bridge = pytest.mark.skipif(not HAS_BRIDGE, reason="transformers models come in bridges")


def unusual():
    import transformers as hf

    common = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    wide = {"hidden_size": D, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    return {
        "bloom": lambda: hf.BloomConfig(**common, hidden_size=D, n_layer=LAYERS, n_head=HEADS),
        "mpt": lambda: hf.MptConfig(
            vocab_size=VOCAB, d_model=D, n_layers=LAYERS, n_heads=HEADS, max_seq_len=64
        ),
        "falcon": lambda: hf.FalconConfig(
            **common, **wide, alibi=True, architectures=["FalconForCausalLM"]
        ),
        "falcon rotary": lambda: hf.FalconConfig(
            **common, **wide, alibi=False, architectures=["FalconForCausalLM"]
        ),
    }


@functools.cache
def made(kind):
    import transformers as hf
    from transformer_lens.model_bridge import TransformerBridge

    config = unusual()[kind]()
    config.initializer_range = 0.15
    torch.manual_seed(0)
    weights = hf.AutoModelForCausalLM.from_config(config)
    return TransformerBridge.boot_transformers(
        f"tiny-{kind}", hf_model=weights, tokenizer=conftest.tokenizer()
    ).eval()


def edits(site, n=3):
    generator = torch.Generator().manual_seed(1)
    return ts.Additive.random(site, n, radius=3.0, generator=generator)


def full_forward(model, tokens, target, perturbation):
    with torch.no_grad(), installed(model, perturbation.hooks()):
        with capturing(model, [target]) as seen:
            model(tokens.ids, attention_mask=tokens.mask.long(), **cacheless(model))
    return seen[target]


def assert_replayed(model, prompts, source=SOURCE, target=TARGET):
    tokens = ts.tokenize(model, prompts)
    segment = ts.Segment(model, tokens, source, target)
    perturbation = edits(segment.source)
    steered = segment.run(perturbation)
    assert not torch.allclose(steered[0], segment.clean, atol=1e-2)
    for row in range(3):
        expected = full_forward(model, tokens, target, perturbation.select([row]))
        torch.testing.assert_close(
            steered[row][tokens.mask], expected[tokens.mask], atol=1e-5, rtol=1e-5
        )


@needs_bridge
@pytest.mark.parametrize("prompts", [WORDS, EVEN], ids=["padded", "even"])
@pytest.mark.parametrize("n", [1, 2, HEADS, 4])
@pytest.mark.parametrize("kind", ["bloom", "mpt", "falcon", "falcon rotary"])
def test_position_biases_are_replayed_in_every_layout(kind, n, prompts):
    assert_replayed(made(kind), prompts[:n])


@needs_bridge
def test_models_with_alibi_are_swept_inspected_and_packed_or_not():
    model = made("bloom")
    bank = ts.elicit(
        model, WORDS[:3], source=SOURCE, target=TARGET, n=2, radius=3.0, progress=False,
        measured=ts.Positions(last=1, bos=False),
    )  # fmt: skip
    assert ts.sweep(model, bank, WORDS, n_random=1, progress=False).prompts == 4
    assert ts.inspect(model, bank, WORDS[0]).kl.shape[0] == 2
    common = ["t5 t9 t30 t7 t61 t8 t9 t10 " + more for more in ("t1", "t2 t3", "t4")]
    tokens = ts.tokenize(model, common)
    perturbation = bank.perturbation()
    chosen = tokens.select(perturbation.positions)
    segment = packed_if_possible(model, tokens, bank.source, TARGET, chosen=chosen)
    with torch.no_grad():
        found = segment.run(perturbation)
    if isinstance(segment, Packed):
        found = segment.packing.unpack(found)
    for row in range(2):
        expected = full_forward(model, tokens, TARGET, perturbation.select([row]))
        torch.testing.assert_close(
            found[row][tokens.mask], expected[tokens.mask], atol=1e-4, rtol=1e-4
        )


Pair = namedtuple("Pair", ["scale", "shift"])
H, WIDE = 3, 6
SLOPES = torch.linspace(0.5, 1.5, H)


def of_prompts(ids):
    """Something that differs from prompt to prompt, `[batch pos]`."""
    return torch.cos(ids.float())


# name -> (what the model gives, what the block makes of it: [batch pos], to be added)
LAYOUTS = {
    "batch first": (lambda ids: of_prompts(ids), lambda x, given: given),
    "batch second": (lambda ids: of_prompts(ids).T, lambda x, given: given.T),
    "batch times heads": (
        lambda ids: (of_prompts(ids)[:, None] * SLOPES[:, None]).flatten(0, 1)[:, None],
        lambda x, given: given.reshape(len(x), H, -1).sum(dim=1),
    ),
    "heads": (
        lambda ids: SLOPES[:, None, None] * torch.arange(ids.shape[1]),
        lambda x, given: given.sum(dim=(0, 1))[None],
    ),
    "an expanded mask": (
        lambda ids: torch.ones(1, 1, ids.shape[1], ids.shape[1]).tril().expand(len(ids), 1, -1, -1),
        # a view that broadcasting would not save
        lambda x, given: given.reshape(len(x), x.shape[1], -1).sum(dim=2),
    ),
    "one mask for all": (
        lambda ids: torch.ones(1, 1, ids.shape[1], ids.shape[1]).tril(),
        lambda x, given: given[0, 0].sum(dim=1)[None],
    ),
    "positions alone": (
        lambda ids: torch.arange(ids.shape[1]) * 1.0,
        lambda x, given: given[None],
    ),
    "as many as layers": (lambda ids: torch.ones(3), lambda x, given: given.sum() * x[..., 0]),
    "a tuple and None": (
        lambda ids: (of_prompts(ids), None, torch.ones(3)),
        lambda x, given: given[0] * given[2].sum(),
    ),
    "a named tuple": (
        lambda ids: Pair(SLOPES.sum(), of_prompts(ids)),
        lambda x, given: given.scale * given.shift,
    ),
    "a dictionary": (
        lambda ids: {"a": [of_prompts(ids)], "b": torch.ones(len(SLOPES), 1)},
        lambda x, given: given["a"][0] * given["b"].sum(),
    ),
}


class Given(Block):
    """A block that adds what it makes of the argument that it is given."""

    def __init__(self, use):
        super().__init__(lambda x: x)
        self.use = use

    def forward(self, residual, given=None):
        residual = self.hook_resid_pre(residual)
        return self.hook_resid_post(residual + 0.1 * self.use(residual, given)[..., None])


class Giving(Host):
    def __init__(self, layout, passing):
        make, use = LAYOUTS[layout]
        table = torch.randn(VOCAB, WIDE, generator=torch.Generator().manual_seed(2))
        super().__init__("giving", table, [Given(use) for _ in range(3)])
        self.make, self.passing = make, passing

    def forward(self, ids, attention_mask=None, stop_at_layer=None, return_type=None):
        residual, given = self.embed[ids], self.make(ids)
        for block in self.blocks[:stop_at_layer]:
            residual = (
                block(residual=residual, given=given)
                if self.passing == "by keyword"
                else block(residual, given)
            )
        return residual


@pytest.mark.parametrize("passing", ["by position", "by keyword"])
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_an_argument_grows_along_the_axis_of_the_prompts_and_no_other(layout, passing):
    model = Giving(layout, passing)
    ends = ("blocks.0.hook_resid_post", "blocks.2.hook_resid_post")
    # 3 is the number of heads, of layers and of tokens; 6 the width.
    for n, length in ((1, 4), (2, 4), (3, 3), (3, 5), (6, 3), (1, 1), (4, 6)):
        rows = [torch.arange(i, i + length) % VOCAB for i in range(n)]
        assert_replayed(model, rows, *ends)


def test_what_was_learned_is_learned_once_for_batches_that_look_alike(monkeypatch):
    learned = []
    learn = calls._learned
    monkeypatch.setattr(calls, "_learned", lambda *a: learned.append(1) or learn(*a))
    model = Giving("batch times heads", "by position")
    for n in (2, 3, 2, 5):
        rows = [torch.arange(i, i + 4) for i in range(n)]
        assert_replayed(model, rows, "blocks.0.hook_resid_post", "blocks.2.hook_resid_post")
    assert len(learned) == 1


def test_what_is_remembered_is_learned_anew_when_it_is_true_no_longer():
    model = Giving("batch first", "by position")
    rows, ends = (
        [torch.arange(i, i + 4) for i in range(4)],
        (
            "blocks.0.hook_resid_post",
            "blocks.2.hook_resid_post",
        ),
    )
    assert_replayed(model, rows, *ends)
    # The same shape for as many prompts as tokens, and another meaning.
    model.make, use = LAYOUTS["batch second"]
    for block in model.blocks:
        block.use = use
    assert_replayed(model, rows, *ends)
    assert_replayed(model, rows[:3], *ends)


def test_whatever_a_replay_raises_is_one_sentence():
    class Counting(Block):
        def forward(self, residual):
            if len(residual) == 6:
                raise ZeroDivisionError("six\nrows")
            return super().forward(residual)

    table = torch.randn(VOCAB, WIDE, generator=torch.Generator().manual_seed(2))
    host = Host("counting", table, [Block(lambda x: x), Counting(lambda x: x), Block(lambda x: x)])
    tokens = ts.tokenize(host, [torch.tensor([1, 2, 3])] * 3)
    with pytest.raises(ModelError, match=r"^Replaying blocks 1 to 2 fails .*Error: six$"):
        ts.Segment(host, tokens, "blocks.0.hook_resid_post", "blocks.2.hook_resid_post")


def test_heads_first_and_prompts_second_in_one_axis_is_refused():
    model = Giving("heads", "by position")
    model.make = lambda ids: (SLOPES[:, None, None] * of_prompts(ids)).flatten(0, 1)[:, None]
    for block in model.blocks:
        block.use = lambda x, given: given.reshape(H, len(x), -1)[1]
    rows = [torch.arange(i, i + 4) for i in range(2)]
    with pytest.raises(ModelError, match="does not reproduce the model"):
        ts.Segment(
            model, ts.tokenize(model, rows), "blocks.0.hook_resid_post", "blocks.2.hook_resid_post"
        )


@needs_bridge
def test_the_width_of_heads_is_the_model_s_where_the_config_says_another():
    import transformers as hf
    from transformer_lens.model_bridge import TransformerBridge

    config = hf.DeepseekV3Config(
        vocab_size=VOCAB, hidden_size=D, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=4, intermediate_size=32, moe_intermediate_size=16, kv_lora_rank=8,
        q_lora_rank=12, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=6, n_routed_experts=4,
        num_experts_per_tok=2, n_group=1, topk_group=1, first_k_dense_replace=LAYERS,
        max_position_embeddings=64, initializer_range=0.15,
        architectures=["DeepseekV3ForCausalLM"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = TransformerBridge.boot_transformers(
        "tiny-deepseek", hf_model=hf.DeepseekV3ForCausalLM(config), tokenizer=conftest.tokenizer()
    ).eval()
    source = "blocks.1.attn.hook_z"
    assert ts.models.resolve(model, source).width == 24
    bank = ts.elicit(
        model, WORDS[:1], source=source, target=TARGET, n=2, radius=3.0, progress=False
    )
    assert bank.vectors.shape == (2, 24)
    assert_replayed(model, WORDS[:2], source)
