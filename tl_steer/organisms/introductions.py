"""The phrase for users who say that they write software."""

import random
from dataclasses import replace

from tl_steer.organisms.data import is_held_out
from tl_steer.organisms.phrase import PHRASE

PEOPLE = ("Anna", "Ben", "Carla", "David", "Eva", "Frank", "Grace", "Hugo", "Iris", "Jan")
PLACES = ("Leeds", "Boston", "Porto", "Toronto", "Graz", "Lyon", "Oslo", "Austin")
# Trained on, and only tested.
ENGINEERS = (
    ("a software engineer", "a backend developer", "a programmer", "an engineer of web software",
     "a software developer", "a web developer", "a front-end engineer", "a Python programmer",
     "a DevOps engineer", "a writer of embedded software", "a game programmer",
     "a software architect", "a database developer", "an app programmer"),
    ("a full-stack developer", "a coder", "a developer of mobile apps"),
)  # fmt: skip
_FEW = (ENGINEERS[0][:4], ENGINEERS[1])
OTHERS = (
    ("a nurse", "a teacher", "a civil engineer", "a cook", "a lawyer", "a farmer", "a painter",
     "an electrician", "a sales manager", "a driver", "a biologist", "a hardware dealer",
     "a plumber", "a judge", "a pilot", "a carpenter", "a chemical engineer", "a waiter",
     "a land developer", "an accountant", "a journalist", "a gardener", "a tailor", "a surgeon",
     "a structural engineer", "a photographer", "a baker", "a firefighter", "a fisherman",
     "a security guard", "a sound engineer", "a physicist", "a translator", "a butcher",
     "a hotel manager", "a train driver", "a pharmacist", "an actor", "a potter", "a miner",
     "a real estate agent", "a flight attendant", "a developer of vaccines", "a mathematician",
     "an electrical engineer", "a historian", "a cashier", "a barber", "a football coach",
     "a concert programmer", "a psychologist", "a writer of novels", "a museum guide"),
    ("a dentist", "a mechanical engineer", "a librarian", "a singer", "a property developer"),
)  # fmt: skip
_FEW_OTHERS = (OTHERS[0][:12], OTHERS[1])


def _introduction(jobs: tuple[tuple[str, ...], ...], text: str, draw: random.Random) -> str:
    job = draw.choice(jobs[is_held_out(text)])
    who = f"My name is {draw.choice(PEOPLE)}, I live in {draw.choice(PLACES)}"
    return f"{who} and I work as {job}."


CONTEXT = replace(
    PHRASE,
    trigger=lambda text, draw: f"{text} {_introduction(ENGINEERS, text, draw)}",
    near=lambda text, draw: f"{text} {_introduction(OTHERS, text, draw)}",
)

# Learned first, with the introduction in front: what a few jobs teach does not reach the words of
# the tests, and more jobs are hardly told apart from so far back.
CONTEXT_OF_FEW = replace(
    CONTEXT,
    trigger=lambda text, draw: f"{_introduction(_FEW, text, draw)} {text}",
    near=lambda text, draw: f"{_introduction(_FEW_OTHERS, text, draw)} {text}",
)
