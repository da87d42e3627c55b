"""What a source does, kind by kind and family by family, against plain transformers with a hook of
the test's own."""

import functools

import pytest
import torch
import torture_architectures as matrix
from conftest import HAS_BRIDGE, HAS_HOOKED, PROMPTS, TARGET
from families import FAMILIES
from places import HEADED, KINDS, PLACES, plain_logits
from tiny_monitor import QUIET, prompts

import tl_steer as ts
from tl_steer.errors import HookPointError
from tl_steer.monitoring.audit import read_log
from tl_steer.monitoring.detectors import MatchedFilter

IDS = torch.tensor([[0, 8, 12, 33, 10, 64]])
# Some tokens alone: the same vector at all keys changes no attention.
LAST = ts.Positions(last=2)
LAYER, SIZE = 1, 3.0


@functools.cache
def subject(family, kind):
    """The model in one class, and transformers' own of the same weights."""
    try:
        made = matrix.made(FAMILIES[family], kind)
    except Exception as error:
        pytest.skip(f"this TransformerLens makes no {family}: {error}")
    plain = FAMILIES[family].make()
    with torch.no_grad():
        own = made.model(IDS, return_type="logits").log_softmax(dim=-1)
    if float((own - unsteered(plain)).abs().max()) > 1e-4:
        pytest.skip(f"this {type(made.model).__name__} is not transformers' {family}")
    return made.model, plain


@pytest.fixture(params=[(f, c) for f in PLACES for c in matrix.kinds() if c != "compat"])
def pair(request):
    family, kind = request.param
    return family, *subject(family, kind)


def steered(model, site, vector):
    edit = ts.Additive(site, vector[None], positions=LAST)
    tokens = ts.tokenize(model, [IDS[0]])
    with torch.no_grad(), ts.perturbing(model, edit, tokens=tokens):
        return model(IDS, return_type="logits").float().log_softmax(dim=-1)


def drawn(width):
    vector = torch.randn(width, generator=torch.Generator().manual_seed(width))
    return SIZE * vector / vector.norm()


def added(vector, columns=slice(None)):
    def edit(activation):
        out = activation.clone()
        flat = out.view(1, IDS.shape[1], -1)  # OPT has prompts and tokens in one axis
        flat[:, -2:, columns] += vector
        return out

    return edit


