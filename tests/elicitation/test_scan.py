"""A scan says what linear algebra says of every pair of hook points."""

import pytest
import torch
from conftest import PROMPTS
from linear import LinearHost

import tl_steer as ts
from tl_steer.elicitation import ends
from tl_steer.elicitation.scan import default_pairs
from tl_steer.errors import HookPointError, SettingError
from tl_steer.radii.band import Dose, DoseResponse

D = 6
NAMES = [f"blocks.{i}.hook_resid_post" for i in range(3)]


def host():
    generator = torch.Generator().manual_seed(0)
    return LinearHost([torch.randn(D, D, generator=generator, dtype=torch.float64) for _ in "abc"])


def test_gain_and_directions_are_those_of_the_matrix():
    model = host()
    found = ts.scan(model, ["1 2 3 4", "5 6 7"], [(NAMES[0], NAMES[2])], top=D).pairs[0]
    matrix = (model.blocks[2].matrix @ model.blocks[1].matrix).detach()
    values = torch.linalg.svdvals(matrix)
    assert found.singular == pytest.approx(values.tolist(), rel=1e-4)
    rows = [model.embed[torch.tensor(ids)] for ids in ([1, 2, 3, 4], [5, 6, 7])]
    stream = torch.cat(rows).detach() @ model.blocks[0].matrix.detach().T
    source, target = (s.norm(dim=1).median().item() for s in (stream, stream @ matrix.T))
    assert found.gain == pytest.approx(float(values[0]) * source / target, rel=1e-4)
    squares = values.square()
    assert found.directions == pytest.approx(float(squares.sum() ** 2 / squares.square().sum()))


def test_every_pair_is_there_in_order_and_sorts_by_gain(one):
    pairs = [(NAMES[1], NAMES[2]), (NAMES[0], NAMES[2]), (NAMES[0], NAMES[1])]
    found = ts.scan(one, PROMPTS, pairs, top=2, measured=ts.Positions(last=1))
    assert [(p.source, p.target) for p in found.pairs] == pairs
    gains = [p.gain for p in found.sort().pairs]
    assert gains == sorted(gains, reverse=True)
    assert NAMES[2] in repr(found)
    assert NAMES[2] in found._repr_html_()


@pytest.mark.parametrize("n_layers", [2, 4, 12, 30, 80])
def test_default_pairs_go_forward_and_stay_inside(n_layers):
    layers = default_pairs(n_layers)
    assert layers
    assert all(0 <= source < target < n_layers for source, target in layers)
    assert len(set(layers)) == len(layers)


def test_bad_arguments_are_refused(one):
    with pytest.raises(SettingError, match="top=0"):
        ts.scan(one, PROMPTS, top=0)
    with pytest.raises(HookPointError, match="comes before"):
        ts.scan(one, PROMPTS, [(NAMES[2], NAMES[0])], measured=ts.Positions(last=1))


@pytest.mark.filterwarnings("ignore:No band")
def test_a_scan_that_reads_counts_coherent_texts_and_elicit_goes_where_most_are(llama):
    pairs = [(NAMES[0], NAMES[1]), (NAMES[0], NAMES[2])]
    few = ts.radii.InBand(
        anchor=ts.radii.ShareOfNorm(0.3), n=2, factors=(0.5, 2.0), max_new_tokens=3
    )
    knobs = {"top": 1, "measured": ts.Positions(last=1)}
    found = ts.scan(llama, PROMPTS, pairs, read=few, **knobs)
    for pair in found.pairs:  # two directions speak twice on each of two prompts
        assert 0 <= pair.texts <= 2
        assert pair.texts * 4 == int(pair.texts * 4)
    best = found.best()
    assert best.texts == max(pair.texts for pair in found.pairs)
    assert ts.scan(llama, PROMPTS, pairs, read=few, **knobs) == found
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ends, "scan", lambda *_, **__: found)
        bank = ts.elicit(
            llama, PROMPTS, source="auto", target="auto", n=2, radius=1.0,
            measured=ts.Positions(last=1), progress=False,
        )  # fmt: skip
    assert (bank.source.name, bank.target.name) == (best.source, best.target)


def test_texts_that_babble_or_repeat_or_stay_the_same_do_not_count():
    def dose(text, *, surprise=1.0, repetition=0.0, changed=True):
        return Dose(1.0, 1.0, 1, 0, 0, False, 0.0, surprise, repetition, changed, text)

    doses = (
        dose("good"), dose("good"), dose("also good"), dose("as before", changed=False),
        dose("word salad", surprise=4.0), dose("loop loop", repetition=0.6),
    )  # fmt: skip
    found = DoseResponse(doses, "x", 1.0, 1.0, 5.0, ("p",), ("u",), {})
    assert found.coherent_texts() == {(0, "good"), (0, "also good")}


def test_gain_alone_makes_no_pair_the_best(one):
    found = ts.scan(one, PROMPTS, [(NAMES[0], NAMES[2])], top=2, measured=ts.Positions(last=1))
    with pytest.raises(SettingError, match="read no texts"):
        found.best()
    with pytest.raises(SettingError, match="looked for together"):
        ts.elicit(
            one, PROMPTS, source="auto", target=NAMES[2], measured=ts.Positions(last=1),
            progress=False,
        )  # fmt: skip
