"""A judge behind a local endpoint that answers, misbehaves or is not there."""

import base64
import copy
import dataclasses
import json
import logging
import pickle
import socketserver
import threading
import traceback
from pathlib import Path

import pytest

import tl_steer as ts
from tl_steer.errors import JudgeError, SettingError, SteerError, SweepFileError
from tl_steer.sweeps import endpoint as judging
from tl_steer.sweeps.folder import refuse_other
from tl_steer.sweeps.secrets import described, without_key

SECRET = "sk-SECRET-0123456789abcdef"


def http(status, body=b"", *headers):
    """A whole answer, as bytes."""
    body = body if isinstance(body, bytes) else body.encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def says(content):
    return http(200, json.dumps({"choices": [{"message": {"content": content}}]}))


class Server(socketserver.ThreadingTCPServer):
    """Gives one reply to every connection: bytes, or a function of what sends them."""

    allow_reuse_address = daemon_threads = True

    def __init__(self):
        self.replies, self.asked, self.usual = [], [], says("yes")
        self.stopped, self.gone = threading.Event(), threading.Event()
        super().__init__(("127.0.0.1", 0), Exchange)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Exchange(socketserver.StreamRequestHandler):
    def handle(self):
        head = []
        while (line := self.rfile.readline().decode().strip()) != "":
            head.append(line)
        headers = dict(line.split(": ", 1) for line in head[1:])
        body = self.rfile.read(int(headers.get("Content-Length", 0)))
        self.server.asked.append((head[0], headers, body))
        reply = self.server.replies.pop(0) if self.server.replies else self.server.usual
        try:
            reply(self.send) if callable(reply) else self.send(reply)
        except OSError:
            self.server.gone.set()  # the client has had enough

    def send(self, data):
        self.wfile.write(data)


@pytest.fixture
def server():
    own = Server()
    thread = threading.Thread(target=own.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield own
    own.stopped.set()
    own.shutdown()
    own.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("A_KEY", SECRET)


def judge_at(url, **knobs):
    given = {"pause": 0, "key": "A_KEY"} | knobs
    return ts.sweeps.judged("Is it rude?", model="small", base_url=url, **given)


def told(judge):
    """All that a log or a report could show of a failure."""
    with pytest.raises(JudgeError) as caught:
        judge("a", "b")
    assert caught.value.__context__ is None, "an exception in the background keeps what was sent"
    return "".join(traceback.format_exception(caught.value)) + repr(caught.value)


# --- answers ------------------------------------------------------------------------------------


def test_a_judge_is_asked_and_its_word_counts(server):
    judge = judge_at(server.url)
    server.replies[:] = [says("Yes."), says("no"), says("**YES**")]
    assert [judge("hello", "go away") for _ in range(3)] == [1.0, 0.0, 1.0]
    line, headers, body = server.asked[0]
    assert line == "POST /v1/chat/completions HTTP/1.1"
    assert headers["Authorization"] == f"Bearer {SECRET}"
    asked = json.loads(body)
    assert asked["model"] == "small"
    assert all(
        text in asked["messages"][1]["content"] for text in ("Is it rude?", "hello", "go away")
    )


def test_a_judge_without_a_key_sends_none(server, monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    judge_at(server.url, key="NO_KEY")("a", "b")
    assert "Authorization" not in server.asked[-1][1]


@pytest.mark.parametrize("said", ["maybe", "", "nobody knows", "yesterday"])
def test_a_judge_that_says_neither_is_an_error(server, said):
    server.usual = says(said)
    assert "expected yes or no" in told(judge_at(server.url))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"\xff\xfe",
        b"[" * 100_000,
        b"9" * 5000,
        b"[]",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": null}}]}',
        b'{"choices": [{"message": {"content": ["yes"]}}]}',
    ],
)
def test_whatever_is_no_completion_is_one_kind_of_error(server, body):
    server.usual = http(200, body)
    assert "not a chat completion" in told(judge_at(server.url))


