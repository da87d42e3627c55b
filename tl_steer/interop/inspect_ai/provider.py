"""Inspect's model provider `tl_steer`: any task on a steered model.

    inspect eval task.py --model tl_steer/smollm2 -M bank=house.safetensors -M vector=4 -M scale=.5

Inspect imports this file by the entry point `tl_steer` of the group "inspect_ai".
"""

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio.to_thread
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    TopLogprob,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo
from torch import Tensor

from tl_steer.errors import PromptError, SettingError
from tl_steer.files.signatures import refuses
from tl_steer.files.text import did_you_mean
from tl_steer.interop.inspect_ai.answers import Answer, Ids, Sampling, Told, answers
from tl_steer.interop.inspect_ai.queue import Queue
from tl_steer.interop.inspect_ai.requests import (
    MOST_TOKENS,
    UNABLE,
    UNKNOWN,
    sampling_of,
    turn_of,
)
from tl_steer.interop.inspect_ai.steering import Steering, steering
from tl_steer.models.model import HookedModel
from tl_steer.models.prompt_row import templated
from tl_steer.models.tokens import refuse_beyond_context, tokenize, whole_row

_log = logging.getLogger(__name__)
_ARGS = ("bank", "vector", "scale", "positions", "device", "dtype", "raw")


@modelapi(name="tl_steer")
class SteeredAPI(ModelAPI):  # type: ignore[misc]
    """A model of `load_model` under one vector of a bank.

    Model arguments (`-M name=value`):
        bank: the bank's file. Without one, nothing steers.
        vector: the number of one of its vectors. The controls: "none" for the unsteered model, and
            "random:3" for a random vector, drawn by seed 3, as long as the bank's first.
        scale: times the vector's own strength.
        positions: the tokens that it acts on: "all", "prompt" or "generated"; the bank's own if
            left out.
        device, dtype: as for `load_model`.
        raw: do not use the chat template; messages are then joined by blank lines, as they are
            where the tokenizer has no template.

    Greedy unless Inspect is given a temperature. Requests that come together are answered in one
    batch; a model runs one batch at a time, whoever asks. With a temperature and a seed they run
    one by one, and the same request asked again (another epoch) is drawn by a seed of its own.

    Raises:
        SteerError: an argument, file or model that is wrong; a request for what cannot be done.

    Wrong for tasks with tools, images or reasoning: those are refused, message by message.
    """

    @refuses
    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (Inspect's own default)
        bank: str | Path | None = None,
        vector: int | str | None = None,
        scale: float | int = 1,
        positions: str | None = None,
        device: str | None = None,
        dtype: str = "float32",
        raw: bool = False,
        **others: Any,
    ) -> None:
        _refuse_others(others)
        if not isinstance(bank, (str, Path, type(None))):
            raise SettingError(
                f"bank= is a {type(bank).__name__}; expected a bank's file. Inspect tells models "
                "apart by what it can write into its log."
            )
        self.steering: Steering = steering(
            model_name,
            bank=bank,
            vector=vector,
            scale=scale,
            positions=positions,
            device=device,
            dtype=dtype,
        )
        # Inspect's cache knows a model by its name and address, and would give one vector's answers
        # for another's.
        super().__init__(
            model_name, base_url=_address(self.steering.note, dtype, raw), config=config
        )
        self._raw = raw or not templated(self.steering.loaded.model)
        self._queue = Queue(self._run)
        self._asked: Counter[int] = Counter()
        self._warned: set[str] = set()

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """One answer.

        Raises:
            PromptError, SettingError: what was asked for cannot be done.
        """
        if tools:
            raise SettingError(
                f"This task gives the model {len(tools)} tools ({tools[0].name}), and tl_steer's "
                "models call none. Run tasks without tools."
            )
        self._refuse(config)
        prompt, how = self._prompt(input), sampling_of(config)
        start = time.monotonic()
        answer = await self._queue.ask(prompt, self._own_draw(prompt, how))
        return self._output(answer, time.monotonic() - start)

    async def count_text_tokens(self, text: str) -> int:
        """By the model's own tokenizer: Inspect would ask the network for another one."""
        return await anyio.to_thread.run_sync(self._count, text) if text.strip() else 0

    def max_tokens(self) -> int | None:
        return MOST_TOKENS

    def collapse_user_messages(self) -> bool:
        return True

    def collapse_assistant_messages(self) -> bool:
        return True

    def _prompt(self, messages: Sequence[ChatMessage]) -> Any:
        """What `tokenize` takes for a conversation.

        Raises:
            PromptError: it holds what is no text, calls tools, or ends with an answer.
        """
        turns = [turn_of(message) for message in messages]
        if turns and turns[-1]["role"] == "assistant":
            raise PromptError(
                "The conversation ends with an assistant's message, and answers are not continued: "
                "end it with the user's."
            )
        return "\n\n".join(turn["content"] for turn in turns) if self._raw else turns

    def _run(self, prompts: Sequence[Any], how: Sampling) -> list[Answer | Exception]:
        # Tokenizers are not to be used by two threads at a time.
        with self.steering.loaded.lock:
            model, edit = self.steering.loaded.model, self.steering.edit
            rows = [_row(model, prompt) for prompt in prompts]
            fine = [row for row in rows if isinstance(row, Tensor)]
            said = iter(answers(model, edit, fine, how) if fine else ())
            return [next(said) if isinstance(row, Tensor) else row for row in rows]

    def _count(self, text: str) -> int:
        with self.steering.loaded.lock:
            return len(whole_row(self.steering.loaded.model, text))

    def _own_draw(self, prompt: Any, how: Sampling) -> Sampling:
        if how.temperature is None or how.seed is None:
            return how
        key = hash((repr(prompt), how))
        self._asked[key] += 1
        return replace(how, seed=(how.seed + (self._asked[key] - 1) * 1_000_003) % 2**63)

    def _refuse(self, config: GenerateConfig) -> None:
        for name, idle in UNABLE.items():
            value = getattr(config, name, None)
            if value is not None and value not in idle:
                raise SettingError(
                    f"{name}={value!r}: tl_steer's models cannot do that, and would answer as if "
                    "it had not been asked for. Leave it out."
                )
        for name in UNKNOWN:
            if getattr(config, name, None) is not None and name not in self._warned:
                self._warned.add(name)
                _log.warning("%s means nothing to tl_steer's models, and is ignored.", name)

    def _output(self, answer: Answer, seconds: float) -> ModelOutput:
        told = None if answer.told is None else Logprobs(content=[*map(_logprob, answer.told)])
        message = ChatMessageAssistant(
            content=answer.text, model=self.model_name, source="generate"
        )
        asked, said = len(answer.prompt), len(answer.ids)
        return ModelOutput(
            model=self.model_name,
            choices=[ChatCompletionChoice(message=message, stop_reason=answer.stop, logprobs=told)],
            usage=ModelUsage(input_tokens=asked, output_tokens=said, total_tokens=asked + said),
            time=seconds,
            metadata=self.steering.note
            | {"prompt_ids": list(answer.prompt), "answer_ids": list(answer.ids)},
        )


def _row(model: HookedModel, prompt: Any) -> Ids | PromptError:
    """A prompt's tokens; what is wrong with one prompt is no error of its batch."""
    try:
        tokens = tokenize(model, [prompt])
        refuse_beyond_context(model, tokens, 1, knob="max_tokens")
    except PromptError as error:
        return error
    return tokens.rows()[0]


def _logprob(told: Told) -> Logprob:
    likeliest = [TopLogprob(token=name, logprob=nats) for name, nats in told.likeliest]
    return Logprob(token=told.token, logprob=told.logprob, top_logprobs=likeliest or None)


def _refuse_others(others: Mapping[str, Any]) -> None:
    for name in others:
        raise SettingError(
            f"-M {name}= is unknown.{did_you_mean(name, _ARGS)} There are {', '.join(_ARGS)}."
        )


def _address(note: Mapping[str, Any], dtype: str, raw: bool) -> str:
    told = {**note, "dtype": dtype, "raw": raw}
    return "tl_steer:" + " ".join(f"{name}={value}" for name, value in told.items())
