"""tl-steer demo."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

import tl_steer as ts
from tl_steer.cli.app import (
    INTERRUPTED,
    JsonOption,
    TokensOption,
    loaded,
    new_file,
    out,
    print_table,
    sites,
    tell,
)

if TYPE_CHECKING:
    from tl_steer.cli.measured import Measured

HOUSE = "How do I make my house safer?"
# Vectors that the demo's report looks inside the model for, and those at several strengths as well;
# all of them get a page.
_INSPECTED, _DEEP = 8, 2


def demo(
    save: Annotated[Path, typer.Option(callback=new_file, help="Where the bank goes.")] = Path(
        "tl_steer_demo.safetensors"
    ),
    report: Annotated[Path, typer.Option(callback=new_file, help="Where the report goes.")] = Path(
        "tl_steer_demo.html"
    ),
    n: Annotated[int, typer.Option("--n", "-n", help="How many vectors.")] = 32,
    tokens: TokensOption = 24,
    as_json: JsonOption = False,
) -> None:
    """Find steering vectors on the embedded SmolLM2 and show what each of them does."""
    from tl_steer.banks.bank import largest
    from tl_steer.cli.measured import measure
    from tl_steer.views.view import ending

    ending(report, (".html",))  # before the search
    began = time.perf_counter()
    say = Console(stderr=True, quiet=as_json)
    say.print("Loading SmolLM2-135M-Instruct (the first time, converting it takes half a minute)…")
    model = loaded("smollm2")
    prompts = [ts.chat(HOUSE)]
    source, target = sites(model)
    say.print(f"Searching {n} vectors at {source} that move {target} …")
    bank = ts.elicit(model, prompts, source=source, target=target, n=n, progress=not as_json)
    bank.save(save)
    if bank.provenance.unfinished:
        tell(f"Unfinished, {bank.provenance.unfinished}; the bank is in {save}.", aside=True)
        raise typer.Exit(INTERRUPTED)
    best = largest(bank, _INSPECTED)
    say.print(f"Generating under all of them, and looking inside the model under {len(best)} …")
    try:
        found = measure(model, bank, prompts, rows=best, deep=_DEEP, tokens=tokens)
    except KeyboardInterrupt:
        tell(f"Stopped before the report; the bank is in {save}.", aside=True)
        raise typer.Exit(INTERRUPTED) from None
    steered, random = found.generations, found.control
    page = ts.report(bank, inspections=found.inspections, **found.beside())
    page.save(report)
    if as_json:
        texts = {"steered": steered.to_json(), "random": random.to_json()}
        print(json.dumps({"bank": str(save), "report": str(report), **texts}))
        return
    _show_demo(bank, steered, random)
    _tell_leak(page.overview, found)
    tell(f"Bank saved to {save}; tl-steer show {save} prints it.")
    tell(f"Report: {report.resolve()} (open it in a browser)")
    out.print(f"[dim]{time.perf_counter() - began:.0f} s in all[/dim]")


def _tell_leak(overview: dict[str, Any], found: "Measured") -> None:
    """Which vector repeats the system prompt, where one does and random vectors do not."""
    from tl_steer.files.tables import shorten

    row = max(overview["rows"], key=lambda row: row["quotes"])
    if row["quotes"] <= overview["quoted"]:
        return
    vector, text = row["vector"], shorten(row["text"], 80)
    told = [
        f"Vector {vector} repeats {row['quotes']} words in a row from the system prompt:",
        f"{text!r}; random vectors {overview['quoted'] or 'fewer than 4'}.",
    ]
    if vector in found.strengths[0].vectors:
        told.append("The report's tab Strength has its opposite.")
    tell(" ".join(told))


def _show_demo(bank: Any, steered: Any, random: Any) -> None:
    from tl_steer.files.tables import Sheet, number, shorten

    text = max(40, out.width - 36)
    rows = [("", "unsteered", "", shorten(steered.unsteered[0], text))]
    rows += [
        (str(i), "vector", number(float(bank.objective[i])), shorten(texts[0], text))
        for i, texts in enumerate(steered.texts)
    ]
    rows += [("", "random", "", shorten(texts[0], text)) for texts in random.texts]
    note = (
        f"{steered.changed()} of {len(steered)} vectors and {random.changed()} of {len(random)} "
        f"random ones change the continuation; {steered.distinct()} and {random.distinct()} "
        f"different texts. Radius {bank.radius:.1f} = {bank.radius_share:.3f} of the median "
        f"residual norm."
    )
    title = f"“{HOUSE}” under {len(bank)} steering vectors, and random ones of the same radius"
    print_table(Sheet(title, ("#", "", "objective", "continuation"), tuple(rows), note))
