"""Who gets into a live page, and who does not; what is sent to it is hostile."""

import asyncio
import importlib.util
import json
import logging
import socket
import sys
import types

import httpx
import pytest
from asking import QUESTION, events, part, served
from conftest import bank_of
from starlette.testclient import TestClient

import tl_steer as ts
from tl_steer.serving.app import MOST_BYTES
from tl_steer.serving.asked import asked_of
from tl_steer.serving.guard import guarded

SECRET = "a-secret-of-some-length"


async def inner(scope, receive, send):
    body = scope["path"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def guard(*, colab=False, host="127.0.0.1:8765"):
    return TestClient(guarded(inner, SECRET, colab=colab), base_url=f"http://{host}")


def test_who_has_the_secret_gets_in_and_the_rest_of_the_path_is_what_is_asked():
    assert guard().get(f"/{SECRET}/").text == "/"
    assert guard().get(f"/{SECRET}/api/steer").text == "/api/steer"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "//",
        f"/{SECRET}",
        f"/{SECRET[:-1]}/",
        f"/{SECRET}x/",
        f"/{SECRET.upper()}/",
        f"//{SECRET}/",
        f"/x/{SECRET}/",
        f"/%00{SECRET}/",
        f"/?{SECRET}",
        "/\u00e9\u4e00/",
        "/favicon.ico",
    ],
)
def test_without_the_secret_nothing_is_said(path):
    answer = guard().get(path)
    assert (answer.status_code, answer.text) == (404, "")


def test_the_secret_is_compared_in_constant_time(monkeypatch):
    compared = []

    def compare(a, b):
        compared.append((a, b))
        return a == b

    monkeypatch.setattr("tl_steer.serving.guard.secrets.compare_digest", compare)
    guard().get("/guess/")
    assert compared == [(b"guess", SECRET.encode())]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8765", 200),
        ("localhost:9000", 200),  # a forwarded port
        ("LOCALHOST", 200),
        ("evil.example", 421),  # a name that was made to lead here
        ("127.0.0.1.evil.example:8765", 421),
        ("localhost.evil.example", 421),
        ("evil@127.0.0.1", 421),
        ("127.0.0.1:8765, evil.example", 421),
        ("0.0.0.0:8765", 421),
        ("a.googleusercontent.com", 421),
        ("", 421),
    ],
)
def test_only_names_of_this_machine_are_answered(host, status):
    assert guard().get(f"/{SECRET}/", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8765", 200),
        (None, 403),
        ("null", 403),  # a sandboxed frame, a file
        ("http://127.0.0.1:3000", 403),  # another server of this machine
        ("http://localhost:8765", 403),
        ("https://127.0.0.1:8765", 403),
        ("http://evil.example", 403),
        ("http://127.0.0.1:8765.evil.example", 403),
        ("https://x-colab.googleusercontent.com", 403),
    ],
)
def test_only_our_own_page_may_send(origin, status):
    headers = {} if origin is None else {"origin": origin}
    assert guard().post(f"/{SECRET}/api/steer", headers=headers).status_code == status
    if origin is not None:
        assert guard().get(f"/{SECRET}/", headers=headers).status_code == status


def test_two_hosts_or_two_origins_are_none():
    for twice in ("host", "origin"):
        own = [("host", "127.0.0.1:8765"), ("origin", "http://127.0.0.1:8765")]
        headers = [(n.encode(), v.encode()) for n, v in [*own, *(p for p in own if p[0] == twice)]]
        scope = {"type": "http", "method": "POST", "path": f"/{SECRET}/", "headers": headers}
        told = []

        async def send(message, told=told):
            told.append(message)

        asyncio.run(guarded(inner, SECRET, colab=False)(scope, None, send))
        assert told[0]["status"] == 400


def test_no_websocket_is_opened():
    told = []

    async def send(message):
        told.append(message)

    scope = {"type": "websocket", "path": f"/{SECRET}/", "headers": []}
    asyncio.run(guarded(inner, SECRET, colab=False)(scope, None, send))
    assert told == []


