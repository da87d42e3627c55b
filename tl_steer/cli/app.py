"""The program, and what its commands share."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

import tl_steer as ts
from tl_steer.cli.choices import Tokens
from tl_steer.errors import plain

if TYPE_CHECKING:
    from tl_steer.files import Sheet
    from tl_steer.hook_points import Positions

INTERRUPTED = 130  # as shells have it: 128, and the number of the signal


class Commands(TyperGroup):
    """What Ctrl-C ends before there is anything to keep, in all versions of typer alike."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            tell("Stopped before there was anything to save.", aside=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="tl-steer",
    cls=Commands,
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
_verbose = False


def _version(asked: bool) -> bool:
    if asked:
        print(f"tl_steer {ts.__version__}")
        raise typer.Exit
    return asked


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show what loading a model has to say.")
    ] = False,
) -> None:
    global _verbose
    _verbose = verbose


def new_file(path: Path | None) -> Path | None:
    """A file or folder to write, refused before anything is searched where its name is misspelt."""
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"There is no folder {plain(str(path.parent))}; make it first.")
    return path


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
PositionsOption = Annotated[
    Tokens | None,
    typer.Option(help="Which tokens vectors act on; the bank's own if left out."),
]
BankArgument = Annotated[Path, typer.Argument(help="A bank that elicit or demo saved.")]


def tell(message: str, *, aside: bool = False) -> None:
    """Print a line, whatever a file or its name has in it; `aside` on standard error, beside JSON
    say."""
    to = Console(stderr=True) if aside else out
    to.print(Text(plain(message)), soft_wrap=True)


def sites(model: Any) -> tuple[str, str]:
    """A quarter and two thirds into the model: where published work finds most."""
    n = int(model.cfg.n_layers)
    return f"blocks.{n // 4}.hook_resid_post", f"blocks.{n * 2 // 3}.hook_resid_post"


def loaded(name: str, device: str = "", dtype: str = "float32") -> Any:
    """The model of --model, --device and --dtype."""
    with loading():
        return ts.load_model(name, device=device or None, dtype=dtype)


def loading() -> AbstractContextManager[None]:
    """Around what loads a model: its loader is silent unless --verbose was given."""
    from tl_steer.cli.loading import quiet, to_stderr

    return to_stderr() if _verbose else quiet()


def positions_of(told: Tokens | None) -> "Positions | None":
    """The choice of --positions; `None` where there is none."""
    from tl_steer.hook_points.positions import NAMED

    return None if told is None else NAMED[told.value]


def point_of(told: str) -> str | int:
    """A hook point's name, or the number of a layer."""
    return int(told) if told.removeprefix("-").isdigit() else told


def picked(bank: Any, vectors: list[int] | None) -> Any:
    """The vectors of these numbers; all of them, where there are none."""
    return bank[[bank.row(vector) for vector in vectors]] if vectors else bank


def print_table(sheet: "Sheet", *, narrow: bool = False) -> None:
    """Print a table; without its lines, where it is `narrow`."""
    from rich.box import SIMPLE_HEAD

    from tl_steer.files.tables import draw

    table = draw(sheet)
    if narrow:
        table.box, table.padding, table.pad_edge = SIMPLE_HEAD, (0, 0), False
        for column in table.columns[:-1]:
            column.no_wrap = True
    out.print(table)


def print_bank(bank: Any, path: Path, as_json: bool) -> None:
    if not as_json:
        print_table(bank.table(most=len(bank)))
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
        "unfinished": bank.provenance.unfinished or None,
    }
    print(json.dumps(summary))
