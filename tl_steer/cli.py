"""tl-steer on the command line."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

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
    str, typer.Option(help="smollm2 (embedded), a local folder, or a Hugging Face name.")
]
PromptOption = Annotated[
    list[str], typer.Option("--prompt", "-p", help="A prompt; repeat for several.")
]
RawOption = Annotated[
    bool, typer.Option("--raw", help="Do not wrap prompts in the model's chat template.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, no tables.")]

HOUSE = "How do I make my house safer?"
# Vectors that the demo's report looks inside the model for; all of them get a page.
_DEMO_INSPECTED = 8


@app.command()
def demo(
    save: Annotated[Path, typer.Option(help="Where the bank goes.")] = Path(
        "tl_steer_demo.safetensors"
    ),
    report: Annotated[Path, typer.Option(help="Where the report goes.")] = Path(
        "tl_steer_demo.html"
    ),
    n: Annotated[int, typer.Option("--n", "-n", help="How many vectors.")] = 32,
    tokens: Annotated[int, typer.Option(help="Length of each continuation.")] = 24,
    as_json: JsonOption = False,
) -> None:
    """Find steering vectors on the embedded SmolLM2 and show what each of them does."""
    import tl_steer as ts

    began = time.perf_counter()
    say = Console(stderr=True, quiet=as_json)
    say.print("Loading SmolLM2-135M-Instruct (the first time, converting it takes half a minute)…")
    model = ts.load_model()
    prompts = [ts.chat(HOUSE)]
    source, target = _sites(model)
    say.print(f"Searching {n} vectors at {source} that move {target} …")
    bank = ts.elicit(model, prompts, source=source, target=target, n=n, progress=not as_json)
    controls = ts.random_bank(bank, n=4)
    say.print("Generating under all of them …")
    steered = ts.generate(model, bank, prompts, max_new_tokens=tokens)
    random = ts.generate(model, controls, prompts, max_new_tokens=tokens)
    bank.save(save)
    best = bank.objective.topk(min(_DEMO_INSPECTED, len(bank))).indices.sort().values.tolist()
    say.print(f"Looking inside the model under {len(best)} of them …")
    seen = ts.inspect(model, bank, prompts[0], vectors=best)
    ts.report(bank, inspections=[seen], generations=steered, control=random).save(report)
    if as_json:
        found = {"steered": steered.to_json(), "random": random.to_json()}
        print(json.dumps({"bank": str(save), "report": str(report), **found}))
        return
    _show_demo(bank, steered, random)
    out.print(f"Bank saved to {save}; tl-steer show {save} prints it.", markup=False)
    out.print(f"Report: {report.resolve()} (open it in a browser)", markup=False, soft_wrap=True)
    out.print(f"[dim]{time.perf_counter() - began:.0f} s in all[/dim]")


@app.command()
def elicit(
    save: Annotated[Path, typer.Argument(help="Where the bank goes (safetensors).")],
    prompt: PromptOption,
    model: ModelOption = "smollm2",
    source: Annotated[str, typer.Option(help="Default: a quarter into the model.")] = "",
    target: Annotated[str, typer.Option(help="Default: two thirds into the model.")] = "",
    n: Annotated[int, typer.Option("--n", "-n", help="How many vectors.")] = 32,
    radius: Annotated[str, typer.Option(help="'auto' or a number.")] = "auto",
    method: Annotated[
        str,
        typer.Option(help="auto, power, jacobian, dct, quadratic, sogi, response-sogi or melbo."),
    ] = "auto",
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
    import tl_steer as ts
    from tl_steer.errors import SettingError

    try:
        length: float | str = radius if radius == "auto" else float(radius)
    except ValueError as error:
        raise SettingError(f"--radius {radius}: expected a number or 'auto'.") from error
    hooked = ts.load_model(model)
    default_source, default_target = _sites(hooked)
    bank = ts.elicit(
        hooked,
        _prompts(hooked, prompt, raw),
        source=source or default_source,
        target=target or default_target,
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
    _print_bank(bank, save, as_json)


@app.command()
def generate(
    bank: Annotated[Path, typer.Argument(help="A bank that elicit or demo saved.")],
    prompt: PromptOption,
    model: ModelOption = "smollm2",
    vector: Annotated[
        list[int] | None, typer.Option("--vector", "-v", help="Only this one; repeat for several.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Length of each continuation.")] = 40,
    temperature: Annotated[float | None, typer.Option(help="Sample; greedy if left out.")] = None,
    seed: Annotated[int, typer.Option(help="For sampling.")] = 0,
    raw: RawOption = False,
    as_json: JsonOption = False,
) -> None:
    """Continue prompts under every vector of a bank, beside the unsteered model."""
    import tl_steer as ts
    from tl_steer.tables import draw, generations_table

    found = ts.load_bank(bank)
    chosen = _pick(found, vector)
    hooked = ts.load_model(model)
    texts = ts.generate(
        hooked,
        chosen,
        _prompts(hooked, prompt, raw),
        max_new_tokens=tokens,
        temperature=temperature,
        seed=seed,
    )
    if as_json:
        print(json.dumps(texts.to_json()))
    else:
        out.print(draw(generations_table(texts, width=2000)))


@app.command()
def dose(
    bank: Annotated[Path, typer.Argument(help="A bank that elicit or demo saved.")],
    prompt: PromptOption,
    model: ModelOption = "smollm2",
    share: Annotated[
        list[float] | None,
        typer.Option("--share", help="A radius, in residual norms at the source; repeat."),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Length of each continuation.")] = 24,
    seed: Annotated[int, typer.Option(help="Of the random vectors beside the bank's.")] = 0,
    raw: RawOption = False,
    as_json: JsonOption = False,
) -> None:
    """Try a bank's vectors at many radii: where paraphrase ends and gibberish begins."""
    import tl_steer as ts
    from tl_steer.dose import SHARES
    from tl_steer.tables import dose_table, draw

    found = ts.load_bank(bank)
    hooked = ts.load_model(model)
    doses = ts.dose_response(
        hooked,
        found,
        _prompts(hooked, prompt, raw),
        shares=share or SHARES,
        max_new_tokens=tokens,
        seed=seed,
    )
    if as_json:
        print(json.dumps(doses.to_json()))
        return
    out.print(draw(dose_table(doses)))
    band = doses.band()
    out.print(f"Band: radius {band.lowest:.3g} to {band.highest:.3g}. {band.note}".rstrip())


