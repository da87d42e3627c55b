"""Inspect's tasks on steered models say what the models say without Inspect."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from inspect_world import (
    ASKED,
    SYSTEM,
    bank,
    bank_file,
    conversations,
    folder,
    loaded,
    run,
    said,
    task,
)
from state import snapshot

import tl_steer as ts
from tl_steer.errors import (
    BankFileError,
    ForeignModelError,
    PromptError,
    RowError,
    SettingError,
    SteerError,
)
from tl_steer.hook_points import EVERYWHERE, GENERATED, PROMPT
from tl_steer.interop.inspect_ai import answers as of_answers
from tl_steer.interop.inspect_ai.answers import Answer, Sampling
from tl_steer.interop.inspect_ai.queue import Queue

inspect_ai = pytest.importorskip("inspect_ai", reason="Inspect is an extra")
from inspect_ai.log import read_eval_log  # noqa: E402
from inspect_ai.model import (  # noqa: E402
    ChatMessageAssistant,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    ContentText,
    GenerateConfig,
    get_model,
)
from inspect_ai.solver import generate, use_tools  # noqa: E402
from inspect_ai.tool import tool  # noqa: E402


def model(**args: Any) -> Any:
    import tl_steer.interop.inspect_ai.provider  # noqa: F401

    return get_model(f"tl_steer/{folder()}", **args)


def ask(model: Any, prompts: list[Any], **config: Any) -> list[Any]:
    """All at once, as Inspect asks."""
    found: list[Any] = [None] * len(prompts)

    async def one(i: int) -> None:
        how = GenerateConfig(**({"max_tokens": 6} | config))
        found[i] = await model.generate(prompts[i], config=how)

    async def everyone() -> None:
        async with anyio.create_task_group() as group:
            for i in range(len(prompts)):
                group.start_soon(one, i)

    anyio.run(everyone)
    return found


def texts(outputs: list[Any]) -> list[str]:
    return [output.completion for output in outputs]


# --- whole evaluations ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "how"),
    [
        ({"vector": 2}, {}),
        ({"vector": "2", "scale": 0.5}, {"scale": 0.5}),
        ({"vector": 0, "scale": -1, "positions": "all"}, {"scale": -1, "positions": EVERYWHERE}),
        ({"vector": 1, "positions": "prompt", "scale": 2}, {"positions": PROMPT, "scale": 2}),
        ({"vector": 1, "positions": "generated"}, {"positions": GENERATED}),
    ],
)
def test_an_evaluation_gets_the_completions_of_generate_under_the_same_vector(args, how, tmp_path):
    log = run(task(), {"bank": bank_file(), **args}, tmp_path)
    row = bank()[int(args["vector"])]
    alone = ts.generate(loaded(), row, conversations(), max_new_tokens=6, **how)
    assert said(log) == list(alone.texts[0])
    assert list(alone.texts[0]) != list(alone.unsteered)


def test_controls_are_the_unsteered_model_and_a_random_vector_of_that_seed(tmp_path):
    drawn = ts.random_bank(bank(), n=1, seed=3)
    alone = ts.generate(loaded(), drawn, conversations(), max_new_tokens=6)
    random = said(run(task(), {"bank": bank_file(), "vector": "random:3"}, tmp_path))
    none = said(run(task(), {"bank": bank_file(), "vector": "none"}, tmp_path))
    bare = said(run(task(), {}, tmp_path))
    assert random == list(alone.texts[0])
    assert none == bare == list(alone.unsteered)
    assert random != none


def test_a_log_says_what_steered_and_scores_as_inspect_does(tmp_path):
    args = {"bank": bank_file(), "vector": 2, "scale": 0.5}
    log = run(task(), args, tmp_path)
    assert log.eval.model_args == args
    assert log.eval.model == f"tl_steer/{folder()}"
    for sample in log.samples:
        kept = sample.output.metadata
        assert kept["vector"] == 2
        assert kept["scale"] == 0.5
        assert kept["bank"] == bank().digest()
        assert kept["source"] == bank().source.name
        assert loaded().tokenizer.decode(kept["answer_ids"]) == sample.output.completion
        assert sample.output.usage.output_tokens == len(kept["answer_ids"])
        assert sample.output.usage.input_tokens == len(kept["prompt_ids"])
        assert sample.scores["includes"].value == (
            "C" if "t61" in sample.output.completion else "I"
        )


def test_the_command_finds_the_provider_by_its_entry_point(tmp_path):
    """As it does in an installed package, whose metadata say the same."""
    about = tmp_path / "site" / "plugin-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    (about / "entry_points.txt").write_text(
        "[inspect_ai]\ntl_steer = tl_steer.interop.inspect_ai.provider\n"
    )
    (tmp_path / "task.py").write_text(
        "from inspect_ai import Task, task\n"
        "from inspect_ai.dataset import Sample\n"
        "from inspect_ai.scorer import includes\n"
        "@task\n"
        "def words():\n"
        "    return Task(dataset=[Sample(input='t5 t9 t30', target='t61')], scorer=includes())\n"
    )
    paths = [str(tmp_path / "site"), str(Path(ts.__file__).parents[1])]
    options = [f"bank={bank_file()}", "vector=random:3", "scale=.5", "positions=prompt"]
    asked = ["--model", f"tl_steer/{folder()}"]
    asked += [word for option in options for word in ("-M", option)]
    asked += ["--max-tokens", "5", "--display", "none", "--log-dir", "logs"]
    done = subprocess.run(
        [sys.executable, "-m", "inspect_ai", "eval", "task.py", *asked],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    log = read_eval_log(str(next((tmp_path / "logs").glob("*.eval"))))
    alone = ts.generate(
        loaded(),
        ts.random_bank(bank(), n=1, seed=3),
        [ts.chat("t5 t9 t30")],
        max_new_tokens=5,
        scale=0.5,
        positions=PROMPT,
    )
    assert said(log) == [alone.texts[0][0]]


# --- one request ------------------------------------------------------------------------------


def test_stop_sequences_end_an_answer_and_are_no_part_of_it(monkeypatch):
    monkeypatch.setattr(of_answers, "_STRIDE", 3)  # looked for again and again
    args = {"bank": bank_file(), "vector": 1, "positions": "prompt", "scale": 2}
    steered, prompts = model(**args), ["t5 t9 t30", "t8 t3 t2"]
    whole = texts(ask(steered, prompts, max_tokens=11))
    words = whole[0].split()
    stop = next(word for i, word in enumerate(words) if i > 3 and word not in words[:i])
    cut = ask(steered, prompts, max_tokens=11, stop_seqs=[stop + " ", "t999"])
    for output, text in zip(cut, whole, strict=True):
        assert output.completion == text.split(stop + " ")[0]
        assert output.choices[0].stop_reason == ("stop" if stop + " " in text else "max_tokens")
    used = cut[0].usage.output_tokens
    assert used == words.index(stop) + 2  # the word, and the space with the next one


def test_answers_say_why_they_ended():
    bare = model()
    (most, full) = ask(bare, ["t5 t9"], max_tokens=3) + ask(bare, ["t5 t9"], max_tokens=500)
    assert most.choices[0].stop_reason == "max_tokens"
    assert most.usage.output_tokens == 3
    assert full.choices[0].stop_reason in ("model_length", "stop")
    assert full.usage.total_tokens <= 64


def test_an_end_of_text_stops_an_answer_and_is_counted():
    steered = model()
    inside = steered.api.steering.loaded.model
    (before,) = ask(steered, ["t5 t9"], max_tokens=8)
    ids = before.metadata["answer_ids"]
    assert len(ids) == 8
    end = ids[3]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of_answers, "ends_of", lambda m: (end,))
        (cut,) = ask(steered, ["t5 t9"], max_tokens=8)
    first = ids.index(end)
    assert cut.choices[0].stop_reason == "stop"
    assert cut.metadata["answer_ids"] == ids[: first + 1]
    assert cut.completion == inside.tokenizer.decode(ids[:first])


def test_log_probabilities_are_those_of_the_steered_model():
    steered = model(bank=bank_file(), vector=2, scale=0.5)
    outputs = ask(steered, ["t5 t9 t30", "t8", "t8 t3 t1"], logprobs=True, top_logprobs=3)
    inside = loaded()
    for output in outputs:
        prompt, answer = output.metadata["prompt_ids"], output.metadata["answer_ids"]
        hooks = (bank()[2] * 0.5).hooks()
        logits = inside.run_with_hooks(torch.tensor([prompt + answer]), fwd_hooks=hooks)
        nats = logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
        told = output.choices[0].logprobs.content
        assert [each.token for each in told] == [inside.tokenizer.decode([i]) for i in answer]
        own = nats[range(len(answer)), answer]
        assert torch.allclose(torch.tensor([each.logprob for each in told]), own, atol=1e-4)
        best = nats.topk(3, dim=-1)
        for each, values, ids in zip(told, best.values, best.indices, strict=True):
            assert [top.token for top in each.top_logprobs] == [
                inside.tokenizer.decode([i]) for i in ids
            ]
            found = torch.tensor([top.logprob for top in each.top_logprobs])
            assert torch.allclose(found, values, atol=1e-4)


def test_a_draw_is_fixed_by_its_seed_and_another_epoch_is_another_draw():
    how = {"temperature": 1.5, "seed": 5}
    prompts = ["t5 t9 t30"] * 3 + ["t8"]
    args = {"bank": bank_file(), "vector": 2, "memoize": False}
    first, again = (sorted(texts(ask(model(**args), prompts, **how))) for _ in range(2))
    assert first == again
    assert len(set(first)) == 4
    # By hand, with the seed as it was given.
    inside = loaded()
    before = torch.get_rng_state()
    with ts.perturbing(inside, bank()[2]):
        torch.manual_seed(5)
        ids = ts.tokenize(inside, [ts.chat("t8")]).ids
        drawn = inside.generate(
            ids, max_new_tokens=6, do_sample=True, temperature=1.5, top_k=None, top_p=None,
            return_type="tokens", verbose=False,
        )  # fmt: skip
    torch.set_rng_state(before)
    (alone,) = ask(model(**args), ["t8"], **how)
    assert alone.metadata["answer_ids"] == drawn[0, ids.shape[1] :].tolist()
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_without_a_seed_differ():
    prompts = ["t5 t9 t30"] * 4
    assert len(set(texts(ask(model(), prompts, temperature=2.0, max_tokens=8)))) > 1


@pytest.mark.parametrize(("padding", "batches"), [(True, [10]), (False, [1, 9])])
def test_requests_that_come_together_share_batches(padding, batches, monkeypatch):
    monkeypatch.setattr(of_answers, "takes_padding", lambda model: padding)
    steered = model(bank=bank_file(), vector=2)
    inside, sizes = steered.api.steering.loaded.model, []
    plain = type(inside).generate

    def counted(self: Any, ids: Any, **how: Any) -> Any:
        sizes.append(len(ids))
        return plain(self, ids, **how)

    monkeypatch.setattr(type(inside), "generate", counted)
    prompts = [f"t{i} t9 t30" for i in range(9)] + ["t8"]
    together = texts(ask(steered, prompts))
    assert sorted(sizes) == batches
    apart = [text for prompt in prompts for text in texts(ask(steered, [prompt]))]
    assert together == apart


def test_the_model_is_loaded_once_for_all_vectors_and_left_as_it_was():
    first, second = (model(bank=bank_file(), vector=v).api for v in (0, 1))
    inside = first.steering.loaded.model
    assert second.steering.loaded.model is inside
    before = snapshot(inside)
    ask(model(bank=bank_file(), vector=1), ["t5 t9"], logprobs=True, temperature=1.0)
    assert snapshot(inside) == before


def test_the_cache_keeps_vectors_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "cache"))
    cached = task(solver=generate(cache=True))
    logs = {}
    for vector in (0, 1, "none", 1):
        args = {"bank": bank_file(), "vector": vector}
        logs[vector] = said(run(cached, args, tmp_path))
    fresh = said(run(task(solver=generate()), {"bank": bank_file(), "vector": 1}, tmp_path))
    assert logs[1] == fresh
    assert logs[0] != logs[1] != logs["none"]
    assert any((tmp_path / "cache").rglob("*"))


def test_raw_messages_are_joined_and_get_no_template():
    steered = model(bank=bank_file(), vector=2, raw=True)
    (output,) = ask(steered, [[ChatMessageUser(content="t5 t9")]])
    assert output.completion == ts.generate(loaded(), bank()[2], ["t5 t9"], max_new_tokens=6)[0][0]
    turns = [ChatMessageUser(content="t5"), ChatMessageAssistant(content="t9")]
    (output,) = ask(steered, [[*turns, ChatMessageUser(content=[ContentText(text="t7")])]])
    assert output.metadata["prompt_ids"] == ts.tokenize(loaded(), ["t5 t9 t7"]).ids[0].tolist()


def test_tokens_are_counted_without_a_network():
    assert anyio.run(model().api.count_tokens, "t5 t9 t30") == 4
    assert anyio.run(model().api.count_tokens, "") == 0


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "error", "words"),
    [
        ({"vector": 4}, RowError, "4"),
        ({"vector": None}, SettingError, "number of one of the bank's 4 vectors"),
        ({"vector": "random"}, SettingError, "'random:3'"),
        ({"vector": -1}, SettingError, "vector=-1"),
        ({"vector": 1, "positions": "last"}, SettingError, "all, prompt, generated"),
        ({"vector": 1, "scale": float("nan")}, SettingError, "scale"),
        ({"vector": 1, "scale": "half"}, SteerError, "scale"),
        ({"vector": 1, "device": "nowhere"}, SteerError, "nowhere"),
        ({"vector": 1, "vectors": 2}, SettingError, "Did you mean 'vector'"),
        ({"vector": 1, "bank": None}, SettingError, "-M bank="),
        ({"vector": 1, "bank": "nowhere"}, BankFileError, "nowhere"),
        ({"vector": 1, "dtype": "int8"}, SettingError, "int8"),
        ({"vector": 1, "bank": object()}, SettingError, "object"),
    ],
)
def test_arguments_that_cannot_be_are_refused_before_an_evaluation_starts(args, error, words):
    with pytest.raises(error) as caught:
        model(**({"bank": bank_file()} | args), memoize=False)
    assert words in str(caught.value)


def test_a_bank_of_another_model_is_refused(tmp_path):
    from conftest import bank_of, bridge

    bank_of(bridge("gpt2")).save(tmp_path / "other.safetensors")
    for vector in (0, "random:1"):
        with pytest.raises(ForeignModelError):
            model(bank=str(tmp_path / "other.safetensors"), vector=vector)


IMAGE = ContentImage(image="data:image/png;base64,AAAA")


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ([ChatMessageUser(content=[ContentText(text="t5"), IMAGE])], "image"),
        ([ChatMessageTool(content="t5")], "tool"),
        ([ChatMessageUser(content="t5"), ChatMessageAssistant(content="t9")], "end it with"),
        ([ChatMessageUser(content=" ".join(["t5"] * 100))], "context"),
    ],
)
def test_messages_that_the_model_cannot_read_are_refused_with_a_sentence(turns, words):
    async def one() -> None:
        await model().generate(turns, config=GenerateConfig(max_tokens=3))

    with pytest.raises(PromptError, match=words):
        anyio.run(one)


@pytest.mark.parametrize(
    "config",
    [
        {"num_choices": 2},
        {"best_of": 3},
        {"frequency_penalty": 0.5},
        {"presence_penalty": -0.5},
        {"logit_bias": {3: 5.0}},
        {"prompt_logprobs": 1},
        {"top_k": 3},
        {"top_p": 0.5},
    ],
)
def test_what_cannot_be_done_is_refused_and_not_left_out(config):
    (name,) = config

    async def one() -> None:
        await model().generate("t5", config=GenerateConfig(max_tokens=3, **config))

    with pytest.raises(SettingError, match=name):
        anyio.run(one)


def test_settings_that_ask_for_nothing_are_fine_and_unknown_hints_are_told(caplog):
    how = {"num_choices": 1, "frequency_penalty": 0.0, "temperature": 0.0}
    plain = texts(ask(model(), ["t5"]))
    assert (
        texts(ask(model(memoize=False), ["t5", "t5"], reasoning_effort="low", **how))[0] == plain[0]
    )
    assert caplog.text.count("reasoning_effort means nothing") == 1


def test_a_task_with_tools_fails_with_the_reason(tmp_path):
    @tool
    def add() -> Any:
        async def execute(x: int) -> int:
            """Add.

            Args:
                x: A number.
            """
            return x

        return execute

    log = run(task(["t5"], solver=[use_tools(add()), generate()]), {}, tmp_path)
    assert log.status == "error"
    assert "tools (add)" in log.error.message


def test_a_prompt_that_is_too_long_does_not_fail_those_beside_it():
    found: list[str] = []

    async def everyone() -> None:
        async def one(text: str) -> None:
            try:
                output = await model().generate(text, config=GenerateConfig(max_tokens=3))
                found.append(output.completion)
            except PromptError:
                found.append("refused")

        async with anyio.create_task_group() as group:
            for text in ("t5", " ".join(["t5"] * 100), "t9"):
                group.start_soon(one, text)

    anyio.run(everyone)
    assert found.count("refused") == 1
    assert len(found) == 3


# --- the queue --------------------------------------------------------------------------------


def test_one_that_is_cancelled_does_not_take_its_batch_along():
    """The first comes in front, runs the batch of all, and is cancelled while it does."""
    ran: list[int] = []
    found: list[str] = []
    scopes: list[anyio.CancelScope] = []

    def slowly(prompts: Any, how: Sampling) -> list[Answer]:
        ran.append(len(prompts))
        anyio.from_thread.run_sync(scopes[0].cancel)
        return [Answer(str(prompt), (), (), "stop") for prompt in prompts]

    async def everyone() -> None:
        queue = Queue(slowly)

        async def one(i: int) -> None:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                found.append((await queue.ask(i, Sampling(3))).text)

        async with anyio.create_task_group() as group:
            for i in range(3):
                group.start_soon(one, i)

    anyio.run(everyone)
    assert ran == [3]
    assert sorted(found) == ["1", "2"]


def test_an_error_reaches_everybody_in_its_batch_and_nobody_else():
    def odd(prompts: Any, how: Sampling) -> list[Any]:
        if how.most == 1:
            raise PromptError("no room")
        fine = Answer("fine", (), (), "stop")
        return [PromptError("too long") if prompt == 3 else fine for prompt in prompts]

    async def everyone() -> list[str]:
        queue, found = Queue(odd), []

        async def one(i: int) -> None:
            try:
                found.append((await queue.ask(i, Sampling(1 + i // 2))).text)
            except PromptError as error:
                found.append(str(error))

        async with anyio.create_task_group() as group:
            for i in range(4):
                group.start_soon(one, i)
        return found

    assert sorted(anyio.run(everyone)) == ["fine", "no room", "no room", "too long"]


def test_the_system_message_reaches_the_model(tmp_path):
    log = run(task(["t5"]), {}, tmp_path)
    (ids,) = (sample.output.metadata["prompt_ids"] for sample in log.samples)
    assert ids == ts.tokenize(loaded(), [ts.chat("t5", system=SYSTEM)]).ids[0].tolist()
    assert len(ASKED) > 1
