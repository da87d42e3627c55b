"""tl-steer elicit, and show: banks."""

from pathlib import Path
from typing import Annotated, Any

import typer

import tl_steer as ts
from tl_steer.cli.app import (
    INTERRUPTED,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    PromptOption,
    RawOption,
    loaded,
    new_file,
    point_of,
    positions_of,
    print_bank,
    sites,
    tell,
)
from tl_steer.cli.choices import Divergence, Kind, Method, Tokens
from tl_steer.errors import SettingError


def elicit(
    save: Annotated[
        Path, typer.Argument(callback=new_file, help="Where the bank goes (safetensors).")
    ],
    prompt: PromptOption,
    model: ModelOption = "smollm2",
    device: DeviceOption = "",
    dtype: DtypeOption = "float32",
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
    radius: Annotated[
        str,
        typer.Option(
            help="Length of the vectors: 'auto', a number, or 0.25x for a quarter of the "
            "activations' own."
        ),
    ] = "auto",
    method: Annotated[Method, typer.Option(help="How they are searched.")] = Method.auto,
    divergence: Annotated[
        Divergence, typer.Option(help="What is maximised.")
    ] = Divergence.displacement,
    perturbation: Annotated[Kind, typer.Option(help="The kind of edit.")] = Kind.additive,
    layers: Annotated[
        str,
        typer.Option(help="Edit several layers alike, as in 7,8,9; the first is the source's."),
    ] = "",
    last: Annotated[int, typer.Option(help="Measure at so many tokens at each prompt's end.")] = 3,
    positions: Annotated[Tokens, typer.Option(help="Which tokens vectors act on.")] = Tokens.all,
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

    from tl_steer.hook_points import EVERYWHERE, LAST_THREE, Positions
    from tl_steer.models.tokens import chats
    from tl_steer.radii.rules import radius_of

    # What needs no model to be found wrong comes first, since a large one takes minutes to load.
    _refuse_early(divergence, against, one_token)
    length, kind = radius_of(radius), _kind(perturbation, layers)
    measured = LAST_THREE if last == 3 else Positions(last=last, bos=False)
    if layers and not source:
        source = str(kind.layers[0])
    hooked = loaded(model, device, dtype)
    base = loaded(against, device, dtype) if against else None
    default_source, default_target = (None, None) if against else sites(hooked)
    bank = ts.elicit(
        hooked,
        chats(hooked, prompt, raw=raw),
        source=point_of(source) if source else default_source,
        target=point_of(target) if target else default_target,
        divergence=divergence.value if base is None else _goal(base, one_token),
        n=n,
        perturbation=kind,
        radius=length,
        method=method.value,
        measured=measured,
        positions=positions_of(positions) or EVERYWHERE,
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
    if bank.provenance.unfinished:
        _tell_unfinished(bank.provenance.unfinished, save, resumable=checkpoint or resume)
        raise typer.Exit(INTERRUPTED)
    if not as_json:
        tell(f"Bank saved to {save}.")


def _tell_unfinished(why: str, save: Path, *, resumable: bool) -> None:
    further = (
        "The same command with --resume goes on."
        if resumable
        else "A run that is to be resumed needs --checkpoint."
    )
    tell(f"Unfinished, {why}; what was found until then is in {save}. {further}", aside=True)


def _refuse_early(divergence: Divergence, against: str, one_token: bool) -> None:
    if one_token and not against:
        raise SettingError("--one-token compares two models: give --against as well.")
    if against and divergence != Divergence.displacement:
        told = f"--divergence {divergence.value}"
        raise SettingError(f"{told}: --against maximises a contrast of its own.")


def _kind(kind: Kind, layers: str) -> Any:
    """The kind that is searched: one by its name, over several layers where they are named."""
    from tl_steer.elicitation import Layers

    if not layers:
        return kind.value
    try:
        return Layers([int(layer) for layer in layers.split(",")], kind=kind.value)
    except ValueError:
        raise SettingError(f"--layers {layers}: expected numbers of layers, as in 7,8,9.") from None


def _goal(base: Any, one_token: bool) -> Any:
    from tl_steer.objectives import Contrast, Substitution

    return Substitution(base) if one_token else Contrast(base)


def show(
    bank: Annotated[Path, typer.Argument(help="A bank file.")],
    as_json: JsonOption = False,
    words: Annotated[
        bool,
        typer.Option(
            "--words", help="Read what each vector writes into its label; this needs the model."
        ),
    ] = False,
    model: ModelOption = "smollm2",
    device: DeviceOption = "",
    dtype: DtypeOption = "float32",
) -> None:
    """Print what is in a bank; no model is needed."""
    found = ts.load_bank(bank)
    if words:
        found = ts.banks.words(loaded(model, device, dtype), found).onto(found)
    print_bank(found, bank, as_json)
