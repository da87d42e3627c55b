"""Tests of planted faults, each in a process forked from one that has imported the libraries.

A mutant is written into a copy of the tree, so an interrupted run leaves no fault behind. The copy
is imported after the fork, by whoever runs the tests.
"""

import contextlib
import gc
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coverage
import hypothesis
import pytest

ROOT = Path(__file__).parents[2]
MEMORY = 16 << 30


@dataclass(frozen=True)
class Seen:
    """What tests do in the package as it is: how long each takes, and who runs which line.

    Attributes:
        seconds: by test.
        lines: path -> line -> tests. Lines that run at import belong to every test.
    """

    seconds: dict[str, float]
    lines: dict[str, dict[int, list[str]]]

    def order(self, path: str, lines: range) -> dict[str, int]:
        """The tests that run one of these lines, in the order in which to try them: the quick ones
        first, and of one test's parameters one, and then the others. What runs at import belongs to
        every test; one parameter of each slow one will do."""
        of = self.lines.get(path, {})
        covering = {test for line in lines for test in of.get(line, ())}
        at_import = covering == {""}
        if at_import:
            covering = set(self.seconds)
        turns: dict[str, int] = {}
        keys = []
        for test, seconds in sorted(self.seconds.items(), key=lambda item: item[1]):
            if test in covering:
                function = test.partition("[")[0]
                turns[function] = turns.get(function, 0) + 1
                if at_import and turns[function] > 1 and seconds > 0.02:
                    continue
                keys.append((turns[function] > 1, seconds, test))
        return {key[-1]: i for i, key in enumerate(sorted(keys))}


def preload() -> None:
    """What is slow to import and never mutated."""
    import pyarrow.parquet  # noqa: F401
    import scipy.optimize
    import scipy.stats  # noqa: F401
    import transformer_lens  # noqa: F401
    from transformer_lens.model_bridge import TransformerBridge  # noqa: F401
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: F401
    from transformers.models.gemma2 import modeling_gemma2  # noqa: F401
    from transformers.models.gpt2 import modeling_gpt2  # noqa: F401
    from transformers.models.gpt_neox import modeling_gpt_neox  # noqa: F401
    from transformers.models.llama import modeling_llama  # noqa: F401

    # Reproducible, and without clocks: a slow machine must not look like a killed mutant.
    hypothesis.settings.register_profile("mutants", deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile("mutants")


def copy(folder: Path) -> Path:
    """A tree to plant faults in."""
    left_out = shutil.ignore_patterns(
        ".git", ".venv*", "__pycache__", "dist", "*.ipynb", ".mypy_cache", ".ruff_cache"
    )
    return Path(shutil.copytree(ROOT, folder, ignore=left_out, symlinks=True))


class Inside:
    """Plugin: the tests in a given order, and what they do if `watched`."""

    def __init__(self, order: dict[str, int], watched: coverage.Coverage | None = None) -> None:
        self.order, self.watched = order, watched
        self.seconds: dict[str, float] = {}
        self.failed = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if self.order:
            items[:] = [item for item in items if item.nodeid in self.order]
            items.sort(key=lambda item: self.order[item.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
        if self.watched:
            self.watched.switch_context(item.nodeid)
        start = time.perf_counter()
        result = yield
        self.seconds[item.nodeid] = time.perf_counter() - start
        if self.watched:
            self.watched.switch_context("")
        return result

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


def watch(tree: Path, tests: Sequence[str], packages: Sequence[str]) -> Seen:
    """Run the tests as they are; one that fails here could kill nothing, so it must not."""
    out = tree / "seen.json"

    def child() -> int:
        found = coverage.Coverage(data_file=None, source=[str(tree / p) for p in packages])
        inside = Inside({}, found)
        found.start()
        code = pytest.main([*_OPTIONS, f"--basetemp={tree}/tmp", *tests], plugins=[inside])
        found.stop()
        data = found.get_data()
        lines = {
            str(Path(file).relative_to(tree)): data.contexts_by_lineno(file)
            for file in data.measured_files()
        }
        out.write_text(json.dumps({"seconds": inside.seconds, "lines": lines}))
        return int(code)

    code = wait(fork(tree, child, tree / "watch.log"), 1800)
    if code != 0:
        raise SystemExit(f"The tests fail as they are:\n{(tree / 'watch.log').read_text()[-4000:]}")
    kept = json.loads(out.read_text())
    lines = {p: {int(n): t for n, t in of.items()} for p, of in kept["lines"].items()}
    return Seen(kept["seconds"], lines)


# Two architectures of each class of model see what four do.
_FEW = "not compat- and not gemma2 and not neox"
_OPTIONS = (
    *("-q", "-x", "-k", _FEW, "-W", "ignore"),
    *("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:anyio"),
)


def attempt(tree: Path, tests: Sequence[str], order: dict[str, int]) -> int:
    """Start the tests on what is in the tree; the process, whose log says which test failed."""

    def child() -> int:
        # Code compiled by `watch` is reused; that of a mutant must not be found by the next.
        sys.dont_write_bytecode = True
        inside = Inside(order)
        code = pytest.main(
            [*_OPTIONS, "--tb=line", f"--basetemp={tree}/tmp", *tests], plugins=[inside]
        )
        (tree / "killer").write_text(inside.failed)
        return int(code)

    (tree / "killer").write_text("")
    return fork(tree, child, tree / "attempt.log")


def fork(tree: Path, work: Any, log: Path) -> int:
    gc.freeze()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(tree)
        os.environ["PYTHONPATH"] = str(tree)
        sys.path.insert(0, str(tree))
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(pid: int, seconds: float) -> int | None:
    """The exit code; `None` for one that took too long and was ended with all it had started."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            _end(pid)
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    _end(pid)
    os.waitpid(pid, 0)
    return None


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
