"""What somebody writes on a first day works, or ends in one sentence that says what to write.

Each row is a call as one would try it without reading further than a name. `gives` rows check the
result, `says` rows the error's class and the words that tell what to do.
"""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET, D, bank_of
from torch import Tensor

import tl_steer as ts
from tl_steer import elicitation, hook_points, methods, objectives, perturbations, radii
from tl_steer.errors import (
    BankFileError,
    HookPointError,
    ModelError,
    PromptError,
    RowError,
    SettingError,
    ShapeError,
    WriteError,
)

LONG = ["t5 t9 t30 t7 t61", "t8 t3 t4 t9"]
Call = Callable[[Any], Any]
Check = Callable[[Any, Any], bool]


@pytest.fixture
def s(one: Any, tmp_path: Path) -> SimpleNamespace:
    """What a first session has at hand."""
    elicit = functools.partial(
        ts.elicit, one, n=2, radius=2.0, measured=ts.Positions(last=1, bos=False), progress=False
    )
    vector = torch.linspace(-1.0, 2.0, D, dtype=torch.float32, device="cpu")
    return SimpleNamespace(
        model=one, bank=bank_of(one), folder=tmp_path, elicit=elicit, vector=vector
    )


def logits(model: Any, perturbation: Any, **knobs: Any) -> Tensor:
    with ts.perturbing(model, perturbation, **knobs):
        return model(model.to_tokens(PROMPTS[0]))


def hooked(s: Any, name: str, edit: Callable[[Tensor], Tensor]) -> Tensor:
    """The independent truth: TransformerLens's own hooks."""
    ids = s.model.to_tokens(PROMPTS[0])
    return s.model.run_with_hooks(ids, fwd_hooks=[(name, lambda x, hook: edit(x))])


def entered(opened: Any) -> Any:
    with opened as inside:
        return inside


def same(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, atol=1e-5)


def turned(x: Tensor, v: Tensor) -> Tensor:
    return (x + v) / (x + v).norm(dim=-1, keepdim=True) * x.norm(dim=-1, keepdim=True)


def along(x: Tensor, v: Tensor) -> Tensor:
    """The component of x along v, as a vector."""
    unit = v / v.norm()
    return (x @ unit)[..., None] * unit


def as_named(found: ts.Bank, s: Any) -> bool:
    """A bank is the one that names and plain numbers give."""
    expected = s.elicit(PROMPTS, source=SOURCE, target=TARGET)
    return found.vectors.equal(expected.vectors) and found.source == expected.source


def of_ids(found: ts.Bank, s: Any) -> bool:
    expected = s.elicit([torch.tensor([5, 6, 7]), torch.tensor([8, 9, 10])], SOURCE, TARGET)
    return found.vectors.equal(expected.vectors)


def given(s: Any, vectors: Any, **knobs: Any) -> ts.Bank:
    ends = {"source": SOURCE, "target": TARGET, "prompts": LONG} | knobs
    return ts.Bank.from_vectors(s.model, vectors, **ends)


def act_name(*place: Any) -> str:
    import transformer_lens

    home = "utilities" if hasattr(transformer_lens, "utilities") else "utils"
    return str(getattr(transformer_lens, home).get_act_name(*place))


