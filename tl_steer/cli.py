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


@app.command()
def demo(
    save: Annotated[Path, typer.Option(help="Where the bank goes.")] = Path(
        "tl_steer_demo.safetensors"
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
    if as_json:
        print(
            json.dumps(
                {"bank": str(save), "steered": steered.to_json(), "random": random.to_json()}
            )
        )
        return
    _show_demo(bank, steered, random)
    out.print(f"Bank saved to {save}; tl-steer show {save} prints it.", markup=False)
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

    templated = getattr(getattr(model, "tokenizer", None), "chat_template", None) is not None
    return list(prompts) if raw or not templated else [ts.chat(p) for p in prompts]


def _pick(bank: Any, vectors: list[int] | None) -> Any:
    from tl_steer.errors import SettingError

    for vector in vectors or []:
        if not 0 <= vector < len(bank):
            raise SettingError(f"--vector {vector}: the bank holds vectors 0 to {len(bank) - 1}.")
    return bank[vectors] if vectors else bank
