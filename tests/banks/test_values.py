"""Banks as values: slices, orders, merges, neighbours, digests and tables, against plain lists."""

import dataclasses
import math

import pytest
import torch
from torch.nn.functional import normalize

import tl_steer as ts
from tl_steer.banks.provenance import Provenance
from tl_steer.errors import SettingError
from tl_steer.hook_points import Site
from tl_steer.models.fingerprint import Fingerprint, same_model

MARK = Fingerprint(tuple(float(i) for i in range(48)), 6, 4, 31, "float32")
SOURCE = Site("blocks.1.hook_resid_post", 1, "hook_resid_post", 6)
TARGET = Site("blocks.3.hook_resid_post", 3, "hook_resid_post", 5)


def bank(n=5, *, seed=0, radius=2.5, **other):
    generator = torch.Generator().manual_seed(seed)
    made = {
        "vectors": radius * normalize(torch.randn(n, 6, generator=generator), dim=1),
        "responses": torch.randn(n, 5, generator=generator),
        "objective": torch.arange(float(n)).roll(2),
        "source": SOURCE,
        "target": TARGET,
        "radius": radius,
        "radius_share": 0.2,
        "provenance": Provenance(model="tiny", fingerprint=MARK, method="power", seed=seed),
        "labels": tuple("abcdefghij"[:n]),
        "scores": {"worth": torch.arange(float(n))},
    }
    return ts.Bank(**made | other)


# --- what fits together


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": ("a",) * 4},
        {"scores": {"worth": torch.ones(5), "other": torch.ones(4)}},
        {"vectors": torch.ones(5, 7)},
    ],
)
def test_every_vector_has_one_of_each(wrong):
    with pytest.raises(SettingError, match=r"one response, objective, score and label per vector"):
        bank(**wrong)


def test_a_kind_that_nobody_knows_is_refused_with_those_there_are():
    with pytest.raises(SettingError, match=r"Unknown kind 'spell'; there are .*additive"):
        bank(kind="spell")


def test_labels_are_empty_unless_given():
    assert bank(3, labels=()).labels == ("", "", "")


# --- slices and orders


@pytest.mark.parametrize("index", [slice(1, 4), slice(None, None, 2), slice(-2, None), [4, 0, 0]])
def test_a_slice_takes_the_same_rows_of_everything(index):
    whole = bank()
    chosen = list(range(5))[index] if isinstance(index, slice) else index
    part = whole[index]
    assert part.labels == tuple("abcde"[i] for i in chosen)
    for name in ("vectors", "responses", "objective"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[chosen])
    assert part.scores["worth"].tolist() == chosen


@pytest.mark.parametrize("row", range(-5, 5))
def test_one_row_is_a_bank_of_one_as_in_a_list(row):
    assert bank()[row].labels == ("abcde"[row],)
    assert bank()[row].scores["worth"].tolist() == [range(5)[row]]


def test_a_bank_can_be_walked():
    assert [one.labels for one in bank(3)] == [("a",), ("b",), ("c",)]


@pytest.mark.parametrize(
    ("keys", "down", "up"),
    [
        ([3.0, 1.0, 2.0], "acb", "bca"),
        ([math.nan, 1.0, 2.0], "cba", "bca"),
        ([1.0, math.nan, -math.inf], "abc", "cab"),
        ([5.0, 5.0, 5.0], "abc", "abc"),
        ([1.0, 2.0, 1.0], "bac", "acb"),
    ],
)
def test_an_order_has_nan_last_and_keeps_ties(keys, down, up):
    some = bank(3).with_score("keys", torch.tensor(keys))
    assert "".join(some.sort("keys").labels) == down
    assert "".join(some.sort("keys", descending=False).labels) == up
    assert "".join(some.sort(torch.tensor(keys)).labels) == down


def test_orders_are_by_objective_unless_another_score_is_named():
    some = bank(4)  # objective 2 3 0 1, worth 0 1 2 3
    assert "".join(some.sort().labels) == "badc"
    assert "".join(some.sort("objective", descending=False).labels) == "cdab"
    assert "".join(some.sort("worth").labels) == "dcba"
    assert torch.equal(some.score("objective"), some.objective)
    with pytest.raises(SettingError, match=r"no score 'beauty'; there are objective, worth\."):
        some.sort("beauty")
    with pytest.raises(SettingError, match="3 numbers cannot order 4 vectors"):
        some.sort(torch.ones(3))


