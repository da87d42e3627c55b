"""tl-steer generate and dose: what vectors make the model say."""

import json
from typing import Annotated

import typer

import tl_steer as ts
from tl_steer.cli.app import (
    BankArgument,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    PositionsOption,
    PromptOption,
    RawOption,
    ScaleOption,
    TokensOption,
    VectorOption,
    loaded,
    picked,
    positions_of,
    print_table,
    tell,
)


def generate(
    bank: BankArgument,
    prompt: PromptOption,
    model: ModelOption = "smollm2",
    device: DeviceOption = "",
    dtype: DtypeOption = "float32",
    vector: VectorOption = None,
    scale: ScaleOption = 1.0,
    positions: PositionsOption = None,
    tokens: TokensOption = 40,
    temperature: Annotated[float | None, typer.Option(help="Sample; greedy if left out.")] = None,
    seed: Annotated[int, typer.Option(help="For sampling.")] = 0,
    raw: RawOption = False,
    as_json: JsonOption = False,
) -> None:
    """Continue prompts under every vector of a bank, beside the unsteered model."""
    from tl_steer.models.tokens import chats

    found = ts.load_bank(bank)
    chosen = picked(found, vector)
    hooked = loaded(model, device, dtype)
    texts = ts.generate(
        hooked,
        chosen,
        chats(hooked, prompt, raw=raw),
        max_new_tokens=tokens,
        temperature=temperature,
        seed=seed,
        scale=scale,
        positions=positions_of(positions),
    )
    if as_json:
        print(json.dumps(texts.to_json()))
    else:
        print_table(texts.table(width=2000))


def dose(
    bank: BankArgument,
    prompt: PromptOption,
    model: ModelOption = "smollm2",
    device: DeviceOption = "",
    dtype: DtypeOption = "float32",
    share: Annotated[
        list[float] | None,
        typer.Option("--share", help="A radius, in residual norms at the source; repeat."),
    ] = None,
    tokens: TokensOption = 24,
    seed: Annotated[int, typer.Option(help="Of the random vectors beside the bank's.")] = 0,
    raw: RawOption = False,
    as_json: JsonOption = False,
) -> None:
    """Try a bank's vectors at many radii: where paraphrase ends and gibberish begins."""
    from tl_steer.models.tokens import chats
    from tl_steer.radii.dose import SHARES

    found = ts.load_bank(bank)
    hooked = loaded(model, device, dtype)
    doses = ts.dose_response(
        hooked,
        found,
        chats(hooked, prompt, raw=raw),
        shares=share or SHARES,
        max_new_tokens=tokens,
        seed=seed,
    )
    if as_json:
        print(json.dumps(doses.to_json()))
        return
    print_table(doses.table())
    band = doses.band()
    tell(f"Band: radius {band.lowest:.3g} to {band.highest:.3g}. {band.note}".rstrip())