@pytest.mark.parametrize("path", [f"/{SECRET}/", "/nothing/"])
def test_whatever_is_answered_is_neither_kept_nor_framed_nor_told_on(path):
    headers = guard().get(path).headers
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"] == "frame-ancestors 'none'"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


def test_names_of_colabs_proxy_are_taken_in_colab_alone():
    host = "8000-gpu-t4-s-1.us-central1.prod.colab.dev"
    frames = guard(colab=True, host=host).get(f"/{SECRET}/")
    assert frames.status_code == 200
    assert "https://colab.research.google.com" in frames.headers["content-security-policy"]
    assert "x-frame-options" not in frames.headers
    for asked_by in (host, "localhost:8000"):
        sent = guard(colab=True, host=asked_by).post(
            f"/{SECRET}/api/x", headers={"origin": f"https://{host}"}
        )
        assert sent.status_code == 200
    evil = ("colab.dev.evil.example", "x.colab.dev.evil.example", "evilcolab.dev", f"{host}x")
    for name in evil:
        assert guard(colab=True, host=name).get(f"/{SECRET}/").status_code == 421
        sent = guard(colab=True, host=host).post(
            f"/{SECRET}/api/x", headers={"origin": f"https://{name}"}
        )
        assert sent.status_code == 403
    assert guard(host=host).get(f"/{SECRET}/").status_code == 421


def test_in_colab_the_page_is_shown_through_the_kernels_port(one, monkeypatch):
    shown = []
    stand_in = types.SimpleNamespace(
        output=types.SimpleNamespace(
            serve_kernel_port_as_iframe=lambda port, **how: shown.append((port, how))
        )
    )
    monkeypatch.setitem(sys.modules, "google.colab", stand_in)
    with ts.serve(one, bank_of(one), open=True) as page:
        (told,) = shown
        assert told[0] == page.port
        assert page.url.endswith(told[1]["path"])
        proxied = {"host": "1-colab.googleusercontent.com"}
        assert httpx.get(page.url, headers=proxied).status_code == 200


def test_elsewhere_the_browser_is_opened(one, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    with ts.serve(one, bank_of(one), open=True) as page:
        assert opened == [page.url]


# --- the server itself


def test_only_this_machine_can_connect_and_every_page_has_a_secret_of_its_own(one):
    with ts.serve(one, bank_of(one)) as page:
        assert page._socket.getsockname()[0] == "127.0.0.1"
        first = page.url
    with ts.serve(one, bank_of(one)) as page:
        assert first.split("/")[3] != page.url.split("/")[3]
        assert len(page.url.split("/")[3]) >= 32


def test_the_secret_is_in_no_log_and_on_no_screen_whatever_comes(one, caplog, capfd, tmp_path):
    caplog.set_level(1)
    for name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi", "asyncio"):
        caplog.set_level(1, name)
    with served(one, notes=tmp_path / "notes.json") as (page, client):
        secret = page.url.split("/")[3]
        client.get("")
        events(client)
        client.post("api/notes", json={"notes": {"1": {"flag": "", "label": "", "comment": ""}}})
        client.post("api/steer", content=b"{")
        httpx.get(page.url + "nothing")
        with socket.create_connection(("127.0.0.1", page.port)) as raw:
            raw.sendall(f"GET /{secret}/ NONSENSE\r\n\r\n".encode())
            raw.recv(1000)
        said = [client.get("").text, repr(page)]
    out = capfd.readouterr()
    files = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    # What the client of this test logs of itself is not the server's.
    own = [r for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))]
    logged = [logging.Formatter().format(record) for record in own]
    assert any("Invalid HTTP" in text for text in logged)
    for text in (*logged, out.out, out.err, *said, *files):
        assert secret not in text