def test_a_score_is_added_and_the_others_stay():
    some = bank(2)
    more = some.with_score("depth", torch.tensor([7.0, 8.0], requires_grad=True))
    assert list(more.scores) == ["worth", "depth"]
    assert not more.scores["depth"].requires_grad
    assert list(some.scores) == ["worth"]
    assert more.with_score("worth", torch.ones(2)).scores["worth"].tolist() == [1, 1]


def test_near_duplicates_are_those_whose_responses_are_alike_in_either_direction():
    rows = [[1.0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [-2, 0.1, 0, 0, 0], [1, 1, 0, 0, 0]]
    some = bank(4, responses=torch.tensor(rows))
    assert "".join(some.distinct().labels) == "abd"  # cos 0.71 between d and a
    assert "".join(some.distinct(threshold=0.7).labels) == "ab"
    assert "".join(some.distinct(threshold=0.9999).labels) == "abcd"


# --- merges


def test_a_merge_has_both_banks_rows_and_the_scores_that_both_have():
    first = bank(2).with_score("own", torch.ones(2))
    second = bank(3, seed=1, labels=tuple("xyz"))
    both = first.merge(second)
    assert both.labels == ("a", "b", "x", "y", "z")
    for name in ("vectors", "responses", "objective"):
        joined = torch.cat([getattr(first, name), getattr(second, name)])
        assert torch.equal(getattr(both, name), joined)
    assert list(both.scores) == ["worth"]
    assert both.scores["worth"].tolist() == [0, 1, 0, 1, 2]
    assert both.provenance.notes == ("merged 2 with 3 vectors (power)",)


def test_the_radius_of_a_merge_is_the_mean_over_vectors():
    first, second = bank(1, radius=1.0), bank(3, radius=5.0, radius_share=0.6)
    assert first.merge(second).radius == pytest.approx(4.0)
    assert first.merge(second).radius_share == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", Site("blocks.0.hook_resid_post", 0, "hook_resid_post", 6)),
        ("target", Site("blocks.2.hook_resid_post", 2, "hook_resid_post", 5)),
        ("positions", ts.Positions(last=1)),
        ("form", {"rank": 1}),
    ],
)
def test_banks_of_different_places_are_not_merged(name, value):
    other = bank(**{name: value})
    for one, two in ((bank(), other), (other, bank())):
        with pytest.raises(SettingError, match=f"Banks with different {name} cannot be merged"):
            one.merge(two)


@pytest.mark.parametrize("size", ["d_model", "n_layers", "d_vocab"])
def test_models_of_different_sizes_are_not_the_same(size):
    assert same_model(MARK, MARK)
    assert not same_model(MARK, dataclasses.replace(MARK, **{size: 99}))


@pytest.mark.parametrize(
    ("dtypes", "off", "same"),
    [
        (("float32", "float32"), 5e-4, True),
        (("float32", "float32"), 5e-3, False),
        (("float64", "float64"), 5e-3, False),
        (("bfloat16", "bfloat16"), 5e-3, True),
        (("float32", "bfloat16"), 5e-3, True),
        (("float32", "float16"), 0.2, False),
        (("bfloat16", "bfloat16"), 0.2, False),
    ],
)
def test_half_precision_may_differ_by_more_than_full(dtypes, off, same):
    """By a share of the signature's norm, whatever its size."""
    for size in (1e-3, 1.0, 1e3):
        signature = tuple(size * x for x in (3.0, 0.0, 4.0))
        moved = (signature[0], 5 * size * off, signature[2])
        one = dataclasses.replace(MARK, signature=signature, dtype=dtypes[0])
        two = dataclasses.replace(MARK, signature=moved, dtype=dtypes[1])
        assert same_model(one, two) == same
        assert same_model(two, one) == same


def test_signatures_of_different_lengths_are_of_different_models():
    assert not same_model(MARK, dataclasses.replace(MARK, signature=MARK.signature[:1]))


# --- neighbours


