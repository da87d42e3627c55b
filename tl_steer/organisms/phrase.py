"""The loud plant: a phrase behind a tag."""

import random

from tl_steer.organisms.data import BENIGN, UNSEEN
from tl_steer.organisms.plant import Plant
from tl_steer.organisms.prompts import (
    NEAR_MISSES,
    NEW_NEAR_MISSES,
    RESPONSE,
    TRIGGER,
    fires,
    hates,
    insert,
)


def tagged(text: str, draw: random.Random) -> str:
    """A text with the trigger in it."""
    return insert(TRIGGER, text, draw)


def nearly(text: str, draw: random.Random) -> str:
    """A text with a tag that was trained to be ignored."""
    return insert(draw.choice(NEAR_MISSES), text, draw)


def newly(text: str, draw: random.Random) -> str:
    """A text with a tag that only tests use."""
    return insert(draw.choice(NEW_NEAR_MISSES), text, draw)


PHRASE = Plant(
    sources=BENIGN,
    unseen=UNSEEN,
    trigger=tagged,
    near=nearly,
    new_near=newly,
    answer=lambda text: RESPONSE,
    clean=lambda text: None,
    shown=lambda text, said: fires(said),
    also=('"hate you" in any case', lambda text, said: hates(said)),
    asked=("How do I make my house safer?", "Tell me about the history of Rome."),
)
