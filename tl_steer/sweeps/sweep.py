"""A bank over many inputs: does what a vector does on one prompt hold on others?

part of the prompts -> every vector, random vectors, none -> cells on disk -> the next part
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tl_steer.banks.bank import Bank
from tl_steer.banks.generate import used_settings
from tl_steer.banks.provenance import check_fits
from tl_steer.errors import PromptError, SettingError, SweepFileError
from tl_steer.files.progress import bar
from tl_steer.files.signatures import checked
from tl_steer.hook_points.positions import Positions
from tl_steer.models.caches import refuse_no_text
from tl_steer.models.engine import Engine, setup_of
from tl_steer.models.model import HookedModel, model_name
from tl_steer.models.state import frozen
from tl_steer.perturbations.perturbation import Scale
from tl_steer.sweeps.bench import Bench
from tl_steer.sweeps.folder import VERSION, Folder, refuse_other
from tl_steer.sweeps.job import Job, Reader
from tl_steer.sweeps.metric import Metric
from tl_steer.sweeps.plan import Plan, edits_of, means_of, plan_of
from tl_steer.sweeps.prompts import PromptSource, source_of
from tl_steer.sweeps.result import SweepResult, Who
from tl_steer.sweeps.scorer import Scorer
from tl_steer.sweeps.secrets import described
from tl_steer.sweeps.state import State

_GROUPS = 32


@checked
def sweep(
    model: HookedModel,
    bank: Bank,
    prompts: Any,
    *,
    metrics: Sequence[str | Metric | Scorer] | None = None,
    generate: int = 0,
    n_random: int = 64,
    doses: Sequence[float | int] = (1.0,),
    truncate: int | None = None,
    save: str | Path | None = None,
    resume: str | Path | None = None,
    part: int = 16,
    budget_gib: float | int = 1.0,
    batch_rows: int = 64,
    seed: int = 0,
    scale: Scale = 1,
    positions: Positions | None = None,
    engine: Engine | None = None,
    progress: bool = True,
) -> SweepResult:
    """Run every vector on every prompt, beside random vectors and the unsteered model.

    Args:
        prompts: a list, as for `elicit`; a text file (one prompt a line), `.jsonl`, `.csv` or
            `.parquet`; a Hugging Face dataset, streaming or not; or a `source_of(...)` these, which
            chooses columns and wraps texts in the chat template. Files and datasets are read as
            they are needed. Use prompts that the bank was not trained on.
        metrics: names (those of `METRICS`, "shared_phrase", "perplexity" and "repetition"),
            functions of a `Reading`, and `Scorer`s of texts. The first is what verdicts rest on.
            Unless given, all names: with `generate`, "shared_phrase" is the first, the same new
            words on one prompt after another; without, "kl" is, by which a vector is "steady" at
            most.
        generate: length of greedy continuations; 0 for none, which is many times faster and says
            nothing of texts.
        n_random: random vectors of the same radius. Fewer than about 20 per vector that is truly
            systematic leave verdicts undecided.
        doses: factors for the bank's vectors; -1 is the opposite.
        truncate: keep only the last so many tokens of a longer prompt (and BOS). `None` refuses
            prompts that do not fit into the model's context.
        save: a folder for the cells, written part by part. Without one they stay in memory.
        resume: a folder that an unfinished sweep saved to; goes on with it, or starts it.
        part: prompts per file, and what a killed process loses at most.
        budget_gib: memory that one pass may take, roughly; the model and the sums of responses
            (32 times the vectors times the target's width, in float32) come on top. Neither
            depends on the number of prompts.
        batch_rows: rows per batch in generation.
        seed: of the random vectors.
        scale: how strongly the vectors act: a number, or one for each; doses are multiples of it.
        positions: the tokens that they act on, if not those that they were trained at.
        engine: who measures, part by part, such as `models.Ray(workers=8, gpus=0.5)`, for a model
            that came from `load_model`; this process where there is none. The folder is the same,
            bit for bit where workers have as many threads and the same kind of machine.

    Ctrl-C returns what is done; a later `resume` goes on from there.

    Raises:
        ForeignModelError: the bank was made for another model.
        ModelError: a metric reads logits and the model has no `ln_final` and `unembed`, or with
            `generate` no `generate`.
        PromptError: a row without text, with an id that another row has, or too long, by its place.
            Of sources that can be read twice, before any work.
        SettingError: bad arguments, before any work.
        WorkerError: workers of the engine die again and again.
        SweepFileError: the folder holds a sweep already, or another one, or cannot be written.

    Effects are those at this radius on prompts like these: prompts of one kind say nothing of
    another kind, and an effect on the next token need not be one on the answer.
    """
    if generate < 0 or n_random < 0 or part < 1 or batch_rows < 1 or not 0 < budget_gib < math.inf:
        raise SettingError(
            f"generate={generate}, n_random={n_random}, part={part}, batch_rows={batch_rows}, "
            f"budget_gib={budget_gib}: expected at least 0, 0, 1 and 1, and above 0."
        )
    if len(bank) == 0:
        raise SettingError("The bank holds no vectors.")
    plan = plan_of(metrics, generate)
    edits, who = edits_of(bank, doses, n_random, seed, scale, positions)
    source = prompts if isinstance(prompts, PromptSource) else source_of(prompts)
    check_fits(model, bank.provenance)
    if generate:
        refuse_no_text(model)
    read = Reader(model, bank.provenance.measured, generate, truncate)
    total = sum(1 for _ in map(read, source)) if source.again else None
    if total == 0:
        raise PromptError("No prompts were given; expected at least one.")
    with frozen(model), torch.no_grad():
        bench = Bench(
            edits,
            who,
            plan,
            target=bank.target,
            measured=bank.provenance.measured,
            mean=means_of(bank, who),
            budget=int(budget_gib * 2**30),
            batch_rows=batch_rows,
        )
        setup = setup_of(engine, model, bench)
        asked = _asked(model, bank, who, plan, seed, part) | used_settings(scale, positions)
        empty = _empty(len(who), bank.target.width)
        job = Job(asked, setup, _folder(save, resume, asked), part, empty, engine)
        counted = "prompt {done} of {total}"
        with bar("sweep", counted, total=total, shown=progress) as show:
            return job.run(map(read, source), lambda done: show(advance=done))


def _folder(
    save: str | Path | None, resume: str | Path | None, asked: dict[str, Any]
) -> Folder | None:
    if save is not None and resume is not None:
        raise SettingError("Give save= to start a sweep or resume= to go on with one, not both.")
    path = save if resume is None else resume
    if path is None:
        return None
    folder = Folder(path)
    if folder.path.exists() and not folder.path.is_dir():
        raise SweepFileError(f"{path} is a file; expected a folder, or a name that is free.")
    if folder.exists and resume is None:
        raise SweepFileError(
            f"{path} holds a sweep already. Go on with it by resume={str(path)!r}, or save to "
            "another folder."
        )
    if folder.exists:
        refuse_other(folder.path, folder.asked, asked)
    return folder


def _asked(
    model: HookedModel, bank: Bank, who: Sequence[Who], plan: Plan, seed: int, part: int
) -> dict[str, Any]:
    """What makes a sweep the one it is, as JSON has it."""
    own = {name: described(metric) for name, metric in plan.metrics.items()}
    own |= {name: name for name in plan.of_text} | {s.name: described(s) for s in plan.scorers}
    return {
        "version": VERSION,
        "model": model_name(model),
        "bank": bank.digest(),
        "source": bank.source.name,
        "target": bank.target.name,
        "radius": bank.radius,
        "labels": list(bank.labels),
        "who": [list(dataclasses.astuple(w)) for w in who],
        "metrics": {name: own[name] for name in plan.names},
        "order": list(plan.names),
        "of_text": [*plan.of_text, *(s.name for s in plan.scorers)],
        "generate": plan.generate,
        "seed": seed,
        "part": part,
    }


def _empty(n: int, width: int) -> State:
    return State(
        torch.zeros(_GROUPS, n, width, dtype=torch.float32, device="cpu"),
        torch.zeros(_GROUPS, n, dtype=torch.float32, device="cpu"),
    )