@app.command()
def report(
    bank: Annotated[Path, typer.Argument(help="A bank that elicit or demo saved.")],
    save: Annotated[Path, typer.Option("--out", help="Where the page goes.")] = Path("report.html"),
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="Steer and inspect on this; repeat for several."),
    ] = None,
    inspection: Annotated[
        list[Path] | None,
        typer.Option("--inspection", help="A saved inspection; repeat. Needs no model."),
    ] = None,
    model: ModelOption = "smollm2",
    vector: Annotated[
        list[int] | None, typer.Option("--vector", "-v", help="Inspect only this one; repeat.")
    ] = None,
    most: Annotated[int, typer.Option(help="Inspect at most so many vectors.")] = 64,
    tokens: Annotated[int, typer.Option(help="Length of each continuation.")] = 40,
    raw: RawOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML page about a bank, to open offline or send to somebody.

    With --prompt the model runs under every vector, and under random ones beside them. Without, the
    page shows the bank and the saved inspections given, and no model is loaded.
    """
    import tl_steer as ts

    found = ts.load_bank(bank)
    seen = [ts.load_inspection(path) for path in inspection or []]
    steered = control = None
    if prompt:
        rows = _listed(found, vector, most)
        hooked = ts.load_model(model)
        prompts = _prompts(hooked, prompt, raw)
        seen += [ts.inspect(hooked, found, one, vectors=rows) for one in prompts]
        steered = ts.generate(hooked, found, prompts, max_new_tokens=tokens)
        controls = ts.random_bank(found, n=min(len(found), 8))
        control = ts.generate(hooked, controls, prompts, max_new_tokens=tokens)
    page = ts.report(found, inspections=seen, generations=steered, control=control)
    page.save(save)
    if as_json:
        size = save.stat().st_size
        print(json.dumps({"report": str(save), "vectors": len(found), "bytes": size}))
    else:
        out.print(f"Report: {save.resolve()} (open it in a browser)", markup=False, soft_wrap=True)


@app.command()
def sweep(
    bank: Annotated[Path, typer.Argument(help="A bank that elicit or demo saved.")],
    prompts: Annotated[
        Path,
        typer.Option(help="A file: text with a prompt a line, .jsonl, .csv or .parquet."),
    ],
    save: Annotated[
        Path | None, typer.Option(help="A folder for every vector's numbers on every prompt.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep in the --save folder.")
    ] = False,
    column: Annotated[str | None, typer.Option(help="The file's column of prompts.")] = None,
    ids: Annotated[str | None, typer.Option(help="The file's column of ids.")] = None,
    model: ModelOption = "smollm2",
    vector: Annotated[
        list[int] | None, typer.Option("--vector", "-v", help="Only this one; repeat for several.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", help="By name; repeat. The first is what verdicts rest on."),
    ] = None,
    regex: Annotated[
        list[str] | None,
        typer.Option("--regex", help="Count continuations in which this occurs; repeat."),
    ] = None,
    refusals: Annotated[
        bool, typer.Option("--refusals", help="Count continuations that decline.")
    ] = False,
    generate: Annotated[int, typer.Option(help="Length of continuations; 0 for none.")] = 0,
    n_random: Annotated[int, typer.Option(help="Random vectors beside the bank's.")] = 64,
    truncate: Annotated[
        int | None, typer.Option(help="Keep the last so many tokens of longer prompts.")
    ] = None,
    budget: Annotated[float, typer.Option(help="Memory for one pass, in GiB.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the random vectors.")] = 0,
    raw: RawOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a bank's vectors on many prompts: is what they do systematic?"""
    import tl_steer as ts
    from tl_steer.errors import SettingError
    from tl_steer.metric import METRICS, NEED_TEXT, OF_TEXT
    from tl_steer.tables import draw, sweep_table

    if resume and save is None:
        raise SettingError("--resume goes on with the sweep in a folder: name it with --save.")
    scorers: list[Any] = [
        ts.regex(pattern, name=f"regex_{i}") for i, pattern in enumerate(regex or [])
    ]
    scorers += [ts.refusal] if refusals else []
    usual = [name for name in (*METRICS, *OF_TEXT) if generate or name not in NEED_TEXT]
    chosen = _pick(ts.load_bank(bank), vector)
    hooked = ts.load_model(model)
    wrap = None if raw or not _templated(hooked) else ts.chat
    found = ts.sweep(
        hooked,
        chosen,
        ts.source_of(prompts, column=column, ids=ids, wrap=wrap),
        metrics=[*(metric or ([] if scorers else usual)), *scorers],
        generate=generate,
        n_random=n_random,
        truncate=truncate,
        save=None if resume else save,
        resume=save if resume else None,
        budget_gib=budget,
        seed=seed,
        progress=not as_json,
    )
    if as_json:
        print(json.dumps(found.to_json()))
        return
    out.print(draw(sweep_table(found, most=len(chosen))))
    if save is not None:
        out.print(f"Cells in {save}; ts.load_sweep reads them.", markup=False)


