"""One thread owns the model: jobs queue, each can be stopped, and Ctrl-C leaves nothing behind."""

import inspect
import itertools
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch
from asking import QUESTION, client_of, events, served
from conftest import PROMPTS, bank_of
from state import snapshot
from typer.testing import CliRunner

import tl_steer as ts
from tl_steer.cli import app
from tl_steer.serving.worker import MOST_WAITING, Busy, Worker

WAIT = 60  # seconds until a test gives up


class Told:
    """Events of a job, in their order."""

    def __init__(self):
        self.events = queue.Queue()

    def __call__(self, event):
        self.events.put(event)

    def rest(self):
        return list(iter(lambda: self.events.get(timeout=WAIT), None))


class Held:
    """Work that has begun, and goes on when it is let go: then it runs the model."""

    def __init__(self, model):
        self.model, self.begun, self.go = model, threading.Event(), threading.Event()

    def __call__(self, job):
        self.begun.set()
        assert self.go.wait(WAIT)
        with torch.no_grad():
            self.model(ts.tokenize(self.model, PROMPTS[:1]).ids)


@pytest.fixture
def worker(one):
    before = snapshot(one)
    made = Worker(one)
    made.start()
    yield made
    made.close()
    assert snapshot(one) == before


def test_jobs_run_in_the_order_in_which_they_came_and_know_how_many_are_ahead(one, worker):
    held, order, told = Held(one), [], [Told() for _ in range(4)]
    worker.submit(held, told[0])
    for i in (1, 2, 3):
        worker.submit(lambda job: order.append(job.number), told[i])
    held.go.set()
    said = [each.rest() for each in told]
    assert [each[0]["ahead"] for each in said] == [0, 1, 2, 3]
    assert [each[-1] for each in said] == [{"done": True}] * 4
    assert order == [2, 3, 4]


def test_one_that_runs_ends_in_front_of_the_next_block(one, worker):
    held, told = Held(one), Told()
    job = worker.submit(held, told)
    assert held.begun.wait(WAIT)
    assert worker.stop(job.number)
    held.go.set()
    assert told.rest()[-1] == {"stopped": True}
    assert not worker.stop(job.number)  # there is none any more


def test_one_that_waits_never_begins_once_it_is_stopped(one, worker):
    held, ran, told = Held(one), [], Told()
    worker.submit(held, Told())
    job = worker.submit(ran.append, told)
    worker.stop(job.number)
    held.go.set()
    assert told.rest()[-1] == {"stopped": True}
    assert ran == []


def test_what_fails_is_said_and_the_next_one_runs(worker):
    def broken(job):
        raise RuntimeError("out of memory")

    told = [Told(), Told()]
    worker.submit(broken, told[0])
    worker.submit(lambda job: job.tell({"fine": 1}), told[1])
    assert told[0].rest()[-1] == {"error": "RuntimeError: out of memory"}
    assert told[1].rest()[1:] == [{"fine": 1}, {"done": True}]


def test_only_so_many_may_wait(one, worker):
    held, told = Held(one), [Told() for _ in range(MOST_WAITING + 1)]
    for each in told:
        worker.submit(held, each)
    with pytest.raises(Busy):
        worker.submit(held, Told())
    held.go.set()
    assert all(each.rest()[-1] == {"done": True} for each in told)
    worker.submit(held, told[0])
    assert told[0].rest()[-1] == {"done": True}


def test_closing_stops_all_jobs_and_takes_no_others(one):
    before, made = snapshot(one), Worker(one)
    made.start()
    held, told = Held(one), [Told(), Told()]
    for each in told:
        made.submit(held, each)
    assert held.begun.wait(WAIT)
    assert snapshot(one) != before
    closing = threading.Thread(target=made.close)
    closing.start()
    while not made._closed:
        pass
    held.go.set()
    closing.join(WAIT)
    assert [each.rest()[-1] for each in told] == [{"stopped": True}] * 2
    assert snapshot(one) == before
    with pytest.raises(Busy):
        made.submit(held, Told())


def test_nobody_waits_for_a_worker_that_has_died(one):
    class Death(BaseException):
        pass

    def deadly(job):
        raise Death

    before, made, told = snapshot(one), Worker(one), [Told(), Told()]
    made.start()
    held = Held(one)
    made.submit(held, Told())
    for work, each in zip((deadly, held), told, strict=True):
        made.submit(work, each)
    held.go.set()
    assert [None not in each.rest() for each in told] == [True, True]
    made.close()
    assert snapshot(one) == before
    with pytest.raises(Busy):
        made.submit(held, Told())


# --- through the server


def lines(response):
    return (json.loads(line) for line in response.iter_lines())


