"""Ray: workers on a cluster, or several on this machine, each with a model of its own.

Work is dealt out one item at a time, so that whoever is quick does more. What a worker was at when
it died is begun again by another.
"""

import logging
import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from tl_steer.errors import SettingError, SteerError, WorkerError
from tl_steer.files.optional import imported
from tl_steer.files.signatures import typed_fields
from tl_steer.files.text import said
from tl_steer.models.dealing import Dealer
from tl_steer.models.engine import Item, Outcome, Result


@typed_fields
@dataclass(frozen=True)
class Ray:
    """An engine with workers of a Ray cluster: `sweep(..., engine=Ray(workers=8, gpus=0.5))`.

    Every worker loads the model once. Results are those of one process, bit for bit where that has
    as many threads as a worker (`cpus`) and the same kind of machine.

    Args:
        workers: how many; never more than the cluster's CPUs and GPUs hold, and as many as they
            hold unless given.
        cpus: of each worker, and its torch threads.
        gpus: of each worker; 0.25 puts four on one card. Ray counts cards and not their memory:
            four models and what they work on have to fit there.
        address: of a cluster, as Ray has it ("auto", "ray://head:10001"); without one, workers on
            this machine, gone afterwards. Where this process is connected already (`ray.init`),
            that cluster is used. Every machine of a cluster needs tl_steer and the model.
        tries: how often an item is begun at most, where workers die while they are at it.

    Raises:
        SettingError: numbers that cannot be.

    Not worth its start (some seconds, and the loading of the model) for what takes one process a
    minute; nor for more workers than the machine has cores.
    """

    workers: int | None = None
    cpus: float | int = 1
    gpus: float | int = 0
    address: str | None = None
    tries: int = 3

    def __post_init__(self) -> None:
        few = self.tries < 1 or (self.workers is not None and self.workers < 1)
        parted = any(n > 1 and n % 1 for n in (self.cpus, self.gpus))
        if few or parted or not 0 < self.cpus < math.inf or not 0 <= self.gpus < math.inf:
            raise SettingError(
                f"Ray(workers={self.workers}, cpus={self.cpus}, gpus={self.gpus}, "
                f"tries={self.tries}): expected workers and tries of at least 1, cpus above 0 and "
                "gpus of 0 or more, in whole numbers where they are above 1."
            )

    def map(
        self,
        setup: Callable[[], Callable[[Item], Result]],
        items: Iterable[Item],
        *,
        ordered: bool = False,
    ) -> Generator[Outcome[Item, Result], None, None]:
        """An outcome for every item: as they come, or in the items' own order.

        Raises:
            SettingError: Ray is not installed, or the cluster has no room for one worker.
            WorkerError: there is no such cluster, or workers die before they begin.
        """
        ray = imported("ray", install='"tl_steer[ray]"')
        with _connected(ray, self):
            n = self._room(ray)
            if isinstance(items, Sized):
                n = min(n, len(items))
            try:
                start = _starting(ray, self, setup)
            except Exception as error:  # whatever cannot be sent
                raise WorkerError(
                    f"What workers need cannot be sent to them: {said(error, most=300)}. Functions "
                    "of your own must not hold a model, a lock or an open file."
                ) from error
            yield from Dealer(ray, start, n, self.tries).outcomes(items, ordered=ordered)

    def _room(self, ray: Any) -> int:
        there = ray.cluster_resources()
        cpus, gpus = there.get("CPU", 0.0), there.get("GPU", 0.0)
        each = min(cpus / self.cpus, gpus / self.gpus if self.gpus else math.inf)
        holds = int(each + 1e-6)
        if not holds:
            raise SettingError(
                f"A worker wants {self.cpus:g} CPUs and {self.gpus:g} GPUs, and the cluster has "
                f"{cpus:g} and {gpus:g}. Ask for less, or name another cluster by address=."
            )
        return holds if self.workers is None else min(self.workers, holds)


class _Worker:
    """What runs elsewhere. Errors come back as values: not all can be sent."""

    def __init__(self, setup: Callable[[], Callable[[Any], Any]], threads: int) -> None:
        self.setup, self.threads = setup, threads
        self.work: Callable[[Any], Any] | None = None

    def begin(self) -> Exception | None:
        torch.set_num_threads(self.threads)
        try:
            self.work = self.setup()
        except Exception as error:
            return _portable(error)
        return None

    def do(self, item: Any) -> tuple[Any, Exception | None]:
        assert self.work is not None
        try:
            return self.work(item), None
        except Exception as error:
            return None, _portable(error)


def _portable(error: Exception) -> Exception:
    """An error as another process can have it."""
    if type(error).__module__ == SteerError.__module__:
        return type(error)(str(error))
    return WorkerError(f"In a worker: {said(error, most=500)}")


def _starting(ray: Any, how: Ray, setup: Callable[[], Any]) -> Callable[[], Any]:
    """What starts a worker; what all of them get is sent once."""
    kind = ray.remote(num_cpus=how.cpus, num_gpus=how.gpus, max_restarts=0)(_Worker)
    given = ray.put(setup)
    return lambda: kind.remote(given, max(1, int(how.cpus)))


@contextmanager
def _connected(ray: Any, how: Ray) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    local: dict[str, Any] = {"include_dashboard": False}
    if how.workers is not None:
        local["num_cpus"] = math.ceil(how.workers * how.cpus)
    # Neither a word about who uses it to its makers, nor workers' chatter among our lines.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(
            address=how.address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if how.address else local),
        )
    except Exception as error:
        raise WorkerError(
            f"No connection to a cluster at {how.address or 'this machine'}: "
            f"{said(error, most=300)}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
