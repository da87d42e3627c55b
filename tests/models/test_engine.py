"""Engines without a cluster: a Ray of this test's own says when workers answer, and which die."""

import random
import sys
from types import SimpleNamespace

import pytest
import tiny_grid
import tiny_sweep

import tl_steer as ts
from tl_steer.errors import ForeignModelError, ModelError, SettingError, WorkerError
from tl_steer.models import Ray
from tl_steer.models.cluster import _Worker
from tl_steer.models.dealing import Dealer
from tl_steer.models.engine import dealt, setup_of


class Died(Exception):
    pass


class Refused(Exception):
    pass


class Cluster:
    """Workers that answer in an order that was drawn; to `slow`, when nothing else is asked."""

    exceptions = SimpleNamespace(
        RayActorError=Died,
        WorkerCrashedError=Died,
        NodeDiedError=Died,
        OutOfMemoryError=Died,
        RayError=Refused,
    )

    def __init__(self, do, *, begin=lambda: None, slow=None):
        self.do, self.begin, self.slow, self.draw = do, begin, slow, random.Random(1)
        self.asked, self.alive = {}, []

    def worker(self):
        own = SimpleNamespace()
        own.begin = SimpleNamespace(remote=lambda: self._ask(own, self.begin))
        own.do = SimpleNamespace(
            remote=lambda item: self._ask(own, lambda: (self.do(item), None), item)
        )
        self.alive.append(own)
        return own

    def _ask(self, worker, answer, item=None):
        ref = object()
        self.asked[ref] = worker, answer, item
        return ref

    def wait(self, refs, num_returns):
        quick = [r for r in refs if self.slow is None or self.asked[r][2] != self.slow]
        return [self.draw.choice(quick or refs)], []

    def get(self, ref):
        worker, answer, _ = self.asked.pop(ref)
        try:
            return answer()
        except Died:
            self.alive.remove(worker)
            raise

    def kill(self, worker):
        self.alive.remove(worker)


def outcomes(cluster, items, *, n=2, tries=3, ordered=False):
    return Dealer(cluster, cluster.worker, n, tries).outcomes(items, ordered=ordered)


def test_every_item_is_done_once_and_workers_are_gone_afterwards():
    cluster = Cluster(lambda item: item * 10)
    found = list(outcomes(cluster, range(9)))
    assert sorted((o.number, o.item, o.get()) for o in found) == [(i, i, 10 * i) for i in range(9)]
    assert cluster.alive == []


def test_outcomes_come_in_order_where_that_is_asked_and_items_are_not_read_far_ahead():
    read = []

    def items():
        for i in range(40):
            read.append(i)
            yield i

    done = []
    cluster = Cluster(done.append, slow=0)
    for outcome in outcomes(cluster, items(), ordered=True):
        assert outcome.number == outcome.item
        assert len(read) <= outcome.number + 8
    assert done[:8] == [1, 2, 3, 4, 5, 6, 7, 0]
    assert sorted(done) == list(range(40))


def test_workers_are_gone_when_nobody_wants_the_rest():
    cluster = Cluster(lambda item: item)
    engine = SimpleNamespace(map=lambda setup, items, ordered: outcomes(cluster, items))
    with dealt(engine, lambda: None, range(9)) as found:
        next(iter(found))
        assert cluster.alive
    assert cluster.alive == []


@pytest.mark.parametrize("ordered", [False, True])
def test_an_item_that_kills_whoever_does_it_is_given_up_after_so_many_tries(ordered):
    tried = []

    def do(item):
        tried.append(item)
        if item == 2:
            raise Died
        return item

    cluster = Cluster(do)
    found = {o.number: o for o in outcomes(cluster, range(6), ordered=ordered)}
    assert tried.count(2) == 3
    assert {i: o.result for i, o in found.items()} == {0: 0, 1: 1, 2: None, 3: 3, 4: 4, 5: 5}
    with pytest.raises(WorkerError, match="3 workers died while they were at it"):
        found[2].get()
    assert cluster.alive == []