GIVES: dict[str, tuple[Call, Check]] = {
    # elicit: where
    "everything by position": (lambda s: s.elicit(PROMPTS, SOURCE, TARGET), as_named),
    "layers by number": (lambda s: s.elicit(PROMPTS, 1, 3), as_named),
    "the last layer as -1": (lambda s: s.elicit(PROMPTS, 1, -1), as_named),
    "layers out of an array": (lambda s: s.elicit(PROMPTS, *np.array([1, 3])), as_named),
    "what get_act_name returns": (
        lambda s: s.elicit(PROMPTS, act_name("resid_post", 1), act_name("resid_post", 3)),
        as_named,
    ),
    "a Site as the source": (
        lambda s: s.elicit(PROMPTS, s.bank.source, s.bank.target),
        as_named,
    ),
    # elicit: prompts
    "prompts in a tuple": (lambda s: s.elicit(tuple(PROMPTS), SOURCE, TARGET), as_named),
    "a 2-D tensor of ids": (
        lambda s: s.elicit(torch.tensor([[5, 6, 7], [8, 9, 10]]), SOURCE, TARGET),
        of_ids,
    ),
    "a 2-D array of ids": (
        lambda s: s.elicit(np.array([[5, 6, 7], [8, 9, 10]]), SOURCE, TARGET),
        of_ids,
    ),
    "lists of ids": (lambda s: s.elicit([[5, 6, 7], [8, 9, 10]], SOURCE, TARGET), of_ids),
    "tokens made before": (
        lambda s: s.elicit(ts.tokenize(s.model, PROMPTS), SOURCE, TARGET),
        as_named,
    ),
    # elicit: numbers and choices
    "numbers of numpy": (
        lambda s: s.elicit(
            PROMPTS, SOURCE, TARGET, n=np.int64(2), radius=np.float32(2), seed=np.int32(0)
        ),
        as_named,
    ),
    "numbers of torch": (
        lambda s: s.elicit(PROMPTS, SOURCE, TARGET, n=torch.tensor(2), radius=torch.tensor(2.0)),
        as_named,
    ),
    "a number in quotes as the radius": (
        lambda s: s.elicit(PROMPTS, SOURCE, TARGET, radius="2"),
        as_named,
    ),
    "a share of the norm": (
        lambda s: s.elicit(PROMPTS, SOURCE, TARGET, radius="0.25x"),
        lambda found, s: abs(found.radius_share - 0.25) < 1e-6,
    ),
    "a rule's class": (
        lambda s: s.elicit(PROMPTS, SOURCE, TARGET, radius=radii.Calibrated),
        lambda found, s: found.radius > 0,
    ),
    "a method's class": (
        lambda s: s.elicit(PROMPTS, SOURCE, TARGET, method=methods.Dct),
        lambda found, s: found.provenance.method == "dct",
    ),
    "a divergence's name": (
        lambda s: s.elicit(PROMPTS, SOURCE, TARGET, divergence="cosine"),
        lambda found, s: "Cosine" in found.provenance.divergence,
    ),
    "a divergence's class": (
        lambda s: s.elicit(PROMPTS, SOURCE, TARGET, divergence=objectives.Cosine),
        lambda found, s: "Cosine" in found.provenance.divergence,
    ),
    "a kind's name": (
        lambda s: s.elicit(PROMPTS, SOURCE, TARGET, perturbation="ablation"),
        lambda found, s: found.kind == "ablation",
    ),
    "a kind's class": (
        lambda s: s.elicit(PROMPTS, SOURCE, TARGET, perturbation=perturbations.Ablation),
        lambda found, s: found.kind == "ablation",
    ),
    "a band of layers": (
        lambda s: s.elicit(PROMPTS, 1, 3, perturbation=elicitation.Layers([1, 2])),
        lambda found, s: [site.layer for site in found.perturbation().sites] == [1, 2],
    ),
    # perturbations by hand
    "a vector at a name": (
        lambda s: logits(s.model, ts.Additive(SOURCE, s.vector)),
        lambda found, s: same(found, hooked(s, SOURCE, lambda x: x + s.vector)),
    ),
    "a vector at the number of a layer": (
        lambda s: logits(s.model, ts.Additive(1, s.vector)),
        lambda found, s: same(found, hooked(s, SOURCE, lambda x: x + s.vector)),
    ),
    "numpy's vector at a name": (
        lambda s: logits(s.model, ts.Additive(SOURCE, s.vector.numpy())),
        lambda found, s: same(found, hooked(s, SOURCE, lambda x: x + s.vector)),
    ),
    "a vector at one head": (
        lambda s: logits(s.model, ts.Additive("blocks.1.attn.hook_z[1]", s.vector[:8])),
        lambda found, s: same(
            found,
            hooked(
                s,
                "blocks.1.attn.hook_z",
                lambda z: z + torch.stack([0 * s.vector[:8], s.vector[:8], 0 * s.vector[:8]]),
            ),
        ),
    ),
    "a direction taken out at a name": (
        lambda s: logits(s.model, perturbations.Ablation(SOURCE, s.vector)),
        lambda found, s: same(found, hooked(s, SOURCE, lambda x: x - along(x, s.vector))),
    ),
    "a component set at a name": (
        lambda s: logits(s.model, perturbations.Clamp(SOURCE, s.vector, radius=3)),
        lambda found, s: same(
            found,
            hooked(s, SOURCE, lambda x: x - along(x, s.vector) + 3 * s.vector / s.vector.norm()),
        ),
    ),
    "a turn at a name": (
        lambda s: logits(s.model, perturbations.NormPreserving(SOURCE, s.vector)),
        lambda found, s: same(found, hooked(s, SOURCE, lambda x: turned(x, s.vector))),
    ),
    "a gated vector at a name": (
        lambda s: logits(s.model, perturbations.Gated(SOURCE, s.vector, s.vector, threshold=-1)),
        lambda found, s: same(found, hooked(s, SOURCE, lambda x: x + s.vector)),
    ),
    "twice as strong": (
        lambda s: logits(s.model, s.bank[0], scale=np.float64(2)),
        lambda found, s: same(found, hooked(s, SOURCE, lambda x: x + 2 * s.bank[0].vector)),
    ),
    # vectors of one's own
    "one vector": (
        lambda s: given(s, s.vector),
        lambda found, s: same(found[0].vector, s.vector),
    ),
    "an array of vectors": (
        lambda s: given(s, torch.stack([s.vector, -s.vector]).numpy()),
        lambda found, s: same(found[1].vector, -s.vector),
    ),
    "vectors by name": (
        lambda s: given(s, {"up": s.vector, "down": -s.vector}),
        lambda found, s: found.labels == ("up", "down"),
    ),
    "vectors at layers by number": (
        lambda s: given(s, [s.vector], source=1, target=3),
        lambda found, s: (found.source.name, found.target.name) == (SOURCE, TARGET),
    ),
    "a difference of means": (
        lambda s: ts.contrast(s.model, LONG[:1], LONG[1:], source=1),
        lambda found, s: (
            found.shape == (D,)
            and same(found, ts.contrast(s.model, LONG[:1], LONG[1:], source=SOURCE))
        ),
    ),
    # banks as values
    "the opposite": (lambda s: -s.bank, lambda found, s: same(found.vectors, -s.bank.vectors)),
    "twice": (lambda s: s.bank * 2, lambda found, s: same(found.vectors, 2 * s.bank.vectors)),
    "half": (lambda s: s.bank / 2, lambda found, s: same(found.vectors, s.bank.vectors / 2)),
    "a sum": (
        lambda s: s.bank[0] + s.bank[1],
        lambda found, s: same(found.vector, s.bank.vectors[0] + s.bank.vectors[1]),
    ),
    "a vector by numpy's number": (
        lambda s: s.bank[np.int64(2)],
        lambda found, s: found.numbers == (2,),
    ),
    "vectors by truth values": (
        lambda s: s.bank[s.bank.objective >= s.bank.objective[1]],
        lambda found, s: found.numbers == (0, 1),
    ),
    "as an array": (
        lambda s: np.asarray(s.bank),
        lambda found, s: found.shape == (4, D) and np.allclose(found, s.bank.vectors),
    ),
    "saved and loaded": (
        lambda s: ts.Bank.load(s.bank.save(str(s.folder / "b"))),
        lambda found, s: found.digest() == s.bank.digest(),
    ),
    # other verbs
    "one vector's texts": (
        lambda s: ts.generate(s.model, s.bank[2], PROMPTS, max_new_tokens=2),
        lambda found, s: len(found) == 1,
    ),
    "a strength for each vector": (
        lambda s: ts.generate(s.model, s.bank, PROMPTS, max_new_tokens=3, scale=np.zeros(4)),
        lambda found, s: all(row == found.unsteered for row in found.texts),
    ),
    "one vector's sweep": (
        lambda s: ts.sweep(s.model, s.bank[0], PROMPTS, n_random=1, progress=False),
        lambda found, s: found.prompts == len(PROMPTS),
    ),
    "a control": (
        lambda s: ts.random_bank(s.bank, n=3, seed=np.int64(1)),
        lambda found, s: same(found.vectors.norm(dim=1), torch.full((3,), s.bank.radius)),
    ),
}

