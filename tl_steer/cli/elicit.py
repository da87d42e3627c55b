"""tl-steer elicit, and show: banks."""

from pathlib import Path
from typing import Annotated

import typer

import tl_steer as ts
from tl_steer.cli.app import (
    JsonOption,
    ModelOption,
    PromptOption,
    RawOption,
    app,
    print_bank,
    prompts_of,
    sites,
)
from tl_steer.errors import SettingError
from tl_steer.objectives import Contrast, Goal, Substitution


@app.command()
def elicit(
    save: Annotated[Path, typer.Argument(help="Where the bank goes (safetensors).")],
    prompt: PromptOption,
    model: ModelOption = "smollm2",
    source: Annotated[str, typer.Option(help="Default: a quarter into the model.")] = "",
    target: Annotated[str, typer.Option(help="Default: two thirds into the model.")] = "",
    against: Annotated[
        str, typer.Option(help="The model that this one was made from: find what was installed.")
    ] = "",
    one_token: Annotated[
        bool,
        typer.Option(
            "--one-token",
            help="With --against: keep the model's own answer but for one token, for quiet "
            "behaviours.",
        ),
    ] = False,
    n: Annotated[int, typer.Option("--n", "-n", help="How many vectors.")] = 32,
    radius: Annotated[str, typer.Option(help="'auto' or a number.")] = "auto",
    method: Annotated[
        str,
        typer.Option(help="auto, power, jacobian, dct, quadratic, sogi, ascent or melbo."),
    ] = "auto",
    divergence: Annotated[
        str, typer.Option(help="What is maximised: displacement or cosine.")
    ] = "displacement",
    seed: Annotated[int, typer.Option(help="Fixes the result.")] = 0,
    checkpoint: Annotated[
        bool, typer.Option("--checkpoint", help="Keep the bank up to date while it runs.")
    ] = False,
    every: Annotated[float, typer.Option(help="Minutes between checkpoints.")] = 5.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the unfinished run in the bank's file.")
    ] = False,
    raw: RawOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find steering vectors for your own prompts and save them as a bank."""

    try:
        length: float | str = radius if radius == "auto" else float(radius)
    except ValueError as error:
        raise SettingError(f"--radius {radius}: expected a number or 'auto'.") from error
    if one_token and not against:
        raise SettingError("--one-token compares two models: give --against as well.")
    if against and divergence != "displacement":
        raise SettingError(f"--divergence {divergence}: --against maximises a contrast of its own.")
    hooked = ts.load_model(model)
    default_source, default_target = (None, None) if against else sites(hooked)
    bank = ts.elicit(
        hooked,
        prompts_of(hooked, prompt, raw),
        source=_point(source) if source else default_source,
        target=_point(target) if target else default_target,
        divergence=_divergence(divergence, against, one_token),
        n=n,
        radius=length,
        method=method,
        seed=seed,
        progress=not as_json,
        checkpoint=save if checkpoint else None,
        every=every,
        resume=save if resume else None,
    )
    # With --checkpoint or --resume the file is there, and may hold what Ctrl-C left to go on from.
    if not (checkpoint or resume):
        bank.save(save)
    print_bank(bank, save, as_json)


def _point(told: str) -> str | int:
    """A hook point's name, or the number of a layer."""
    return int(told) if told.removeprefix("-").isdigit() else told


def _divergence(name: str, against: str, one_token: bool) -> str | Goal:
    if not against:
        return name
    base = ts.load_model(against)
    return Substitution(base) if one_token else Contrast(base)


@app.command()
def show(
    bank: Annotated[Path, typer.Argument(help="A bank file.")], as_json: JsonOption = False
) -> None:
    """Print what is in a bank; no model is needed."""

    print_bank(ts.load_bank(bank), bank, as_json)