# --- who does not answer --------------------------------------------------------------------------


def no_bytes(send):
    raise OSError("closed at once")


@pytest.mark.parametrize(
    "broken",
    [
        http(503, "busy"),
        http(429, "slow down", "Retry-After: 0"),
        no_bytes,
        b"HTTP/1.1 200 X\r\nContent-Le",
        b"no status line\r\n\r\n",
        http(200, "0" * 50)[:-20],
    ],
    ids=["busy", "too many", "dropped", "half a head", "bad status line", "short body"],
)
def test_a_busy_or_broken_connection_is_tried_again_and_in_the_end_told(server, broken):
    server.replies[:] = [broken, broken, says("yes")]
    assert judge_at(server.url)("a", "b") == 1.0
    assert len(server.asked) == 3
    server.replies[:] = [broken] * 2
    told(judge_at(server.url, tries=2))
    assert len(server.asked) == 5


def test_a_refusal_is_not_tried_again(server):
    server.usual = http(401, "who are you?")
    assert "401: who are you" in told(judge_at(server.url))
    assert len(server.asked) == 1


def test_nobody_there_is_an_error_that_names_the_endpoint():
    assert "127.0.0.1:9" in told(judge_at("http://127.0.0.1:9/v1", tries=1))


def test_a_name_that_no_resolver_takes_is_an_error():
    told(judge_at(f"http://{'a' * 70}.invalid/v1", tries=1))


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 X\r\nA: ", http(200, " " * 10**6)[:60]])
def test_an_endpoint_that_sends_a_byte_now_and_then_gets_no_more_than_the_time_in_all(
    server, start
):
    def drip(send):  # in the head, and in the body: for ever
        send(start)
        while not server.stopped.wait(0.01):
            send(b" ")

    server.usual = drip
    assert "no whole answer within 0.2 s" in told(judge_at(server.url, timeout=0.2))
    assert server.gone.wait(30), "the connection is closed, not left to a thread"
    assert len(server.asked) == 1


def test_an_answer_without_end_is_cut_off(server):
    def pour(send):
        send(b"HTTP/1.1 200 X\r\n\r\n")
        while not server.stopped.is_set():
            send(b" " * 2**16)

    server.usual = pour
    assert "more than 1024 KiB" in told(judge_at(server.url))
    assert server.gone.wait(30)


def test_a_packed_answer_is_not_unpacked(server):
    import gzip

    bomb = gzip.compress(b" " * 10**7)
    server.usual = http(200, bomb, "Content-Encoding: gzip")
    assert "not a chat completion" in told(judge_at(server.url))
    assert server.asked[0][1]["Accept-Encoding"] == "identity"


def test_the_time_that_an_endpoint_asks_for_is_waited_if_there_is_as_much(server, monkeypatch):
    slept = []
    monkeypatch.setattr(judging.time, "sleep", slept.append)
    server.replies[:] = [http(429, "", "Retry-After: 7"), http(503, ""), says("no")]
    assert judge_at(server.url, pause=0.5)("a", "b") == 0.0
    assert slept == [7.0, 1.0]
    for asks in ("3600", "Fri, 31 Dec 9999 23:59:59 GMT", "9" * 5000):
        server.replies[:] = [http(429, "", f"Retry-After: {asks}")]
        assert "429 (and to wait" in told(judge_at(server.url))
    server.replies[:] = [http(429, "", "Retry-After: soon")]
    assert judge_at(server.url)("a", "b") == 1.0
    assert slept == [7.0, 1.0, 0.0]


