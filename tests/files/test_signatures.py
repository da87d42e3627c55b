"""Wrong arguments are one sentence that says what came and what to do; nobody's seed moves."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import conftest
import numpy as np
import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET, bank_of
from jaxtyping import Float
from torch import Tensor

import tl_steer as ts
from tl_steer.errors import HookPointError, ModelError, ShapeError, SteerError
from tl_steer.files.signatures import checked

K = {"source": SOURCE, "target": TARGET, "n": 2, "radius": 3.0, "progress": False}
K["measured"] = ts.Positions(last=1, bos=False)


@checked
def verb(
    subject: Float[Tensor, " n"],
    *,
    n: int = 1,
    share: float | int = 1.0,
    rows: Sequence[int] | None = None,
    doses: Sequence[float | int] = (1.0,),
    score: str | Callable[..., Tensor] = "",
) -> object:
    return n, share, rows, doses


HERE = torch.ones(3)
TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"n": np.int64(2)}, (2, 1.0, None, (1.0,))),
        ({"n": torch.tensor(2)}, (2, 1.0, None, (1.0,))),
        ({"share": np.float32(0.5)}, (1, 0.5, None, (1.0,))),
        ({"share": torch.tensor(0.5)}, (1, 0.5, None, (1.0,))),
        ({"share": np.array(3)}, (1, 3, None, (1.0,))),
        ({"rows": torch.tensor([1, 0])}, (1, 1.0, [1, 0], (1.0,))),
        ({"rows": np.array([1, 0])}, (1, 1.0, [1, 0], (1.0,))),
        ({"rows": [np.int64(1), 0]}, (1, 1.0, [1, 0], (1.0,))),
        ({"doses": (np.float32(2), torch.tensor(-1))}, (1, 1.0, None, (2.0, -1))),
    ],
)
def test_numbers_of_numpy_and_torch_are_numbers(given, expected):
    found = verb(HERE, **given)
    assert found == expected
    plain = [*found[:2], *(found[2] or ()), *found[3]]
    assert {type(value) for value in plain} <= {int, float}


@pytest.mark.parametrize(
    ("args", "given", "message"),
    [
        ((HERE, 3), {}, r"verb\(\): too many positional arguments.* subject by position.*n="),
        ((HERE,), {"share_": 1}, r"verb\(\): .*'share_'. Did you mean share=\?"),
        ((), {}, r"verb\(\): missing a required argument: 'subject'"),
        ((HERE,), {"n": 2.5}, "'n' is 2.5; expected int"),
        ((HERE,), {"n": np.float64(2)}, "'n' is 2.0; expected int"),
        ((HERE,), {"n": "2"}, "'n' is '2'; expected int"),
        ((torch.ones(2, 2),), {}, "'subject'"),
        ((HERE,), {"doses": [1.0] * 50 + ["x"]}, r"'doses'\[50\] is 'x'; expected float | int"),
        ((HERE,), {"score": dict}, "'score' is the class dict; expected an object"),
        ((HERE,), {"rows": torch.tensor([0.5])}, r"'rows'\[0\] is 0.5; expected int"),
    ],
)
def test_whatever_else_is_one_sentence_and_the_same_every_time(args, given, message):
    for _ in range(3):
        with pytest.raises(ShapeError, match=message):
            verb(*args, **given)


def test_verbs_say_how_they_are_called(one):
    with pytest.raises(
        ShapeError, match=r"elicit\(\): too many .*source, target by position, .*n="
    ):
        ts.elicit(one, PROMPTS, SOURCE, TARGET, 8)
    with pytest.raises(ShapeError, match=r"elicit\(\): .*'device'"):
        ts.elicit(one, PROMPTS, device="cpu", **K)


@pytest.mark.parametrize(
    "given",
    [
        {"method": ts.methods.Power},
        {"divergence": ts.objectives.Cosine},
        {"radius": ts.radii.Calibrated},
    ],
)
def test_a_class_stands_for_an_object_with_its_defaults(one, given):
    banks = (
        ts.elicit(one, PROMPTS, **K | each) for each in (given, {k: v() for k, v in given.items()})
    )
    first, second = banks
    assert torch.equal(first.vectors, second.vectors)
    assert first.provenance == second.provenance


def test_classes_stand_for_objects_within_objects_and_lists(one):
    assert (
        ts.objectives.Weighted(((1.0, ts.objectives.Cosine),)).parts[0][1] == ts.objectives.Cosine()
    )
    assert ts.methods.Dct(init=ts.methods.Jacobian) == ts.methods.Dct(init=ts.methods.Jacobian())

    class Far:
        def __call__(self, reading):
            return reading.change.square().sum(dim=(2, 3))

    swept = ts.sweep(one, bank_of(one), PROMPTS, metrics=[Far], n_random=1, progress=False)
    assert swept.values("Far").shape == (4, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"radius": ts.radii.ShareOfNorm}, r"class ShareOfNorm; expected an object: .* 'share'"),
        ({"positions": ts.Positions}, r"class Positions; expected an object: Positions\(\.\.\.\)"),
        ({"divergence": torch.nn.Identity}, "the class Identity; expected an object"),
    ],
)
def test_other_classes_are_refused(one, given, message):
    with pytest.raises(ShapeError, match=message):
        ts.elicit(one, PROMPTS, **K | given)


def test_what_is_no_perturbation_steers_nothing(one):
    vector, bank = bank_of(one).vectors[0], bank_of(one)
    for given, message in (
        (vector, "does not say where"),
        ([bank[0], bank[1]], "nest perturbing"),
        (ts.Additive, "the class Additive"),
        ("bank", "got str"),
    ):
        with pytest.raises(ShapeError, match=message), ts.perturbing(one, given):
            pass


def test_a_vector_needs_a_site_and_numbers(one):
    site = ts.models.resolve(one, SOURCE)
    with pytest.raises(ShapeError, match="The hook point comes first"):
        ts.Additive(torch.ones(site.width), SOURCE)
    with pytest.raises(ShapeError, match="one row per edit, or one vector"):
        ts.Additive(site, torch.ones(1, 1, site.width))
    with pytest.raises(ShapeError, match=r"expected a Site, as resolve\("):
        ts.Perturbation(SOURCE)
    with pytest.raises(ShapeError, match="floating point"):
        ts.Additive(site, torch.ones(1, site.width, dtype=torch.long))
    with pytest.raises(ShapeError, match="expected a tensor"):
        ts.Additive(site, [[1.0] * site.width])
    with pytest.raises(HookPointError, match=r"got 1\.5"):
        ts.models.resolve(one, 1.5)


def test_models_that_cannot_be_steered_say_what_is_missing_and_what_to_do(one):
    if not hasattr(one, "original_model"):
        pytest.skip("needs a model of transformers")
    for model, message in (
        (one.original_model, r"boot_transformers\(name, hf_model=model"),
        ("gpt2", r"load_model\('gpt2'\)"),
        (None, "NoneType cannot be steered: it has no cfg"),
    ):
        with pytest.raises(ModelError, match=message):
            ts.elicit(model, PROMPTS, **K)
        with pytest.raises(SteerError):
            ts.sweep(model, bank_of(one), PROMPTS)


def test_encoder_decoders_are_refused_by_what_they_lack():
    bridges = pytest.importorskip("transformer_lens.model_bridge")
    import transformers as hf

    config = hf.T5Config(
        vocab_size=101, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = bridges.TransformerBridge.boot_transformers(
        "tiny-t5", hf_model=hf.T5ForConditionalGeneration(config), tokenizer=conftest.tokenizer()
    )
    with pytest.raises(ModelError, match="it has no blocks; it is an encoder-decoder"):
        ts.elicit(model, PROMPTS, **K)


def test_the_random_states_of_python_numpy_and_torch_stay_where_they_are():
    """In a process of its own: here, every function of the package is checked by beartype."""
    path = os.pathsep.join(str(p) for p in (TESTS, Path(ts.__file__).parent.parent))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_EVERY_VERB)],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


_EVERY_VERB = """
    import random, warnings
    import numpy as np, torch
    from conftest import PROMPTS, SOURCE, TARGET, LLAMAS, make
    import tl_steer as ts
    from tl_steer.elicitation import scan
    from tl_steer.radii import dose_response

    warnings.simplefilter("ignore")
    model = make(LLAMAS[0])
    K = dict(source=SOURCE, target=TARGET, n=3, radius=3.0, progress=False)
    bank = ts.elicit(model, PROMPTS, **K, measured=ts.Positions(last=1))

    def states():
        numpy = np.random.get_state()
        return random.getstate(), numpy[1].tolist(), numpy[2], torch.get_rng_state().tolist()

    verbs = {
        "repr": lambda: repr(bank),
        "progress": lambda: ts.elicit(model, PROMPTS, **(K | {"progress": True})),
        "elicit": lambda: ts.elicit(model, PROMPTS, **K, measured=ts.Positions(last=1)),
        "generate": lambda: ts.generate(model, bank, PROMPTS, max_new_tokens=2, temperature=1.0),
        "sweep": lambda: ts.sweep(model, bank, PROMPTS, doses=[1.0, 2.0], n_random=2,
                                  metrics=["kl", "flip"], progress=False),
        "inspect": lambda: ts.inspect(model, bank, PROMPTS[0], vectors=[0, 2], toward=[5, 6]),
        "dose_response": lambda: dose_response(model, bank, PROMPTS, max_new_tokens=4),
        "scan": lambda: scan(model, PROMPTS),
        "rank": lambda: ts.rank(model, bank, PROMPTS, by="novelty"),
        "random_bank": lambda: ts.random_bank(bank, n=9),
        "monitor": lambda: ts.Monitor.fit(model, bank, [f"t{i} t{i + 1} t{i + 2}" for i in
                                          range(1, 60)]),
    }
    for name, verb in verbs.items():
        # More than one draw of beartype's would be needed to hide it.
        for _ in range(2):
            before = states()
            try:
                verb()
            except ts.SteerError as error:
                print(name, error)
            assert states() == before, name
"""