def test_an_item_whose_worker_dies_once_is_done_by_another():
    deaths = iter([1])

    def do(item):
        if item == 1 and next(deaths, None):
            raise Died
        return item

    assert sorted(o.get() for o in outcomes(Cluster(do), range(4))) == [0, 1, 2, 3]


def test_workers_that_die_before_they_begin_end_it():
    def begin():
        raise Died("out of memory")

    cluster = Cluster(lambda item: item, begin=begin)
    with pytest.raises(WorkerError, match=r"3 workers died while they loaded.*out of memory"):
        list(outcomes(cluster, range(4)))
    assert cluster.alive == []


def test_what_a_workers_beginning_raises_is_raised_here_and_no_item_is_lost_to_it():
    cluster = Cluster(lambda item: item, begin=lambda: ModelError("no such model"))
    with pytest.raises(ModelError, match="no such model"):
        list(outcomes(cluster, range(4)))


def test_a_result_that_cannot_be_sent_is_an_error_of_its_item():
    def do(item):
        if item:
            raise Refused("a lock")
        return item

    first, second = sorted(outcomes(Cluster(do), range(2)), key=lambda o: o.number)
    assert first.get() == 0
    with pytest.raises(WorkerError, match="could not be sent: Refused: a lock"):
        second.get()


def test_errors_travel_as_what_they_are_and_foreign_ones_as_ours():
    def raising(error):
        def work(item):
            raise error

        worker = _Worker(lambda: work, 1)
        assert worker.begin() is None
        return worker.do(3)[1]

    assert type(raising(ModelError("a"))) is ModelError
    foreign = raising(LookupError("of the user's own"))
    assert isinstance(foreign, WorkerError)
    assert "LookupError: of the user's own" in str(foreign)


def test_without_an_engine_this_process_goes_on_behind_an_item_that_fails():
    def work(item):
        return 6 // item

    with dealt(None, lambda: work, [3, 0, 2]) as found:
        first, second, third = found
    assert (first.get(), third.get()) == (2, 3)
    with pytest.raises(ZeroDivisionError):
        second.get()


@pytest.fixture
def named(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tiny_grid.installed(tmp_path)))


def test_workers_load_the_model_that_was_given_and_refuse_another(named):
    model = ts.load_model("tiny-reading", dtype="float64")
    there = setup_of(Ray(), model, lambda loaded: lambda _: loaded)()(None)
    assert there is not model
    assert there.embed.equal(model.embed)
    assert there.embed.dtype == model.embed.dtype
    with pytest.raises(SettingError, match="Reading did not come from load_model"):
        setup_of(Ray(), tiny_sweep.Reading(), lambda loaded: loaded)
    model.blocks[0].matrix.data[0] += 1
    changed = setup_of(Ray(), model, lambda loaded: loaded)
    with pytest.raises(ForeignModelError, match="is not the model that was given"):
        changed()


def test_numbers_of_workers_that_cannot_be_are_refused():
    for wrong in ({"workers": 0}, {"cpus": 0}, {"gpus": -1}, {"gpus": 1.5}, {"tries": 0}):
        with pytest.raises(SettingError, match="workers and tries of at least 1"):
            Ray(**wrong)
    with pytest.raises(SettingError, match="wants 1 CPUs and 4 GPUs, and the cluster has 8 and 2"):
        Ray(gpus=4)._room(SimpleNamespace(cluster_resources=lambda: {"CPU": 8.0, "GPU": 2.0}))
    room = SimpleNamespace(cluster_resources=lambda: {"CPU": 8.0, "GPU": 2.0})
    assert [Ray()._room(room), Ray(gpus=0.5)._room(room), Ray(workers=3)._room(room)] == [8, 4, 3]


def test_without_ray_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingError, match=r'pip install "tl_steer\[ray\]"'):
        list(Ray().map(lambda: abs, [1]))