def test_the_page_keeps_its_policy_and_may_talk_to_its_server_alone(one):
    with served(one) as (_, client):
        page = client.get("").text
    policy = page.partition('Content-Security-Policy" content="')[2].partition('"')[0]
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert parts["default-src"] == "'none'"
    assert parts["connect-src"] == "'self'"
    assert "unsafe" not in policy
    assert "connect-src" not in ts.report(bank_of(one)).html()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"\xff\xfe", 400),
        (b"[" * 5000, 400),
        (b'{"prompt": "x", "prompt": "y"}', 400),
        (b"9" * 5000, 400),
        (b" " * (MOST_BYTES + 1), 413),
    ],
)
def test_bodies_that_are_no_question_are_refused_in_a_sentence(one, body, status):
    with served(one) as (_, client):
        json_type = {"content-type": "application/json"}
        answer = client.post("api/steer", content=body, headers=json_type)
        assert answer.status_code == status
        assert answer.json()["error"].endswith(".")
        assert events(client)[-1] == {"done": True}


def test_a_form_of_another_site_is_no_question(one):
    with served(one) as (_, client):
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            answer = client.post(
                "api/steer", content=json.dumps(QUESTION), headers={"content-type": kind}
            )
            assert answer.status_code == 415
        assert client.get("api/steer").status_code == 405
        assert client.post("", json={}).status_code == 405
        assert client.post("api/nothing", json={}).status_code == 404


WRONG = [
    {"prompt": ""},
    {"prompt": 3},
    {"prompt": "x" * 20_001},
    {"prompt": ["x"]},
    {"chat": 1},
    {"chat": None},
    {"tokens": 0},
    {"tokens": 513},
    {"tokens": 4.0},
    {"tokens": True},
    {"tokens": "4"},
    {"temperature": 0},
    {"temperature": -1.0},
    {"temperature": float("nan")},
    {"temperature": float("inf")},
    {"temperature": 11},
    {"seed": -1},
    {"seed": 2**63},
    {"mix": {}},
    {"mix": None},
    {"mix": [part(0)] * 9},
    {"mix": [part(0, float("nan"))]},
    {"mix": [part(0, float("-inf"))]},
    {"mix": [part(0, 101.0)]},
    {"mix": [part(-1)]},
    {"mix": [part(0.5)]},
    {"mix": [{"number": 0, "strength": 1.0}]},
    {"mix": [part(0) | {"more": 1}]},
    {"mix": [part(0) | {"random": "yes"}]},
    {"more": 1},
]


@pytest.mark.parametrize("change", WRONG, ids=str)
def test_questions_out_of_bounds_are_refused(change):
    with pytest.raises(ValueError, match=r"\w"):
        asked_of(QUESTION | change)


def test_questions_within_bounds_are_read_as_they_are():
    found = asked_of(QUESTION | {"temperature": 1, "mix": [part(3, -2), part(1, random=True)]})
    assert found.prompt == QUESTION["prompt"]
    assert (found.temperature, found.tokens, found.seed, found.chat) == (1.0, 4, 0, False)
    assert [(p.number, p.strength, p.random) for p in found.mix] == [
        (3, -2.0, False),
        (1, 1.0, True),
    ]
    assert asked_of(QUESTION).temperature is None


def test_numbers_that_json_has_no_word_for_are_refused_as_they_come(one):
    with served(one) as (_, client):
        for odd in ("NaN", "Infinity", "-Infinity", "1e999"):
            body = json.dumps(QUESTION).replace('"strength": 1.0', f'"strength": {odd}')
            answer = client.post(
                "api/steer", content=body, headers={"content-type": "application/json"}
            )
            assert answer.status_code == 400


def test_without_its_packages_the_answer_says_what_to_install(one, monkeypatch):
    assert importlib.util.find_spec("uvicorn") is not None
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ts.errors.SettingError, match=r'pip install "tl_steer\[serve\]"'):
        ts.serve(one, bank_of(one))
