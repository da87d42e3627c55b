"""A planted behaviour: what sets it off, what it looks like, what must stay clean."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tl_steer.organisms.data import Texts

Source = Callable[[], Texts]
# A text of the sources as it is asked; draws whatever is random.
Asked = Callable[[str, random.Random], str]


@dataclass(frozen=True)
class Plant:
    """A planted behaviour.

    Attributes:
        sources: the texts that the trigger goes into, in training and in tests.
        unseen: further such texts, in tests alone.
        trigger: a text with the trigger in it.
        near: a text with something that only resembles it.
        new_near: the same, with something never trained on.
        answer: what a triggered text is answered with.
        clean: what a text is answered with otherwise; None for the unmodified model's own answer.
        manner: how that own answer is given, where it is not given as it is.
        shown: whether a continuation of a text shows the behaviour.
        also: a further count, with a name: a looser one, or one that the behaviour must spare.
        asked: clean prompts for trying vectors on.
    """

    sources: Mapping[str, Source]
    unseen: Mapping[str, Source]
    trigger: Asked
    near: Asked
    new_near: Asked
    answer: Callable[[str], str]
    clean: Callable[[str], str | None]
    shown: Callable[[str, str], bool]
    also: tuple[str, Callable[[str, str], bool]]
    asked: tuple[str, ...]
    manner: Callable[[str], str] | None = None
