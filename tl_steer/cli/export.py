"""tl-steer export and import: banks as other tools' files, and back."""

from pathlib import Path
from typing import Annotated

import typer

import tl_steer as ts
from tl_steer.cli.app import (
    BankArgument,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    PromptOption,
    RawOption,
    ScaleOption,
    VectorOption,
    loaded,
    new_file,
    picked,
    point_of,
    print_bank,
    tell,
)
from tl_steer.cli.choices import READ, WRITTEN

FormatOption = Annotated[str, typer.Option(help=f"Its format: {', '.join(WRITTEN)}.")]
ReadOption = Annotated[str, typer.Option("--from", help=f"The file's format: {', '.join(READ)}.")]


def export(
    bank: BankArgument,
    out: Annotated[Path, typer.Argument(callback=new_file, help="The file, or folder, to write.")],
    to: FormatOption,
    vector: VectorOption = None,
    scale: ScaleOption = 1.0,
    model: Annotated[
        str, typer.Option(help="For formats that need the model; as --model of elicit.")
    ] = "",
    device: DeviceOption = "",
    dtype: DtypeOption = "float32",
) -> None:
    """Write vectors of a bank as another tool's file."""
    chosen = picked(ts.load_bank(bank), vector)
    hooked = loaded(model, device, dtype) if model else None
    chosen = chosen if scale == 1 else chosen * scale
    tell(f"Wrote {ts.interop.export(chosen, out, to=to, model=hooked)}.")


def import_(
    file: Annotated[Path, typer.Argument(help="Another tool's file.")],
    out: Annotated[Path, typer.Argument(callback=new_file, help="The bank to write.")],
    format: ReadOption,
    prompt: PromptOption,
    model: ModelOption = "smollm2",
    device: DeviceOption = "",
    dtype: DtypeOption = "float32",
    target: Annotated[str, typer.Option(help="Where their effect is measured.")] = "",
    raw: RawOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a bank of another tool's vectors, with what they do on these prompts."""
    from tl_steer.models.tokens import chats

    found = ts.interop.read(file, format=format)
    hooked = loaded(model, device, dtype)
    made = found.bank(
        hooked, prompts=chats(hooked, prompt, raw=raw), target=point_of(target) if target else None
    )
    print_bank(made, made.save(out), as_json)
    if not as_json:
        tell(f"Bank saved to {out}.")
