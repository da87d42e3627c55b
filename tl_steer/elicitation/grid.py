"""A grid of searches: many cells, on one process or many, into one folder.

plan -> cells -> each a search, on whichever worker is free -> a bank's file and a row -> store
"""

from functools import partial
from pathlib import Path

from tl_steer.elicitation.grid_plan import GridPlan
from tl_steer.elicitation.searching import After, searcher
from tl_steer.elicitation.store import Store
from tl_steer.elicitation.store_writer import Writer
from tl_steer.errors import SettingError
from tl_steer.files.describe import describe
from tl_steer.files.progress import bar
from tl_steer.files.signatures import checked
from tl_steer.models.engine import Engine, dealt


@checked
def grid(
    plan: GridPlan,
    *,
    save: str | Path | None = None,
    resume: str | Path | None = None,
    engine: Engine | None = None,
    after: After | None = None,
    progress: bool = True,
) -> Store:
    """Search every cell of a plan, and keep the banks.

    Args:
        plan: what is searched; `GridPlan.read(path)` reads one.
        save: a folder for banks and index, which hold every cell as soon as it is done.
        resume: a folder that an unfinished grid saved to; goes on with it, or starts it. Cells
            without a bank are searched again, those that failed among them.
        engine: who does the work, such as `models.Ray(workers=8, gpus=0.5)`; this process, one cell
            after the other, where there is none.
        after: `(model, bank) -> (bank, numbers)`, called in every cell behind its search: the bank
            that is kept, perhaps with further scores, and numbers for the index; such as
            `sweeps.Swept`. On workers, what can be sent to them.
        progress: show a bar; plain lines on standard error where that is no terminal.

    Returns:
        The store. Its index does not depend on the engine, nor on what was killed in between. After
        Ctrl-C: what is done.

    Raises:
        SettingError: bad arguments, before any work.
        ModelError: the plan's model cannot be loaded.
        GridFileError: the folder holds a grid already, or another one, or cannot be written.
        WorkerError: workers die before they have loaded the model.

    A cell that fails stays in the index with its error, and the others go on. The largest objective
    or gain of a grid is chosen among many: measure it again on other prompts.
    """
    path = _folder(save, resume)
    if plan.sweep and after is None:
        raise SettingError("The plan asks for a sweep: give after=sweeps.Swept.of(plan.sweep).")
    writer = Writer(path, plan, "" if after is None else describe(after))
    with writer.held():
        writer.begin(resumed=resume is not None)
        left = writer.left()
        try:
            with (
                bar("grid", "cell {done} of {total}", total=len(plan.cells()),
                    done=len(plan.cells()) - len(left), shown=progress) as show,
                dealt(engine, partial(searcher, plan, after), left) as outcomes,
            ):  # fmt: skip
                for outcome in outcomes if left else ():
                    writer.add(outcome)
                    show(advance=1)
        except KeyboardInterrupt:
            if not writer.rows:
                raise
        return writer.store()


def _folder(save: str | Path | None, resume: str | Path | None) -> Path:
    if (save is None) == (resume is None):
        raise SettingError("Give save= to start a grid or resume= to go on with one: one of them.")
    return Path(str(save if resume is None else resume))
