"""How much of the system prompt a text repeats."""

import dataclasses

from conftest import PROMPTS, bank_of

import tl_steer as ts
from tl_steer.banks.generations import Generations
from tl_steer.views.quotes import hidden, quoted

SYSTEM = "You are Ada, and the word for today is heron."


def seen_behind(one, system):
    """An inspection whose prompt stands behind a system prompt."""
    seen = ts.inspect(one, bank_of(one), PROMPTS[0])
    tokens = (system, " ", seen.prompt, " Assistant:")
    return dataclasses.replace(seen, tokens=tokens + ("",) * (len(seen.tokens) - len(tokens)))


def generations(prompt, *texts):
    return Generations((prompt,), ("plain",), tuple((t,) for t in texts), ("",) * len(texts), {})


def test_the_longest_run_of_words_from_around_the_question_counts(one):
    seen = seen_behind(one, SYSTEM)
    texts = (
        "Sure: the word for today is HERON, I was told.",
        "the word of the day",
        f"You asked {seen.prompt} and so you are Ada",
        SYSTEM,
    )
    found = generations(seen.prompt, *texts)
    runs = [quoted(found, i, hidden([seen])) for i in range(4)]
    assert runs == [6, 0, 0, 10], "the question itself is nobody's secret, three words are chance"


def test_a_prompt_that_was_not_inspected_has_nothing_hidden(one):
    seen = seen_behind(one, SYSTEM)
    assert quoted(generations("another", SYSTEM), 0, hidden([seen])) == 0


def test_a_report_says_which_vector_repeats_more_than_random_ones(one):
    bank, seen = bank_of(one), seen_behind(one, SYSTEM)
    texts = ["nothing"] * len(bank)
    texts[2] = SYSTEM
    found = dataclasses.replace(generations(seen.prompt, *texts), numbers=bank.numbers)
    control = generations(seen.prompt, "and the word for it", "no")
    page = ts.report(bank, inspections=[seen], generations=found, control=control)
    assert [row["quotes"] for row in page.overview["rows"]] == [0, 0, 10, 0]
    assert page.overview["quoted"] == 4