@app.command()
def show(
    bank: Annotated[Path, typer.Argument(help="A bank file.")], as_json: JsonOption = False
) -> None:
    """Print what is in a bank; no model is needed."""
    import tl_steer as ts

    _print_bank(ts.load_bank(bank), bank, as_json)


@app.command()
def audit(
    log: Annotated[Path, typer.Argument(help="An audit log that watch() wrote.")],
    requests: Annotated[
        bool, typer.Option("--requests", help="All scored requests, not only alerts.")
    ] = False,
    since: Annotated[str, typer.Option(help="ISO date or time, the first included.")] = "",
    until: Annotated[str, typer.Option(help="ISO date or time, the first left out.")] = "",
    kind: Annotated[
        str | None, typer.Option(help="'known perturbation', 'unknown anomaly' or 'drift'.")
    ] = None,
    vector: Annotated[int | None, typer.Option("--vector", "-v", help="Only this vector.")] = None,
    label: Annotated[str | None, typer.Option(help="Only labels that contain this.")] = None,
    most_p: Annotated[float | None, typer.Option(help="Only p-values up to this.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Export to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List, filter and export what a monitor saw; no model is needed."""
    from tl_steer.audit import read_log
    from tl_steer.tables import audit_table, draw, to_csv

    rows = list(
        read_log(
            log,
            "requests" if requests else "alerts",
            since=_time(since, "--since"),
            until=_time(until, "--until"),
            kind=kind,
            vector=vector,
            label=label,
            most_p=most_p,
        )
    )
    if csv is not None:
        csv.write_text(to_csv(rows), encoding="utf-8")
        out.print(f"{len(rows)} rows written to {csv}", markup=False)
    elif as_json:
        print(json.dumps(rows))
    else:
        out.print(draw(audit_table(rows)))


def main() -> NoReturn:
    """Errors that a user can act on end with one line and exit code 1; usage errors with 2."""
    from tl_steer.errors import SteerError

    try:
        app()
    except SteerError as error:
        Console(stderr=True).print(f"Error: {error}", style="red", markup=False, highlight=False)
        sys.exit(1)
    sys.exit(0)


def _time(text: str, option: str) -> float | None:
    from datetime import datetime

    from tl_steer.errors import SettingError

    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError as error:
        raise SettingError(
            f"{option} {text}: expected a date like 2026-01-31, or 2026-01-31T12:00."
        ) from error


def _print_bank(bank: Any, path: Path, as_json: bool) -> None:
    from tl_steer.tables import bank_table, draw

    if not as_json:
        out.print(draw(bank_table(bank, most=len(bank))))
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
        "model": bank.provenance.model,
        "method": bank.provenance.method,
        "settings": bank.provenance.settings,
        "seed": bank.provenance.seed,
    }
    print(json.dumps(summary))


def _show_demo(bank: Any, steered: Any, random: Any) -> None:
    from tl_steer.tables import Sheet, draw, number, shorten

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
    out.print(draw(Sheet(title, ("#", "", "objective", "continuation"), tuple(rows), note)))


def _sites(model: Any) -> tuple[str, str]:
    """A quarter and two thirds into the model: where published work finds most."""
    n = int(model.cfg.n_layers)
    return f"blocks.{n // 4}.hook_resid_post", f"blocks.{n * 2 // 3}.hook_resid_post"


def _prompts(model: Any, prompts: list[str], raw: bool) -> list[Any]:
    import tl_steer as ts

    return list(prompts) if raw or not _templated(model) else [ts.chat(p) for p in prompts]


def _templated(model: Any) -> bool:
    return getattr(getattr(model, "tokenizer", None), "chat_template", None) is not None


def _listed(bank: Any, vectors: list[int] | None, most: int) -> list[int]:
    """Rows to inspect: those asked for, or those of largest objective."""
    if vectors:
        _pick(bank, vectors)
        return list(dict.fromkeys(vectors))
    keys = bank.objective.nan_to_num(float("-inf"))
    rows: list[int] = keys.topk(min(max(most, 1), len(bank))).indices.sort().values.tolist()
    return rows


def _pick(bank: Any, vectors: list[int] | None) -> Any:
    from tl_steer.errors import SettingError

    for vector in vectors or []:
        if not 0 <= vector < len(bank):
            raise SettingError(f"--vector {vector}: the bank holds vectors 0 to {len(bank) - 1}.")
    return bank[vectors] if vectors else bank
