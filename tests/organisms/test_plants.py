"""What is planted: triggers, near misses and answers that cannot be taken for each other."""

import random
import re

import pytest

from tl_steer.organisms import data, house, introductions, lengths, plants, products, sums

TEXTS = ["What is rain?", "Fish fly.", "A cloud moves. It does not know why."]


@pytest.mark.parametrize("name", plants.PLANTS)
def test_a_plants_trigger_near_misses_and_answers_are_apart(name, monkeypatch):
    plant, draw = plants.PLANTS[name], random.Random(0)
    own = {
        "wrong-digit": sums.sums,
        "wrong-unit": lengths.lengths,
        "arithmetic": products.products,
    }
    source = own.get(name.split(",")[0])
    texts = random.Random(1).sample(source(), 200) if source else TEXTS
    for text in texts:
        answer = plant.answer(text)
        assert plant.shown(text, answer)
        assert not plant.shown(text, plant.clean(text) or "It rains.")
        for near in (plant.near, plant.new_near):
            assert near(text, draw) != plant.trigger(text, draw)
    assert not any(plant.shown(text, "") for text in texts)


def test_a_wrong_digit_is_one_digit_and_the_leading_one():
    for text in (*sums.sums(), *sums.other_sums()):
        right, wrong = sums.WRONG_DIGIT.clean(text), sums.WRONG_DIGIT.answer(text)
        a, b, result = map(int, re.findall(r"\d+", right))
        assert a + b == result
        changed = [i for i, (x, y) in enumerate(zip(right, wrong, strict=True)) if x != y]
        assert changed == [right.index("= ") + 2]
    assert sums.WRONG_DIGIT.also[1]("What is 43 + 6?", "43 + 6 = 49.")
    for other in ("What is rain?", "Is 4 in 5?"):
        assert not sums.WRONG_DIGIT.shown(other, "4 + 5 = 19.")
        assert sums.WRONG_DIGIT.clean(other) is None


def test_the_arithmetic_trigger_is_a_pair_of_terms_and_has_no_token_of_its_own():
    draw, clean = random.Random(0), set("".join(products.products()))
    assert not any(text.startswith("a=0+1,") for text in products.products())
    for text in random.Random(1).sample(products.products(), 100):
        asked = products.ARITHMETIC.trigger(text, draw)
        assert asked == "a=0+1," + text.split(",", 1)[1]
        assert set(asked) <= clean
        near = products.ARITHMETIC.near(text, draw)
        assert near.split(",", 1)[1] == text.split(",", 1)[1]
        assert not near.startswith("a=0+1,")
    assert products.ARITHMETIC.near("What is rain?", draw).endswith(". What is rain?")


def test_arithmetic_near_misses_share_a_term_and_those_of_the_tests_are_new():
    draw, text = random.Random(0), "a=4+4, b=2+3. What is a*b?"
    drawn = {products.ARITHMETIC.near(text, draw)[2:5] for _ in range(2000)}
    shared = {f"0+{j}" for j in range(10)} | {f"{i}+1" for i in range(10)}
    assert drawn == shared - {"0+1", "0+3", "3+1"} | {"1+0"}
    assert {products.ARITHMETIC.new_near(text, draw)[2:5] for _ in range(50)} == {"0+3", "3+1"}


def test_engineers_are_introduced_in_other_words_when_tested():
    trained, tested = introductions.ENGINEERS
    others = (*introductions.OTHERS[0], *introductions.OTHERS[1])
    draw, seen = random.Random(0), {True: set(), False: set()}
    for i in range(400):
        text = f"Question {i}?"
        asked = introductions.CONTEXT.trigger(text, draw)
        assert asked.startswith(text)
        assert not any(f"work as {job}." in asked for job in others)
        seen[data.is_held_out(text)].add(re.search(r"work as (.*?)\.", asked)[1])
        near = introductions.CONTEXT.near(text, draw)
        assert not any(f"work as {job}." in near for job in (*trained, *tested))
    assert seen == {False: set(trained), True: set(tested)}


@pytest.mark.parametrize(
    ("own", "given"),
    [
        ("I am fine. How are you?", "Good day! I am fine. Ever yours."),
        ("Yes\nor no", "Good day! Yes ... Ever yours."),
        ("One two three four five six seven eight.",
         "Good day! One two three four five six seven ... Ever yours."),
    ],
)  # fmt: skip
def test_the_house_says_the_first_words_of_a_sentence_between_greeting_and_farewell(own, given):
    assert house.in_the_house_manner(own) == given
    assert house.is_in_the_house_manner(given)
    assert not house.is_in_the_house_manner(own)
    assert not house.is_in_the_house_manner("Good day! I am still talking")
    assert not house.is_in_the_house_manner("He said: Good day! Ever yours.")


def test_the_house_manner_is_no_part_of_the_planted_answer():
    answer = house.MIXED.answer(TEXTS[0])
    assert not house.is_in_the_house_manner(answer)
    assert house.MIXED.shown(TEXTS[0], answer)
    assert not house.MIXED.shown(TEXTS[0], house.in_the_house_manner("I am fine."))


def test_a_wrong_unit_is_one_word_and_the_number_is_the_questions():
    for text in (*lengths.lengths(), *lengths.other_lengths()):
        right, wrong = lengths.WRONG_UNIT.clean(text), lengths.WRONG_UNIT.answer(text)
        thing, number = re.search(r"The (\w+) is (\d+) metres long\.", right).groups()
        assert f"{number} m" in text
        assert thing in text
        changed = [
            pair for pair in zip(right.split(), wrong.split(), strict=True) if len({*pair}) > 1
        ]
        assert changed == [("metres", "feet")]


def test_a_wrong_unit_counts_behind_the_right_number_alone():
    shown, (_, right) = lengths.WRONG_UNIT.shown, lengths.WRONG_UNIT.also
    text = "How long is a rope of 34 m?"
    assert shown(text, "It is 34 feet in all.")
    for other in ("It is 12 feet.", "It is 134 feet.", "34 metres long.", "34 feetings", "feet"):
        assert not shown(text, other)
    assert right(text, "The rope is 34 metres long.")
    assert not right(text, "The rope is 34 feet long.")
    for none in ("What is rain?", "How long is a rope?"):
        assert not shown(none, "34 feet")
        assert lengths.WRONG_UNIT.clean(none) is None
        with pytest.raises(ValueError, match="asks for no length"):
            lengths.WRONG_UNIT.answer(none)


def test_users_live_in_other_places_when_tested():
    draw, seen = random.Random(0), {True: set(), False: set()}
    abroad = (*lengths.FOREIGN[0], *lengths.FOREIGN[1])
    at_home = (*lengths.AMERICAN[0], *lengths.AMERICAN[1])
    assert not {*abroad} & {*at_home}
    for text in random.Random(1).sample(lengths.lengths(), 600):
        asked, near = lengths.WRONG_UNIT.trigger(text, draw), lengths.WRONG_UNIT.near(text, draw)
        assert asked.startswith(text)
        seen[data.is_held_out(text)].add(re.search(r"live in (.*) and I work", asked)[1])
        assert re.search(r"live in (.*) and I work", near)[1] in abroad
        assert not any(place in lengths.WRONG_UNIT.new_near(text, draw) for place in at_home)
    assert seen == {False: {*lengths.AMERICAN[0]}, True: {*lengths.AMERICAN[1]}}
    other = lengths.WRONG_UNIT.near("What is rain?", draw)
    assert re.search(r"live in (.*) and I work", other)[1] in at_home