SAYS: dict[str, tuple[Call, type[Exception], str]] = {
    # elicit: where
    "a kind of hook point alone": (
        lambda s: s.elicit(PROMPTS, "resid_post", TARGET),
        HookPointError,
        r"names no layer: write 'blocks\.7\.hook_resid_post' or the layer alone \(7\)",
    ),
    "a name without hook_": (
        lambda s: s.elicit(PROMPTS, "blocks.1.resid_post", TARGET),
        HookPointError,
        r"Did you mean blocks\.1\.hook_resid_post",
    ),
    "a layer in quotes": (
        lambda s: s.elicit(PROMPTS, "1", "3"),
        HookPointError,
        "number of a layer is written without quotes: 1",
    ),
    "a layer that is not there": (
        lambda s: s.elicit(PROMPTS, 99, TARGET),
        HookPointError,
        "layers 0 to 3",
    ),
    "source and target the wrong way round": (
        lambda s: s.elicit(PROMPTS, TARGET, SOURCE),
        HookPointError,
        "comes before the source.*Swap them",
    ),
    "no target": (
        lambda s: s.elicit(PROMPTS, SOURCE),
        SettingError,
        "target=None: expected hook points, such as",
    ),
    # elicit: arguments
    "a misspelt keyword": (
        lambda s: s.elicit(PROMPTS, SOURCE, TARGET, raduis=3),
        ShapeError,
        r"elicit\(\): .*'raduis'. Did you mean radius=\?",
    ),
    "n by position": (
        lambda s: ts.elicit(s.model, PROMPTS, SOURCE, TARGET, 8),
        ShapeError,
        r"elicit\(\): too many .*by name only .*n=",
    ),
    "prompts before the model": (
        lambda s: ts.elicit(PROMPTS, s.model, SOURCE, TARGET),
        ModelError,
        "list cannot be steered",
    ),
    "a model's name": (
        lambda s: ts.elicit("gpt2", PROMPTS, SOURCE, TARGET),
        ModelError,
        r"load it: load_model\('gpt2'\)",
    ),
    "one string": (
        lambda s: s.elicit(PROMPTS[0], SOURCE, TARGET),
        PromptError,
        r"come as a list: \['t5",
    ),
    "one conversation": (
        lambda s: s.elicit([{"role": "user", "content": "t5"}], SOURCE, TARGET),
        PromptError,
        r"Pass \[conversation\]",
    ),
    "one prompt's ids": (
        lambda s: s.elicit([5, 6, 7], SOURCE, TARGET),
        PromptError,
        r"one prompt of 3 token ids: pass \[ids\]",
    ),
    "a column of a table": (
        lambda s: s.elicit(np.array(PROMPTS), SOURCE, TARGET),
        PromptError,
        r"pass list\(prompts\)",
    ),
    "no prompts": (lambda s: s.elicit([], SOURCE, TARGET), PromptError, "expected at least one"),
    "a misspelt method": (
        lambda s: s.elicit(PROMPTS, SOURCE, TARGET, method="powr"),
        SettingError,
        "Unknown method 'powr'; there are auto, power",
    ),
    "a divergence that there is not": (
        lambda s: s.elicit(PROMPTS, SOURCE, TARGET, divergence="kl"),
        SettingError,
        "there are displacement, cosine, and any function",
    ),
    "a divergence per token": (
        lambda s: s.elicit(
            PROMPTS, SOURCE, TARGET, divergence=lambda x, y, at: (x - y).square().sum(-1)
        ),
        ShapeError,
        r"\[vec batch pos\].*expected \[vec\].*sum over prompts",
    ),
    "a misspelt kind": (
        lambda s: s.elicit(PROMPTS, SOURCE, TARGET, perturbation="ablatoin"),
        SettingError,
        r"Did you mean 'ablation'\?",
    ),
    "vectors as the kind": (
        lambda s: s.elicit(PROMPTS, SOURCE, TARGET, perturbation=s.vector),
        ShapeError,
        r"its class or its name.*got Tensor.*Bank\.from_vectors\(",
    ),
    "layers without brackets": (
        lambda s: elicitation.Layers(1),
        ShapeError,
        r"expected a list: \[1\]",
    ),
    "a number as the tokens measured": (
        lambda s: ts.elicit(s.model, PROMPTS, SOURCE, TARGET, measured=3),
        ShapeError,
        r"3 is no choice of tokens; expected Positions\(\.\.\.\)",
    ),
    "a share in percent": (
        lambda s: s.elicit(PROMPTS, SOURCE, TARGET, radius="25%"),
        SettingError,
        r"such as '0\.25x'",
    ),
    "a radius below 0": (
        lambda s: s.elicit(PROMPTS, SOURCE, TARGET, radius=-1),
        SettingError,
        "radius=-1: expected a finite number above 0",
    ),
    "a checkpoint that is not there": (
        lambda s: s.elicit(PROMPTS, SOURCE, TARGET, resume=s.folder / "none"),
        BankFileError,
        "No bank at",
    ),
    # perturbations
    "a tensor that steers": (
        lambda s: logits(s.model, s.vector),
        ShapeError,
        r"Additive\('blocks\.3\.hook_resid_post', vector\)",
    ),
    "a whole bank that steers": (
        lambda s: logits(s.model, s.bank),
        SettingError,
        r"pick one first, as in bank\[4\]",
    ),
    "a list that steers": (
        lambda s: logits(s.model, [s.bank[0], s.bank[1]]),
        ShapeError,
        r"nest perturbing\(\.\.\.\)",
    ),
    "a kind that steers": (
        lambda s: logits(s.model, ts.Additive),
        ShapeError,
        r"the class Additive; expected an object",
    ),
    "a vector of another width": (
        lambda s: logits(s.model, ts.Additive(SOURCE, s.vector[:7])),
        ShapeError,
        "is 24 wide on this model, .* made for width 7",
    ),
    "a vector before its hook point": (
        lambda s: ts.Additive(s.vector, SOURCE),
        ShapeError,
        "The hook point comes first",
    ),
    "a vector at a kind of hook point": (
        lambda s: ts.Additive("resid_post", s.vector),
        HookPointError,
        r"write 'blocks\.7\.hook_resid_post'",
    ),
    "a vector at the last layer": (
        lambda s: ts.Additive(-1, s.vector),
        HookPointError,
        r"write resolve\(model, -1\)",
    ),
    "a vector at a layer that is not there": (
        lambda s: logits(s.model, ts.Additive(77, s.vector)),
        HookPointError,
        "layers 0 to 3",
    ),
    "a vector in a list": (
        lambda s: ts.Additive(SOURCE, s.vector.tolist()),
        ShapeError,
        "vectors is a list; expected a tensor",
    ),
    "tokens by a word": (
        lambda s: logits(s.model, s.bank[0], positions="generated"),
        ShapeError,
        r"hook_points\.EVERYWHERE, PROMPT, GENERATED",
    ),
    "generated tokens without a prompt": (
        lambda s: logits(s.model, s.bank[0], positions=hook_points.GENERATED),
        SettingError,
        r"pass tokens=tokenize\(\.\.\.\)",
    ),
    # banks
    "a bank saved to a folder": (
        lambda s: s.bank.save(s.folder),
        WriteError,
        "is a folder; expected the name of a file",
    ),
    "a bank saved nowhere": (
        lambda s: s.bank.save(),
        ShapeError,
        r"save\(\): missing a required argument: 'path'",
    ),
    "a bank that is not there": (lambda s: ts.load_bank("missing"), BankFileError, "No bank at"),
    "a folder as a bank": (
        lambda s: ts.load_bank(s.folder),
        BankFileError,
        "is a folder; expected the file of a bank",
    ),
    "a vector's number in quotes": (
        lambda s: s.bank["3"],
        RowError,
        r"bank\['3'\]: the bank holds 4 vectors; expected their numbers",
    ),
    "a vector beyond the last": (lambda s: s.bank[99], RowError, "holds 4 vectors"),
    "the vector of several": (
        lambda s: s.bank.vector,
        ShapeError,
        r"bank\[0\]\.vector, or bank\.vectors for all",
    ),
    "a product of banks": (
        lambda s: s.bank * s.bank,
        SettingError,
        "times or by a bank: expected one finite number",
    ),
    "a bank and a number": (lambda s: s.bank + 1, SettingError, "expected another bank"),
    "a quotient by nothing": (lambda s: s.bank / 0, SettingError, "divided by 0"),
    "vectors the wrong way round": (
        lambda s: given(s, torch.stack([s.vector, s.vector], dim=1)),
        ShapeError,
        r"give vectors\.T",
    ),
    "vectors without a target": (
        lambda s: given(s, s.vector, target=None),
        SettingError,
        "give source= and target=",
    ),
    "one label in no list": (
        lambda s: given(s, s.vector, labels="up"),
        ShapeError,
        r"expected a list: \['up'\]",
    ),
    "two means of single strings": (
        lambda s: ts.contrast(s.model, PROMPTS[0], PROMPTS[1], source=SOURCE),
        PromptError,
        r"come as a list: \['t5",
    ),
    # other verbs
    "texts of one string": (
        lambda s: ts.generate(s.model, s.bank, "t1 t2"),
        PromptError,
        r"come as a list: \['t1 t2'\]",
    ),
    "texts under a tensor": (
        lambda s: ts.generate(s.model, s.vector, PROMPTS),
        ShapeError,
        r"Expected a bank; got Tensor\. .*Bank\.from_vectors\(model, vectors",
    ),
    "texts under a perturbation": (
        lambda s: ts.generate(s.model, ts.Additive(SOURCE, s.vector), PROMPTS),
        ShapeError,
        r"To run it: perturbing\(model, perturbation\)",
    ),
    "texts under a file": (
        lambda s: ts.generate(s.model, "b.safetensors", PROMPTS),
        ShapeError,
        r"Load it: load_bank\('b\.safetensors'\)",
    ),
    "texts under a list of banks": (
        lambda s: ts.generate(s.model, [s.bank[0], s.bank[3]], PROMPTS),
        ShapeError,
        r"bank\[\[0, 3\]\]",
    ),
    "the bank before the model": (
        lambda s: ts.generate(s.bank, s.model, PROMPTS),
        ModelError,
        "Bank cannot be steered",
    ),
    "max_tokens": (
        lambda s: ts.generate(s.model, s.bank, PROMPTS, max_tokens=3),
        ShapeError,
        r"Did you mean max_new_tokens=\?",
    ),
    "two strengths for four vectors": (
        lambda s: ts.generate(s.model, s.bank, PROMPTS, scale=[1, 2]),
        SettingError,
        r"scale=\[1, 2\]: expected a finite number, or one for each of the 4",
    ),
    "a sweep over one string": (
        lambda s: ts.sweep(s.model, s.bank, "t1 t2", progress=False),
        PromptError,
        r"a single prompt as \[prompt\]",
    ),
    "a sweep with one metric": (
        lambda s: ts.sweep(s.model, s.bank, PROMPTS, metrics="kl", progress=False),
        ShapeError,
        r"expected a list: \['kl'\]",
    ),
    "an inspection of several prompts": (
        lambda s: ts.inspect(s.model, s.bank, PROMPTS),
        PromptError,
        "one prompt; got a list of 3: make one call for each",
    ),
    "continuations of one vector's number": (
        lambda s: ts.inspection.continuations(s.model, s.bank, PROMPTS[0], vectors=1),
        ShapeError,
        r"expected a list: \[1\]",
    ),
    "an inspection of one vector's number": (
        lambda s: ts.inspect(s.model, s.bank, PROMPTS[0], vectors=1),
        ShapeError,
        r"expected a list: \[1\]",
    ),
    "one radius in no list": (
        lambda s: ts.dose_response(s.model, s.bank, PROMPTS, shares=0.5),
        ShapeError,
        r"expected a list: \[0\.5\]",
    ),
    "a monitor fitted on one string": (
        lambda s: ts.Monitor.fit(s.model, s.bank, PROMPTS[0]),
        PromptError,
        "come as a list",
    ),
    "a monitor fitted on three prompts": (
        lambda s: ts.Monitor.fit(s.model, s.bank, PROMPTS),
        PromptError,
        "Give a few hundred",
    ),
    "a monitor's arguments the wrong way round": (
        lambda s: ts.Monitor.fit(s.bank, s.model, PROMPTS),
        ModelError,
        "Bank cannot be steered",
    ),
    "a watch for a bank": (
        lambda s: entered(ts.watch(s.model, s.bank)),
        ShapeError,
        r"watch\(\): argument 'monitor'.*expected .*Panel",
    ),
    "a score that there is not": (
        lambda s: ts.rank(s.model, s.bank, PROMPTS, by="kl"),
        SettingError,
        "there are .*next_token_kl",
    ),
    "activations at one name": (
        lambda s: entered(ts.capturing(s.model, SOURCE)),
        ShapeError,
        r"expected a list: \['blocks\.1",
    ),
    # models
    "a model that there is not": (
        lambda s: ts.load_model("no/such"),
        ModelError,
        "cannot load 'no/such'.*Is the name right",
    ),
    "a misspelt device": (
        lambda s: ts.load_model("no/such", devce="cpu"),
        ShapeError,
        r"load_model\(\): .*Did you mean device=\?",
    ),
    "a type that there is not": (
        lambda s: ts.load_model("no/such", dtype="float33"),
        SettingError,
        "such as 'float32' or 'bfloat16'",
    ),
}


@pytest.mark.parametrize("call", GIVES)
def test_a_first_call_gives_what_was_meant(s, call):
    make, is_right = GIVES[call]
    assert is_right(make(s), s)


@pytest.mark.parametrize("call", SAYS)
def test_a_first_call_says_what_to_write(s, call):
    make, kind, words = SAYS[call]
    with pytest.raises(ts.SteerError) as raised:
        make(s)
    assert type(raised.value) is kind
    assert re.search(words, str(raised.value)), str(raised.value)
    assert len(str(raised.value)) < 500
