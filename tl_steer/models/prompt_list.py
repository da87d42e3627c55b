"""What holds prompts: a list, or something that is made one, or a sentence about it."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from torch import Tensor

from tl_steer.errors import PromptError


def listed(prompts: Any) -> Sequence[Any]:
    """The prompts one by one, whatever holds them.

    Raises:
        PromptError: that is no list of prompts, or an empty one.
    """
    if isinstance(prompts, (Tensor, np.ndarray)) and prompts.ndim == 2:
        prompts = list(prompts)
    _refuse_container(prompts)
    rows: Sequence[Any] = prompts
    return rows


def is_ids(prompt: Any) -> bool:
    """Whether that is a list of token ids."""
    plain = isinstance(prompt, (list, tuple)) and len(prompt) > 0
    return plain and all(isinstance(i, Integral) and not isinstance(i, bool) for i in prompt)


def _refuse_container(prompts: Any) -> None:
    if isinstance(prompts, (str, bytes)):
        raise PromptError(f"Prompts come as a list: [{prompts[:40]!r}], not a single string.")
    if isinstance(prompts, Tensor) or not isinstance(prompts, Sequence):
        what = f"a {type(prompts).__name__}"
        if isinstance(prompts, Tensor):
            what = f"a tensor of shape {tuple(prompts.shape)}"
        raise PromptError(
            f"Prompts come as a list of strings, conversations or rows of token ids, not as "
            f"{what}: pass {_instead(prompts)}."
        )
    if len(prompts) == 0:
        raise PromptError("No prompts were given; expected at least one.")
    if is_ids(prompts):
        raise PromptError(
            f"Prompts come as a list, and this is one prompt of {len(prompts)} token ids: pass "
            "[ids]."
        )
    if isinstance(prompts[0], Mapping) and "role" in prompts[0]:
        raise PromptError(
            "Prompt 0 is a dict: this is one conversation, and prompts come as a list of them. "
            "Pass [conversation]."
        )


def _instead(prompts: Any) -> str:
    if isinstance(prompts, Mapping):
        return "[conversation], or a list of the texts in it"
    if hasattr(prompts, "columns"):
        return "the list of one column: list(table['prompt'])"
    numbers = isinstance(prompts, np.ndarray) and prompts.dtype.kind in "iuf"
    if isinstance(prompts, Tensor) or numbers:
        return "[ids] for one prompt, ids[None]" if prompts.ndim == 1 else "ids of [batch pos]"
    return "list(prompts)" if getattr(prompts, "ndim", 1) == 1 else "[prompt]"