def test_an_endpoint_that_failed_on_three_texts_is_left_alone_for_a_while(server, monkeypatch):
    server.usual = http(503, "down")
    judge = judge_at(server.url, tries=2)
    for _ in range(3):
        assert "503: down" in told(judge)
    assert len(server.asked) == 6
    for _ in range(100):
        assert "not asked" in told(judge)
        assert "503: down" in told(judge)
    assert len(server.asked) == 6
    monkeypatch.setattr(judging, "_REST", 0.0)  # the while is over
    assert "503: down" in told(judge)
    assert len(server.asked) == 7, "and it gets one try"
    server.usual = says("yes")
    assert judge("a", "b") == 1.0
    server.replies[:] = [http(503, "down")] * 2
    told(judge)
    assert judge("a", "b") == 1.0, "a text that was answered ends the row"


def test_texts_that_an_endpoint_refuses_do_not_make_it_ill(server):
    judge = judge_at(server.url)
    server.replies[:] = [http(400, "content filter")] * 9
    assert all("400" in told(judge) for _ in range(9))
    assert judge("a", "b") == 1.0


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_goes_nowhere_else(server, status):
    other = Server()
    thread = threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        server.usual = http(status, "", f"Location: {other.url}/steal")
        assert "Redirects are not followed" in told(judge_at(server.url))
        assert (len(server.asked), other.asked) == (1, [])
    finally:
        other.shutdown()
        other.server_close()
        thread.join()


