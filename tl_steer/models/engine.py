"""Engines: who does many pieces of work, each on a model that its worker has loaded once.

    setup() -> work         once in every worker, and what loads the model
    work(item) -> result    as often as there are items

Without an engine that is this process, one item after the other; `models.cluster.Ray` has workers
elsewhere.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from tl_steer.errors import ForeignModelError
from tl_steer.models.fingerprint import Fingerprint, fingerprint, same_model
from tl_steer.models.load import Loader, loader_of
from tl_steer.models.model import HookedModel, model_name

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Outcome(Generic[Item, Result]):
    """What became of one item, which had the place `number` among them."""

    number: int
    item: Item
    result: Result | None = None
    error: Exception | None = None

    def get(self) -> Result:
        """The result; raises what the work raised."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # there is one where there is no error


@runtime_checkable
class Engine(Protocol):
    """What deals items to workers. `setup`, items and results travel between processes."""

    def map(
        self,
        setup: Callable[[], Callable[[Item], Result]],
        items: Iterable[Item],
        *,
        ordered: bool = False,
    ) -> Generator[Outcome[Item, Result], None, None]:
        """An outcome for every item: as they come, or in the items' own order. Where `setup` fails
        there is none, and what it raised is raised here."""
        ...


def dealt(
    engine: Engine | None,
    setup: Callable[[], Callable[[Item], Result]],
    items: Iterable[Item],
    *,
    ordered: bool = False,
) -> AbstractContextManager[Iterator[Outcome[Item, Result]]]:
    """The outcomes of an engine, or of this process where there is none; workers are gone behind
    the `with` block."""
    found = _here(setup, items) if engine is None else engine.map(setup, items, ordered=ordered)
    return closing(found)


def _here(
    setup: Callable[[], Callable[[Item], Result]], items: Iterable[Item]
) -> Generator[Outcome[Item, Result], None, None]:
    work = setup()
    for number, item in enumerate(items):
        try:
            outcome = Outcome(number, item, work(item))
        except Exception as error:
            outcome = Outcome(number, item, error=error)
        yield outcome


def setup_of(
    engine: Engine | None, model: HookedModel, make: Callable[[HookedModel], Callable[[Any], Any]]
) -> Callable[[], Callable[[Any], Any]]:
    """`make(model)`, of the model itself in this process, and of one that was loaded as it was in
    workers elsewhere.

    Raises:
        SettingError: the model did not come from `load_model`.
    """
    if engine is None:
        return partial(make, model)
    return partial(_elsewhere, loader_of(model), fingerprint(model), make)


def _elsewhere(
    loader: Loader, mark: Fingerprint, make: Callable[[HookedModel], Callable[[Any], Any]]
) -> Callable[[Any], Any]:
    model = loader()
    own = fingerprint(model)
    if own.dtype != mark.dtype or not same_model(own, mark):
        raise ForeignModelError(
            f"A worker's {model_name(model)} is not the model that was given: it has {own}, the "
            f"other {mark}. Workers load {loader}; what was changed in the model since then has to "
            "be saved, and loaded from there."
        )
    return make(model)
