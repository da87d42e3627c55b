"""Do the tests notice? Plants small faults, one at a time, and counts those that a test fails on.

    python tests/mutants/run.py                                  # `make mutants`: every wing
    python tests/mutants/run.py --wings banks --size 20 --seed 3 --out banks.json
    python tests/mutants/run.py --again banks.json --alive       # what survived, with today's tests

A fault is drawn by place: first one of all places where something can be changed, then one of the
changes possible there. It meets those of the tests in `TESTS`, its own wing's and some neighbours',
that run its line, and they stop at the first failure. Alive is a fault that all of them pass;
`equivalent.py` holds those that change nothing which anybody could see, each with its reason.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from equivalent import reason
from mutations import Mutant, mutant, places, sample
from told import write
from warm import Seen, attempt, copy, preload, wait, watch

TESTS = {
    "models": (
        "tests/models",
        "tests/banks/test_generate.py",
        "tests/sweeps/test_prompts.py",
        "tests/inspection/test_inspect.py",
        "tests/monitoring/test_watch.py",
    ),
    "objectives": (
        "tests/objectives",
        "tests/methods",
        "tests/radii/test_band.py",
        "tests/banks/test_rank.py",
        "tests/elicitation/test_runs.py::test_when_memory_runs_out_parts_are_halved_and_nothing_is_done_twice",
        "tests/elicitation/test_runs.py::test_the_warning_comes_once_and_the_smaller_number_is_kept",
        "tests/elicitation/test_runs.py::test_a_single_row_that_does_not_fit_is_an_error_that_says_what_to_do",
        "tests/elicitation/test_runs.py::test_other_errors_are_passed_on_at_once",
    ),
    "methods": (
        "tests/methods",
        "tests/objectives/test_objective.py",
        "tests/elicitation/test_runs.py::test_going_on_from_any_step_gives_the_same_bank_bit_for_bit",
        "tests/elicitation/test_runs.py::test_states_that_somebody_keeps_stay_what_they_were",
        "tests/perturbations/test_adapter.py::test_melbo_climbs_adapters_at_p_4",
    ),
    "banks": ("tests/banks", "tests/files"),
    "monitoring": ("tests/monitoring", "tests/cli"),
}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--wings", nargs="+", default=list(TESTS), choices=list(TESTS))
    ask.add_argument("--size", type=int, default=100, help="faults in each wing")
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--jobs", type=int, default=2, help="wings at a time")
    ask.add_argument("--again", type=Path, help="the faults of an earlier --out, not a new sample")
    ask.add_argument("--alive", action="store_true", help="of --again, those that were alive")
    ask.add_argument("--out", type=Path, help="keep what became of each fault; no page is written")
    given = ask.parse_args()
    preload()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        results = everywhere(Path(folder), given)
    if given.out:
        given.out.write_text(json.dumps(results, indent=1))
    elif not given.again:
        write(results, seed=given.seed, size=given.size)


def everywhere(folder: Path, given: argparse.Namespace) -> list[dict]:
    """Wings beside each other, each in a process with a tree of its own."""
    left, running = list(given.wings), {}
    while left or running:
        if left and len(running) < given.jobs:
            wing = left.pop(0)
            pid = os.fork()
            if pid == 0:
                os._exit(_alone(wing, folder, given))
            running[pid] = wing
        else:
            pid, status = os.wait()
            if status:
                raise SystemExit(f"{running[pid]}: see above")
            del running[pid]
    return [one for wing in given.wings for one in json.loads((folder / wing).read_text())]


def _alone(wing: str, folder: Path, given: argparse.Namespace) -> int:
    try:
        results = []
        for result in of_wing(wing, copy(folder / f"{wing}-tree"), given):
            results.append(result)
            if given.out:  # a run that is cut off leaves what it has found
                given.out.with_suffix(f".{wing}").write_text(json.dumps(results, indent=1))
        (folder / wing).write_text(json.dumps(results))
    except BaseException as error:
        print(f"{wing}: {error!r}", flush=True)
        return 1
    return 0


def of_wing(wing: str, tree: Path, given: argparse.Namespace) -> Iterator[dict]:
    paths = [str(p.relative_to(tree)) for p in sorted((tree / "tl_steer" / wing).rglob("*.py"))]
    if given.again:
        mutants = found_again(tree, paths, json.loads(given.again.read_text()), given.alive)
    else:
        mutants = sample(tree, paths, given.size, given.seed)
    start = time.monotonic()
    seen = watch(tree, TESTS[wing], [f"tl_steer/{wing}"])
    print(f"{wing}: {len(mutants)} faults, tests {time.monotonic() - start:.0f} s", flush=True)
    for fault in mutants:
        yield meet(fault, wing, tree, seen)


def meet(fault: Mutant, wing: str, tree: Path, seen: Seen) -> dict:
    file = tree / fault.path
    original, kept = file.read_text(encoding="utf-8"), file.stat()
    order = seen.order(fault.path, fault.statement(tree))
    files = sorted({test.partition("::")[0] for test in order})
    start = time.monotonic()
    try:
        file.write_text(fault.source(tree), encoding="utf-8")
        limit = 4 * sum(seen.seconds[test] for test in order) + 40
        code = wait(attempt(tree, files, order), limit) if order else 0
    finally:
        file.write_text(original, encoding="utf-8")
        os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    end = "alive" if code == 0 else "slow" if code is None else "killed"
    by = (tree / "killer").read_text() if order else "no test runs this line"
    result = {"wing": wing, **vars(fault), "end": end, "by": by, "why": reason(fault.key)}
    result["seconds"] = round(time.monotonic() - start, 1)
    mark = {"alive": "ALIVE" if not result["why"] else "equal", "slow": "slow"}.get(end, "")
    print(
        f"{mark:6}{fault.path}:{fault.line} {fault.operator.split('/')[1]} {by} "
        f"{result['seconds']}\n      - {fault.before}\n      + {fault.after}",
        flush=True,
    )
    if end == "killed" and not by:
        print((tree / "attempt.log").read_text()[-600:])
    return result


def found_again(tree: Path, paths: list[str], old: list[dict], alive: bool) -> list[Mutant]:
    """The same faults in today's code; one whose line is gone is left out."""
    wanted: dict[tuple[str, str, str], int] = {}
    for one in old:
        if one["path"] in paths and (one["end"] == "alive" or not alive):
            wanted.setdefault((one["path"], one["before"], one["after"]), one["line"])
    found = []
    for path in paths:
        mine = {key for key in wanted if key[0] == path}
        if not mine:
            continue
        lines = (tree / path).read_text(encoding="utf-8").splitlines()
        for ways in places(tree, path).values():
            for way in ways:
                near = " ".join(x.strip() for x in lines[max(0, way[2] - 3) : way[2] + 25])
                if not any(key[1] in near or not key[1] for key in mine):
                    continue
                made = mutant(tree, path, *way)
                if made and made.key in mine:
                    mine.discard(made.key)
                    found.append(made)
    gone = len(wanted) - len(found)
    print(f"{gone} of {len(wanted)} are gone from the code", flush=True)
    return found


if __name__ == "__main__":
    main()