def test_a_text_that_is_being_written_is_stopped_from_beside(one):
    with served(one) as (page, client), client_of(page) as other:
        with client.stream("POST", "api/steer", json=QUESTION | {"tokens": 50}) as answer:
            told = lines(answer)
            job = next(told)["job"]
            next(told)
            assert other.post("api/stop", json={"job": job}).json() == {"stopped": True}
            rest = list(told)
        assert rest[-1] == {"stopped": True}
        assert events(client)[-1] == {"done": True}


def test_when_the_browser_goes_away_its_job_ends(one):
    with served(one) as (page, client):
        worker = page._worker
        with client.stream("POST", "api/steer", json=QUESTION | {"tokens": 55}) as answer:
            job = worker._known[next(lines(answer))["job"]]
        assert job.stopped.wait(WAIT)
        assert events(client)[-1] == {"done": True}


def test_a_full_queue_says_so(one):
    with served(one) as (page, client):
        held = Held(one)
        told = [Told() for _ in range(MOST_WAITING + 1)]
        for each in told:
            page._worker.submit(held, each)
        answer = client.post("api/steer", json=QUESTION)
        assert answer.status_code == 503
        assert "busy" in answer.json()["error"]
        held.go.set()
        assert all(each.rest()[-1] == {"done": True} for each in told)


def test_stopping_the_page_ends_what_is_under_way_and_frees_the_port(one):
    before = snapshot(one)
    page = ts.serve(one, bank_of(one))
    with client_of(page) as client:
        with client.stream("POST", "api/steer", json=QUESTION | {"tokens": 55}) as answer:
            next(lines(answer))
            page.stop()
    assert snapshot(one) == before
    with socket.create_server(("127.0.0.1", page.port)):
        pass
    assert not [t for t in threading.enumerate() if t.name.startswith("tl-steer")]


@pytest.mark.parametrize("step", range(1, 13))
def test_ctrl_c_at_any_step_of_waiting_leaves_a_page_that_can_be_stopped(one, step):
    page = ts.serve(one, bank_of(one))
    steps = itertools.count(1)

    def interrupt(frame, *_):
        waiting = frame.f_code.co_filename in (threading.__file__, inspect.getfile(type(page)))
        if waiting and next(steps) == step:
            sys.settrace(None)
            raise KeyboardInterrupt
        return interrupt

    tracing = sys.gettrace()
    with pytest.raises(KeyboardInterrupt):
        sys.settrace(interrupt)
        try:
            page.wait()
        finally:
            sys.settrace(tracing)
    stopping = threading.Thread(target=page.stop, daemon=True)
    stopping.start()
    stopping.join(WAIT)
    assert not stopping.is_alive()


INTERRUPTED = """
    import sys
    from conftest import LLAMAS, bank_of, make
    from state import snapshot
    import tl_steer as ts

    model = make(LLAMAS[0])
    before, bank = snapshot(model), bank_of(model)
    try:
        with ts.serve(model, bank) as served:
            print(served.url, flush=True)
            served.wait()
    except KeyboardInterrupt:
        pass
    print(snapshot(model) == before, flush=True)
"""


def test_ctrl_c_while_the_model_speaks_leaves_nothing_behind():
    code = textwrap.dedent(INTERRUPTED)
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        url = run.stdout.readline().strip()
        port = int(url.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port)) as raw:
            body = json.dumps(QUESTION | {"tokens": 55})
            head = (
                f"POST {url.partition(str(port))[2]}api/steer HTTP/1.1\r\n"
                f"Host: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            raw.sendall(f"{head}{body}".encode())
            assert b"200 OK" in raw.recv(100)
            run.send_signal(signal.SIGINT)
            assert run.wait(WAIT) == 0
        assert run.stdout.read().strip() == "True"
        # No server whose socket was closed before it had ended.
        assert "Traceback" not in run.stderr.read()
    finally:
        run.kill()
        run.stdout.close()
        run.stderr.close()
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_the_command_serves_until_ctrl_c_and_keeps_notes_beside_the_bank(
    one, tmp_path, monkeypatch
):
    path, asked = bank_of(one).save(tmp_path / "house.safetensors"), []
    notes = {"1": {"flag": "benign", "label": "politer", "comment": ""}}

    def until_interrupted(page):
        with client_of(page) as client:
            asked.append(events(client)[-1])
            client.post("api/notes", json={"notes": notes})
        raise KeyboardInterrupt

    monkeypatch.setattr(ts.serving.Served, "wait", until_interrupted)
    monkeypatch.setattr(sys.modules["tl_steer.cli.serve"], "loaded", lambda *_: one)
    before = snapshot(one)
    done = CliRunner().invoke(app, ["serve", str(path)])
    assert done.exit_code == 0, done.output
    assert "Live at http://127.0.0.1:" in done.output
    assert asked == [{"done": True}]
    assert json.loads(Path(f"{path}.notes.json").read_text()) == notes
    assert snapshot(one) == before
