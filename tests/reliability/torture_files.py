"""20,000 damaged files of every kind, two processes on one file, and threads on one path.

python tests/reliability/torture_files.py [how many files]
"""

import collections
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from evidence import Row, write
from files import case, kinds, original
from rivals import rivals, threads

PROMISE = (
    "A damaged file is refused by its kind's error, or loads to what works; what was not signed "
    "anew loads to the numbers that were saved. Of two processes on one file the second is refused "
    "and the first ends whole; what threads write to one path is always whole."
)
# A GGUF costs a hundred times as much as the others: transformers looks at it.
SHARE = {"gguf": 0.02}


def fuzz(total: int, home: Path, *, seed: int = 0, show: bool = False) -> list[Row]:
    """Damaged files, of all kinds alike; each kind of failure once in the note."""
    found = kinds(home / "good")
    weights = [SHARE.get(kind.name, 1.0) for kind in found]
    rows = []
    for kind, weight in zip(found, weights, strict=True):
        chance, cases = random.Random(f"{kind.name} {seed}"), round(total * weight / sum(weights))
        expected = original(kind, home / "case")
        wrong: collections.Counter[str] = collections.Counter()
        for _ in range(max(cases, 1)):
            if told := case(kind, home / "case", chance, expected):
                wrong[told[:100]] += 1
        note = "; ".join(f"{told} ({n})" for told, n in wrong.most_common(3))
        rows.append(Row(kind.name, max(cases, 1), sum(wrong.values()), note))
        if show:
            print(rows[-1], flush=True)
    return rows


def main(total: int = 20_000) -> None:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as home:
        rows = fuzz(total, Path(home), show=True)
        rows += rivals(Path(home), times=10)
        rows.append(threads(Path(home), writes=400))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    seconds = time.perf_counter() - began
    note = f"{PROMISE} This took {seconds:.0f} s and {peak:.0f} MiB."
    write("Files", note, rows, command="python tests/reliability/torture_files.py")
    assert not any(row.failures for row in rows), [row for row in rows if row.failures]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