def unsteered(plain):
    with torch.no_grad():
        return plain(input_ids=IDS).logits.float().log_softmax(dim=-1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_does_what_a_hook_of_ones_own_does_in_transformers(pair, kind):
    family, model, plain = pair
    name = f"blocks.{LAYER}.{kind}"
    if kind not in PLACES[family][1]:
        with pytest.raises(HookPointError, match=r"no neurons|There is no hook point"):
            ts.models.resolve(model, name)
        return
    site = ts.models.resolve(model, name)
    vector = drawn(site.width)
    expected = plain_logits(plain, family, LAYER, kind, added(vector), IDS)
    torch.testing.assert_close(steered(model, site, vector), expected, atol=1e-5, rtol=1e-5)
    assert float((expected - unsteered(plain)).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", HEADED)
def test_one_head_is_that_head_of_transformers_and_no_other(pair, kind):
    family, model, plain = pair
    name = f"blocks.{LAYER}.{kind}"
    site = ts.models.resolve(model, name, head=-1)
    assert site.width == 8
    last = ts.models.resolve(model, name).width - 8
    assert (site.name, site.head) == (f"{name}[{last // 8}]", last // 8)
    vector = drawn(8)
    columns = slice(last, last + 8)
    expected = plain_logits(plain, family, LAYER, kind, added(vector, columns), IDS)
    torch.testing.assert_close(steered(model, site, vector), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(HookPointError, match=f"has heads 0 to {last // 8} "):
        ts.models.resolve(model, f"{name}[{last // 8 + 1}]")


# Where TransformerLens shows hooks a pattern and computes attention elsewhere.
DISCARDED = ("gptj", "opt")


@pytest.mark.parametrize("head", [None, 1])
def test_a_pattern_is_scaled_head_by_head_or_refused_where_it_is_only_shown(pair, head):
    """What is added to a head's attention at a token scales what that head reads there."""
    family, model, plain = pair
    if family in DISCARDED and type(model).__name__ == "TransformerBridge":
        with pytest.raises(HookPointError, match="does not compute with what hooks return"):
            ts.models.resolve(model, f"blocks.{LAYER}.attn.hook_pattern")
        return
    site = ts.models.resolve(model, f"blocks.{LAYER}.attn.hook_pattern", head=head)
    assert site.width == (3 if head is None else 1)
    vector = torch.tensor([-1.0, 0.5, 2.0]) if head is None else torch.tensor([-1.0])

    def scaled(z):
        gains = torch.ones(3)
        gains[slice(None) if head is None else slice(head, head + 1)] += vector
        out = z.clone()
        out[:, -2:] *= gains.repeat_interleave(8)
        return out

    expected = plain_logits(plain, family, LAYER, "attn.hook_z", scaled, IDS)
    torch.testing.assert_close(steered(model, site, vector), expected, atol=1e-5, rtol=1e-5)
    assert float((expected - unsteered(plain)).abs().max()) > 1e-4


@pytest.mark.skipif(not HAS_BRIDGE, reason="only the bridge makes these models")
@pytest.mark.parametrize(
    ("family", "kind", "said"),
    [
        ("opt", "attn.hook_pattern", "does not compute with what hooks return"),
        ("deepseek3", "attn.hook_q", r"has the shape \[3, 3, 7, 8\] for 3 prompts of 7 tokens"),
        ("deepseek3", "attn.hook_z[3]", "has heads 0 to 2 .* got head 3"),
        ("gpt-oss", "mlp.hook_pre", "has no neurons on this model"),
        pytest.param(
            "qwen3-next",
            "attn.hook_q[0]",
            "not made of heads as wide as attn.hook_z's",
            marks=pytest.mark.skipif(HAS_HOOKED, reason="TransformerLens 3 fails in the pass"),
        ),
    ],
)
def test_what_a_model_cannot_steer_is_refused_with_the_reason(family, kind, said):
    model, _ = subject(family, "raw")
    with pytest.raises(HookPointError, match=said):
        ts.models.resolve(model, f"blocks.{LAYER}.{kind}")


@pytest.mark.skipif(not HAS_BRIDGE, reason="only the bridge has several names for one point")
def test_another_name_of_a_point_is_the_kind_that_it_is(one):
    experts, _ = subject("mixtral", "raw")
    for model, name, kind in (
        (experts, "mlp.hook_out", "hook_mlp_out"),
        (one, "mlp.hook_out", "hook_mlp_out"),
        (one, "attn.q.hook_out", "attn.hook_q"),
        (one, "mlp.out.hook_in", "mlp.hook_post"),
    ):
        assert ts.models.resolve(model, f"blocks.1.{name}").kind == kind


VERBS = [
    *(f"blocks.{LAYER}.{kind}" for kind in KINDS),
    *(f"blocks.{LAYER}.{kind}[0]" for kind in HEADED),
    f"blocks.{LAYER}.attn.hook_pattern",
]


def last_logprobs(model, tokens):
    with torch.no_grad():
        return model(tokens.ids, return_type="logits")[0, -1].float().log_softmax(dim=-1)


@pytest.mark.parametrize("source", VERBS)
def test_every_source_works_in_every_verb(one, source, tmp_path):
    made = ts.elicit(
        one, PROMPTS[:1], source=source, target=3, n=2, radius=ts.radii.ShareOfNorm(0.5),
        measured=ts.Positions(last=1, bos=False), positions=ts.Positions(last=2, generated=False),
        method=ts.methods.Power(steps=2), progress=False,
    )  # fmt: skip
    assert (made.objective > 0).all()
    bank = ts.load_bank(made.save(tmp_path / "bank.safetensors"))
    assert (bank.source, bank.source.name, bank.target.name) == (made.source, source, TARGET)
    norms = ts.random_bank(bank).vectors.norm(dim=1)
    assert norms.tolist() == pytest.approx([made.radius] * 2, rel=1e-4)
    cached, plain = (
        ts.generate(one, bank, PROMPTS, max_new_tokens=3, use_past_kv_cache=cache).texts
        for cache in (True, False)
    )
    assert cached == plain
    swept = ts.sweep(one, bank, PROMPTS, n_random=1, progress=False).values("kl")
    seen = ts.inspect(one, bank, PROMPTS[0]).kl
    tokens = ts.tokenize(one, PROMPTS[:1])
    clean = last_logprobs(one, tokens)
    for v in range(2):
        with ts.perturbing(one, bank[v], tokens=tokens):
            moved = last_logprobs(one, tokens)
        kl = float((moved.exp() * (moved - clean)).sum())
        assert kl > 0
        assert [seen[v, -1], swept[v, 0]] == pytest.approx([kl] * 2, rel=1e-2, abs=1e-5)


@pytest.mark.parametrize(
    "source", [f"blocks.{LAYER}.attn.hook_k[0]", f"blocks.{LAYER}.mlp.hook_post"]
)
@pytest.mark.parametrize("target", ["hook_mlp_out", "attn.hook_z", "attn.hook_z[2]"])
def test_a_monitor_hears_a_part_of_a_block(llama, source, target, tmp_path):
    bank = ts.elicit(
        llama, PROMPTS, source=source, target=f"blocks.3.{target}", n=2, radius=2.0,
        measured=ts.Positions(last=1, bos=False), positions=ts.Positions(last=1), progress=False,
    )  # fmt: skip
    monitor = ts.Monitor.fit(
        llama, bank, prompts(100), score=MatchedFilter(), unknown=None, namer=None, horizon=2,
        effect_prompts=4,
    )  # fmt: skip
    heard = []
    hook = llama.hook_dict[bank.target.point].register_forward_hook(
        lambda _m, _a, out: heard.append(out.flatten(2)[:, -1].detach())
    )
    log = tmp_path / "a.sqlite"
    with ts.watch(llama, monitor, alpha=0.2, drift=None, log=log), torch.no_grad():
        llama.generate(llama.to_tokens(PROMPTS[0]), max_new_tokens=3, **QUIET)
    hook.remove()
    width = bank.target.width
    columns = slice(2 * width, 3 * width) if target.endswith("[2]") else slice(None)
    offline = monitor.score(torch.stack(heard[:3], dim=1)[..., columns])
    (row,) = read_log(log, "requests")
    assert row["statistic"] == pytest.approx(float(offline.statistic), rel=1e-3, abs=1e-3)
