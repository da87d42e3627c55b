"""Prompts that share their beginning give what they give apart."""

import dataclasses

import pytest
import torch
from conftest import KINDS, SOURCE, TARGET, bank_of, make
from hypothesis import given, settings, strategies as st

import tl_steer as ts
from tl_steer.hook_points.positions import EVERYWHERE
from tl_steer.models.packed import Packed, packed_if_possible, packing_of
from tl_steer.models.segment import Segment
from tl_steer.models.tokens import TokenBatch

COMMON = "t5 t9 t30 t7 t61 t8 t9 t10 t11"
PROMPTS = [f"{COMMON} t1 t44 t12", f"{COMMON} t70", COMMON, f"{COMMON} t70 t3 t4 t5"]


def batch_of(rows):
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    return TokenBatch(ids, mask, torch.zeros(len(rows), dtype=torch.bool), ("",) * len(rows))


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=5))
@settings(max_examples=60)
def test_every_token_has_its_place_and_sees_its_own_past_alone(rows):
    tokens = batch_of(rows)
    packing = packing_of(tokens)
    packed = packing.pack(tokens.ids)[0]
    sees = packing.sees()
    assert len(packing) <= int(tokens.mask.sum())
    for b, row in enumerate(rows):
        columns = packing.column[b, : len(row)].tolist()
        assert packed[columns].tolist() == row
        assert packing.place[columns].tolist() == list(range(len(row)))
        for place, column in enumerate(columns):
            assert sees[column].nonzero().flatten().tolist() == sorted(columns[: place + 1])


@pytest.mark.parametrize("positions", [EVERYWHERE, ts.Positions(last=1, bos=False)], ids=str)
def test_packed_and_apart_give_the_same(model, positions):
    tokens = ts.tokenize(model, PROMPTS)
    edits = dataclasses.replace(bank_of(model), positions=positions).perturbation()
    with ts.models.frozen(model), torch.no_grad():
        segment = packed_if_possible(
            model, tokens, edits.site, TARGET, chosen=tokens.select(positions)
        )
        expected = Segment(model, tokens, SOURCE, TARGET).run(edits)
        found = segment.run(edits)
        if isinstance(segment, Packed):
            assert found.shape[1:3] == (1, 9 + int(tokens.lengths[0] - 12) + 3 + 1 + 3)
            found = segment.packing.unpack(found)
    real = tokens.mask
    torch.testing.assert_close(found[:, real], expected[:, real], atol=1e-4, rtol=1e-4)


BRIDGES = pytest.mark.parametrize("name", [n for n in KINDS if n.startswith("bridge-")])


@BRIDGES
def test_bridges_are_packed(name):
    model = make(name)
    tokens = ts.tokenize(model, PROMPTS)
    site = ts.models.resolve(model, SOURCE)
    with ts.models.frozen(model), torch.no_grad():
        segment = packed_if_possible(model, tokens, site, TARGET, chosen=tokens.mask)
    assert isinstance(segment, Packed)


@BRIDGES
def test_prompts_stay_apart_where_it_saves_nothing_or_steered_tokens_differ(name):
    one = make(name)
    site = ts.models.resolve(one, SOURCE)

    def kind(prompts, positions=EVERYWHERE):
        tokens = ts.tokenize(one, prompts)
        with ts.models.frozen(one), torch.no_grad():
            return type(
                packed_if_possible(one, tokens, site, TARGET, chosen=tokens.select(positions))
            )

    assert kind(PROMPTS) is kind(PROMPTS[:2]) is not Segment
    assert kind(PROMPTS[:1]) is Segment
    assert kind(["t1 t2 t3", "t4 t5 t6"]) is Segment
    # The last three tokens of the shortest prompt lie in what the others begin with.
    assert kind(PROMPTS, ts.Positions(last=3)) is Segment