def test_proxies_of_the_environment_do_not_get_it(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    assert judge_at(server.url)("a", "b") == 1.0


ECHOES = {
    "as it is": SECRET,
    "in a header": f"Authorization: Bearer {SECRET}",
    "at the cut": "x" * 190 + SECRET,
    "cut off": f"key {SECRET[:-6]}",
    "its end": SECRET[8:],
    "capitals": SECRET.upper(),
    "base64": base64.b64encode(f"user:{SECRET}".encode()).decode(),
    "hexadecimal": SECRET.encode().hex(),
    "percents": "".join(f"%{ord(c):02X}" for c in SECRET),
    "escapes": json.dumps("".join(f"\\u{ord(c):04x}" for c in SECRET)).replace("\\\\", "\\"),
    "entities": "".join(f"&#{ord(c)};" for c in SECRET),
    "spaced": " ".join(SECRET),
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
@pytest.mark.parametrize(
    "where", ["error", "busy", "answer", "no completion", "line", "reason", "head"]
)
def test_an_endpoint_that_repeats_the_key_does_not_get_it_into_an_error(
    server, caplog, echo, where
):
    server.usual = {
        "error": http(401, echo),
        "busy": http(503, echo),
        "answer": says(echo),
        "no completion": http(200, echo),
        "line": f"{echo} 200\r\n\r\n".encode(),
        "reason": f"HTTP/1.1 401 {echo}\r\n\r\n".encode(),
        "head": http(401, "", f"X-Echo: {echo}"),
    }[where]
    with caplog.at_level(logging.DEBUG):
        shown = told(judge_at(server.url, tries=1)) + caplog.text
    bare = "".join(c for c in shown.lower() if c.isalnum())
    encoded = base64.b64encode(f"user:{SECRET}".encode()).decode().lower()[8:24]
    for piece in ("secret0123", "456789abcdef", SECRET.encode().hex()[:16], encoded, "2d534543"):
        assert piece not in bare
    assert "%53%45%43" not in shown
    assert "&#83;" not in shown


def test_what_an_endpoint_says_cannot_move_the_cursor_and_other_words_stay(server):
    server.usual = http(401, f"no \x1b]0;evil\x07 {SECRET} today")
    assert r"no \x1b]0;evil\x07 [key] today" in told(judge_at(server.url))
    assert without_key("a plain text", SECRET) == "a plain text"
    assert without_key("a plain text", "") == "a plain text"


def test_a_judge_shows_and_keeps_no_key(server):
    judge = judge_at(server.url)
    judge("a", "b")
    shown = [repr(judge), described(judge), repr(pickle.dumps(judge)), repr(vars(judge.function))]
    assert not any(SECRET in text for text in shown)
    assert copy.deepcopy(judge)("a", "b") == pickle.loads(pickle.dumps(judge))("a", "b") == 1.0


def test_a_judge_is_described_as_older_versions_described_it():
    """Sweeps that they began go on."""
    assert described(judge_at("http://localhost/v1/", pause=1.0)) == (
        "Scorer(name='judged', function=_Asks(question='Is it rude?', model='small', "
        "base_url='http://localhost/v1', key='A_KEY', timeout=60, tries=4, pause=1.0), workers=4)"
    )


@pytest.mark.parametrize(
    "given",
    [
        {"base_url": "localhost"},
        {"base_url": "file:///etc/passwd"},
        {"base_url": "ftp://hunter2@host/v1"},
        {"base_url": "http://user:hunter2@host/v1"},
        {"base_url": "https://hunter2@host/v1"},
        {"base_url": "https://host/v1?token=hunter2"},
        {"base_url": "https://host/v1#hunter2"},
        {"base_url": "http://[hunter2/v1"},
        {"base_url": "http://host:hunter2/v1"},
        {"key": "sk-hunter2-0123"},
        {"key": "gsk_hunter2"},
        {"key": "HUNTER2HUNTER2HUNTER"},
        {"key": ""},
        {"tries": 0},
        {"timeout": float("nan")},
        {"pause": -1},
    ],
)
def test_what_cannot_be_or_is_a_secret_is_refused_and_not_repeated(given):
    usual = {"model": "m", "base_url": "http://localhost/v1"}
    with pytest.raises(SettingError) as caught:
        ts.sweeps.judged("?", **(usual | given))
    assert "hunter2" not in "".join(traceback.format_exception(caught.value)).lower()


@pytest.mark.parametrize("key", ["two\nlines", "caf\xe9", "nul\x1b"])
def test_a_key_that_no_header_can_carry_is_refused_without_it(server, monkeypatch, key):
    monkeypatch.setenv("A_KEY", key)
    assert key not in told(judge_at(server.url))
    assert server.asked == []


def test_a_key_may_end_in_a_new_line_as_files_do(server, monkeypatch):
    monkeypatch.setenv("A_KEY", f"{SECRET}\n")
    judge_at(server.url)("a", "b")
    assert server.asked[0][1]["Authorization"] == f"Bearer {SECRET}"


@dataclasses.dataclass(frozen=True)
class Own:
    """A scorer as a user writes it."""

    where: str
    api_key: str
    kept: str = dataclasses.field(default="", repr=False)

    def __call__(self, prompt, text):
        return 1


def test_settings_that_are_secret_are_not_described():
    own = ts.sweeps.Scorer("own", Own("https://me:hunter2@host", "hunter2", "hunter2"))
    text = described(own)
    assert "hunter2" not in text
    assert "host" in text


def test_a_sweep_that_was_begun_with_a_secret_goes_on_and_does_not_show_it():
    own = Own("https://me:hunter2@host", "hunter2")
    old = {"metrics": {"own": f"Own(where={own.where!r}, api_key={own.api_key!r})"}}
    refuse_other(Path("s"), old, {"metrics": {"own": described(own)}})
    with pytest.raises(SweepFileError) as caught:
        refuse_other(Path("s"), old, {"metrics": {"other": "x"}})
    assert "hunter2" not in str(caught.value)


def test_a_key_that_an_older_version_kept_is_not_shown_and_other_keys_are_settings():
    old = "Scorer(name='judged', function=_Asks(question='?', key='sk-hunter2', timeout=60))"
    with pytest.raises(SweepFileError) as caught:
        refuse_other(Path("s"), {"metrics": old}, {"metrics": old.replace("sk-hunter2", "A_KEY")})
    assert "hunter2" not in str(caught.value)
    with pytest.raises(SweepFileError, match="another sweep"):
        refuse_other(Path("s"), {"metrics": "Own(key='a')"}, {"metrics": "Own(key='b')"})


def test_errors_of_a_judge_can_be_caught_as_those_of_the_house():
    assert issubclass(JudgeError, (SteerError, ConnectionError, ValueError))
