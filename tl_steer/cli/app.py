"""The program, and what its commands share."""

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

import tl_steer as ts
from tl_steer.files.text import plain
from tl_steer.hook_points.positions import NAMED, Positions

app = typer.Typer(
    name="tl-steer",
    help=(
        "Find steering vectors of a language model without labels, and see what they do.\n\n"
        "Start with [bold]tl-steer demo[/bold]: it needs no network and no GPU."
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
# Tables are written for people: never narrower than what a log file needs.
out = Console()

ModelOption = Annotated[
    str,
    typer.Option(help="smollm2 (embedded), an organism, a folder, or a Hugging Face name."),
]
DeviceOption = Annotated[
    str, typer.Option(help="Where the model runs: cpu, cuda, mps. Its loader's choice if left out.")
]
DtypeOption = Annotated[
    str, typer.Option(help="Of the model's weights: float32, bfloat16 or float16.")
]
ScaleOption = Annotated[
    float, typer.Option(help="Times the vectors' own strength; 0 is none, -1 the opposite.")
]
PromptOption = Annotated[
    list[str], typer.Option("--prompt", "-p", help="A prompt; repeat for several.")
]
RawOption = Annotated[
    bool, typer.Option("--raw", help="Do not wrap prompts in the model's chat template.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, no tables.")]
VectorOption = Annotated[
    list[int] | None, typer.Option("--vector", "-v", help="Only this one; repeat for several.")
]
TokensOption = Annotated[int, typer.Option(help="Length of each continuation.")]


class Tokens(str, Enum):
    """Which tokens vectors act on."""

    all = "all"
    prompt = "prompt"
    generated = "generated"


PositionsOption = Annotated[
    Tokens | None,
    typer.Option(help="Which tokens vectors act on; the bank's own if left out."),
]
BankArgument = Annotated[Path, typer.Argument(help="A bank that elicit or demo saved.")]


def tell(message: str) -> None:
    """Print a line, whatever a file or its name has in it."""
    out.print(Text(plain(message)), soft_wrap=True)


def sites(model: Any) -> tuple[str, str]:
    """A quarter and two thirds into the model: where published work finds most."""
    n = int(model.cfg.n_layers)
    return f"blocks.{n // 4}.hook_resid_post", f"blocks.{n * 2 // 3}.hook_resid_post"


def loaded(name: str, device: str, dtype: str) -> Any:
    """The model of --model, --device and --dtype."""
    return ts.load_model(name, device=device or None, dtype=dtype)


def positions_of(told: Tokens | None) -> Positions | None:
    """The choice of --positions; `None` where there is none."""
    return None if told is None else NAMED[told.value]


def point_of(told: str) -> str | int:
    """A hook point's name, or the number of a layer."""
    return int(told) if told.removeprefix("-").isdigit() else told


def picked(bank: Any, vectors: list[int] | None) -> Any:
    """The vectors of these numbers; all of them, where there are none."""
    return bank[[bank.row(vector) for vector in vectors]] if vectors else bank


def print_bank(bank: Any, path: Path, as_json: bool) -> None:
    from tl_steer.files.tables import draw

    if not as_json:
        out.print(draw(bank.table(most=len(bank))))
        return
    summary = {
        "path": str(path),
        "vectors": len(bank),
        "source": bank.source.name,
        "target": bank.target.name,
        "radius": bank.radius,
        "radius_share": None if bank.radius_share != bank.radius_share else bank.radius_share,
        "objective": [None if x != x else x for x in bank.objective.tolist()],
        "labels": list(bank.labels),
        "comments": list(bank.comments),
        "numbers": list(bank.numbers),
        "model": bank.provenance.model,
        "method": bank.provenance.method,
        "settings": bank.provenance.settings,
        "seed": bank.provenance.seed,
    }
    print(json.dumps(summary))
