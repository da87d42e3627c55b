"""A page that is served, and what it is asked, for tests."""

import contextlib
import json
from typing import Any

import httpx
from conftest import bank_of

import tl_steer as ts

QUESTION: dict[str, Any] = {
    "prompt": "t5 t9 t30",
    "chat": False,
    "mix": [{"number": 0, "random": False, "strength": 1.0}],
    "tokens": 4,
    "temperature": None,
    "seed": 0,
}


def part(number, strength=1.0, *, random=False):
    return {"number": number, "random": random, "strength": strength}


@contextlib.contextmanager
def served(model, **how):
    """A server, and a client that has its address."""
    with ts.serve(model, bank_of(model), **how) as page, client_of(page) as client:
        yield page, client


def client_of(page):
    origin = {"origin": f"http://127.0.0.1:{page.port}"}
    return httpx.Client(base_url=page.url, headers=origin, timeout=60)


def events(client, name="steer", **asked):
    """All that is said of a question."""
    answer = client.post(f"api/{name}", json=QUESTION | asked)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]