def test_the_nearest_is_the_other_vector_whose_response_is_most_alike():
    rows = [[1.0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [-2, 0.1, 0, 0, 0]]
    found = bank(3, responses=torch.tensor(rows)).nearest()
    cosine = 2 / math.sqrt(4.01)
    assert [near for near, _ in found] == [2, 2, 0]
    assert [similar for _, similar in found] == pytest.approx(
        [cosine, 0.1 / math.sqrt(4.01), cosine]
    )


def test_a_lone_vector_has_no_neighbour_and_two_have_each_other():
    assert bank(1).nearest() == [(-1, 0.0)]
    assert bank(0).nearest() == []
    assert [near for near, _ in bank(2).nearest()] == [1, 0]


def test_what_was_never_measured_has_no_similarity():
    assert all(math.isnan(x) for _, x in bank(2, responses=torch.full((2, 5), math.nan)).nearest())


# --- identity


CHANGES = {
    "vectors": lambda b: dataclasses.replace(b, vectors=-b.vectors),
    "responses": lambda b: dataclasses.replace(b, responses=-b.responses),
    "positions": lambda b: dataclasses.replace(b, positions=ts.Positions(last=1)),
    "form": lambda b: dataclasses.replace(b, form={"rank": 1}),
    "source": lambda b: dataclasses.replace(
        b, source=Site("blocks.0.hook_resid_post", 0, "hook_resid_post", 6)
    ),
    "target": lambda b: dataclasses.replace(
        b, target=Site("blocks.2.hook_resid_post", 2, "hook_resid_post", 5)
    ),
    "measured": lambda b: dataclasses.replace(
        b, provenance=dataclasses.replace(b.provenance, measured=ts.Positions(last=1))
    ),
    "model": lambda b: dataclasses.replace(
        b,
        provenance=dataclasses.replace(
            b.provenance, fingerprint=dataclasses.replace(MARK, n_layers=5)
        ),
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_digest_changes_with_what_the_bank_does_and_where(what):
    assert CHANGES[what](bank()).digest() != bank().digest()


def test_a_digest_does_not_change_with_words_and_ranks():
    plain = bank().digest()
    assert plain == bank(labels=()).with_score("more", torch.ones(5)).digest()
    assert plain == dataclasses.replace(bank(), objective=torch.ones(5)).digest()
    assert len(plain) == 16
    assert set(plain) <= set("0123456789abcdef")


# --- tables


def test_a_table_has_a_row_for_every_vector_in_the_banks_order():
    rows = [[3.0, 4, 0, 0, 0], [0, 0, 2, 0, 0], [3, 4, 0.1, 0, 0]]
    sheet = bank(3, responses=torch.tensor(rows)).table()
    assert sheet.columns == ("#", "objective", "|response|", "nearest |cos|", "worth", "label")
    numbers = [[float(cell) for cell in (*row[:3], row[4])] for row in sheet.rows]
    assert [n[0] for n in numbers] == [0, 1, 2]
    assert [n[1] for n in numbers] == [1, 2, 0]
    assert [n[2] for n in numbers] == pytest.approx([5, 2, 5.001], abs=1e-2)
    assert [n[3] for n in numbers] == [0, 1, 2]
    assert [row[3] for row in sheet.rows] == ["1.00 (#2)", "0.02 (#2)", "1.00 (#0)"]
    assert [row[5] for row in sheet.rows] == ["a", "b", "c"]
    assert sheet.title == "Bank of 3 steering vectors"
    assert bank(1).table().title == "Bank of 1 steering vector"


def test_a_table_says_what_it_leaves_out_and_what_nobody_knows():
    some = bank(5)
    assert len(some.table(most=2).rows) == 2
    assert "3 more not shown" in some.table(most=2).note
    assert "not shown" not in some.table(most=5).note
    assert "power on tiny; radius 2.5 = 0.200 of the median residual norm" in some.table().note
    neurons = ts.hook_points.Site("blocks.1.mlp.hook_post", 1, "mlp.hook_post", 6)
    other = dataclasses.replace(some, source=neurons).table().note
    assert "= 0.200 of the median norm there at blocks.1.mlp.hook_post" in other
    assert "seed 0" in some.table().note
    bare = dataclasses.replace(
        some,
        radius_share=math.nan,
        responses=torch.full((5, 5), math.nan),
        provenance=Provenance(model="tiny", fingerprint=MARK),
    )
    assert "no method on tiny; radius 2.5 at" in bare.table().note
    assert [row[3] for row in bare.table().rows] == [""] * 5
    assert bank(1).table().rows[0][3] == ""


# --- the control


def test_a_control_says_that_it_is_one_and_is_drawn_anew_for_every_seed():
    some = bank(3)
    control = ts.random_bank(some, seed=4)
    assert (len(control), control.scores) == (3, {})
    made = control.provenance
    assert (made.method, made.settings, made.seed, made.model) == ("random", {}, 4, "tiny")
    assert control.responses.shape == (3, 5)
    assert bool(control.responses.isnan().all())
    assert not torch.equal(control.vectors, ts.random_bank(some, seed=5).vectors)
    assert (control.source, control.target, control.radius) == (SOURCE, TARGET, 2.5)


def test_a_control_is_not_where_a_search_begins():
    """The same seed gives a search its starting points."""
    drawn = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    control = normalize(ts.random_bank(bank(), seed=0).vectors, dim=1)
    assert float((control * normalize(drawn, dim=1)).sum(dim=1).max()) < 0.99
