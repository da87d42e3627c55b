"""Inspect's requests in our words: what is asked for, and what cannot be done."""

from typing import Any

from tl_steer.errors import PromptError
from tl_steer.interop.inspect_ai.answers import Sampling

# As Inspect's own provider of local models has it.
MOST_TOKENS = 2048
# What would change answers and cannot be done, and the values that ask for nothing.
UNABLE = {
    "best_of": (1,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "modalities": ([], ["text"]),
    "num_choices": (1,),
    "presence_penalty": (0,),
    "prompt_logprobs": (),
    "response_schema": (),
}
# What no such model has.
UNKNOWN = ("effort", "extra_body", "reasoning_effort", "reasoning_tokens", "verbosity")


def sampling_of(config: Any) -> Sampling:
    """How a `GenerateConfig` wants to be answered."""
    return Sampling(
        most=config.max_tokens or MOST_TOKENS,
        temperature=config.temperature or None,
        top_k=config.top_k,
        top_p=config.top_p,
        seed=config.seed,
        stops=tuple(stop for stop in config.stop_seqs or () if stop),
        likeliest=(config.top_logprobs or 0) if config.logprobs else None,
    )


def turn_of(message: Any) -> dict[str, str]:
    """One `ChatMessage` as a turn of a conversation.

    Raises:
        PromptError: it holds what is no text, or calls tools.
    """
    if message.role == "tool" or getattr(message, "tool_calls", None):
        raise PromptError(
            "The conversation holds a tool's call or result, and tl_steer's models know no tools. "
            "Run tasks without tools."
        )
    parts = () if isinstance(message.content, str) else message.content
    if others := sorted({part.type for part in parts} - {"text"}):
        raise PromptError(
            f"A {message.role} message holds {' and '.join(others)}; tl_steer's models read text "
            "alone. Leave it out of the conversation."
        )
    return {"role": message.role, "content": message.text}
