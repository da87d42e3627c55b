"""Banks in folders and on the Hub, with cards that say what is known and do nothing."""

import dataclasses
import re

import huggingface_hub
import huggingface_hub.constants
import pytest
import torch
import yaml
from conftest import LLAMAS, PROMPTS, bank_of, make
from markdown_it import MarkdownIt
from stub_hub import GOOD, hub as hub

import tl_steer as ts
from tl_steer.banks.card import card_of, quoted
from tl_steer.errors import BankFileError, SettingError, WriteError

HOSTILE = (
    "<script>alert(1)</script> | a | [x](http://evil.example) ![i](http://evil.example/p.png) "
    "`code` **b** _i_ ~~s~~ \\| \\ &amp; www.evil.example a@b.example # h <!-- x --> $$x$$ 1. 2)"
)


@pytest.fixture
def bank():
    return bank_of(make(LLAMAS[0]))


def same(a, b):
    for name in ("vectors", "responses", "objective"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0)
    assert (a.labels, a.provenance, a.positions) == (b.labels, b.provenance, b.positions)


def nodes(card):
    """What a reader of Markdown makes of a card, front matter aside."""
    parser = MarkdownIt("gfm-like").disable(["linkify"])
    found = []
    for token in parser.parse(card.split("---\n", 2)[2]):
        found += [token, *(token.children or [])]
    return found


def test_a_folder_gives_the_bank_back(bank, tmp_path):
    written = bank.label(1, "reams").save_pretrained(tmp_path / "there")
    assert sorted(path.name for path in written.iterdir()) == ["README.md", "bank.safetensors"]
    same(ts.Bank.from_pretrained(written), bank.label(1, "reams"))
    same(ts.Bank.from_pretrained(str(written)), ts.load_bank(written / "bank.safetensors"))


def test_a_bank_goes_to_the_hub_and_comes_back(bank, hub):
    address = bank.push_to_hub("me/reams", token=GOOD)
    assert address.startswith(f"{hub.url}/me/reams/commit/")
    assert hub.repositories["me/reams"].private
    assert len(hub.repositories["me/reams"].commits) == 1
    same(ts.Bank.from_pretrained("me/reams", token=GOOD), bank)


def test_nothing_else_of_a_repository_comes_here(bank, hub, tmp_path):
    bank.push_to_hub("me/reams", private=False, token=GOOD)
    odd = {"../../evil.py": b"x", "pytorch_model.bin": b"x", "tl_steer.py": b"x"}
    hub.repositories["me/reams"].commit(odd)
    same(ts.Bank.from_pretrained("me/reams"), bank)
    came = {path.name for path in (tmp_path / "cache").rglob("snapshots/*/*")}
    assert came == {"bank.safetensors"}


def test_a_revision_stays_what_it_was(bank, hub):
    first = bank.push_to_hub("me/reams", token=GOOD).rpartition("/")[2]
    bank[:1].push_to_hub("me/reams", token=GOOD)
    assert len(ts.Bank.from_pretrained("me/reams", token=GOOD)) == 1
    same(ts.Bank.from_pretrained("me/reams", revision=first, token=GOOD), bank)


def test_what_was_downloaded_is_there_when_nobody_answers(bank, hub, monkeypatch):
    bank.push_to_hub("me/reams", token=GOOD)
    ts.Bank.from_pretrained("me/reams", token=GOOD)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    same(ts.Bank.from_pretrained("me/reams"), bank)


def test_a_new_repository_is_public_where_that_is_asked(bank, hub):
    bank.push_to_hub("me/open", private=False, token=GOOD)
    assert not hub.repositories["me/open"].private
    same(ts.Bank.from_pretrained("me/open"), bank)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("me/none", "none of that name"),
        ("../../no/such", "expected 'owner/name'"),
        ("/no/such/folder", "expected 'owner/name'"),
        ("a\0b", "expected 'owner/name'"),
    ],
)
def test_a_name_that_nothing_has_is_one_error(name, told, hub):
    with pytest.raises(BankFileError, match=told):
        ts.Bank.from_pretrained(name, token=GOOD)


def test_a_repository_that_holds_no_bank_or_a_damaged_one_is_one_error(bank, hub):
    bank.push_to_hub("me/reams", private=False, token=GOOD)
    there = hub.repositories["me/reams"]
    with pytest.raises(BankFileError, match="no such revision"):
        ts.Bank.from_pretrained("me/reams", revision="v2")
    whole = there.files("main")[1]["bank.safetensors"]
    for content in (b"", b"PK\x03\x04", whole[:-9], whole[:2000] + b"?" + whole[2001:]):
        there.commit({"bank.safetensors": content})
        with pytest.raises(BankFileError):
            ts.Bank.from_pretrained("me/reams")
    there.commits = {"0" * 40: {"pytorch_model.bin": b"\x80\x04."}}
    with pytest.raises(BankFileError, match="holds something else"):
        ts.Bank.from_pretrained("me/reams")


def test_who_may_not_is_told_to_log_in(bank, hub):
    bank.push_to_hub("me/reams", token=GOOD)
    with pytest.raises(BankFileError, match="hf auth login"):
        ts.Bank.from_pretrained("me/reams", token="hf_another")
    with pytest.raises(WriteError, match="hf auth login"):
        bank.push_to_hub("me/other", token="hf_another")


@pytest.mark.parametrize("status", [403, 418, 429])
def test_a_hub_that_refuses_is_one_error(status, bank, hub):
    hub.broken = status
    with pytest.raises(WriteError, match=str(status)):
        bank.push_to_hub("me/reams", token=GOOD)


def test_no_error_says_the_token(bank, hub):
    secret = "hf_verysecretindeed"
    for token in (secret, secret + "\n"):
        for call in (
            lambda token: bank.push_to_hub("me/reams", token=token),
            lambda token: ts.Bank.from_pretrained("me/reams", token=token),
        ):
            with pytest.raises(ts.SteerError) as caught:
                call(token)
            assert secret not in str(caught.value)
            assert caught.value.__cause__ is None
            assert caught.value.__context__ is None


def test_nobody_at_all_is_one_error(bank, hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(BankFileError, match="nobody answers"):
        ts.Bank.from_pretrained("me/reams")
    with pytest.raises(WriteError, match="ConnectError"):
        bank.push_to_hub("me/reams", token=GOOD)


def test_offline_is_said(bank, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BankFileError, match="HF_HUB_OFFLINE is set"):
        ts.Bank.from_pretrained("me/reams")
    with pytest.raises(WriteError, match="HF_HUB_OFFLINE is set"):
        bank.push_to_hub("me/reams")


def test_a_folder_has_no_revisions_and_may_hold_no_bank(bank, tmp_path):
    bank.save_pretrained(tmp_path)
    with pytest.raises(SettingError, match="without revisions"):
        ts.Bank.from_pretrained(tmp_path, revision="main")
    (tmp_path / "bank.safetensors").unlink()
    with pytest.raises(BankFileError, match="No bank"):
        ts.Bank.from_pretrained(tmp_path)


def test_the_token_is_in_no_file(bank, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", GOOD)
    bank.push_to_hub("me/reams")
    bank.save_pretrained(tmp_path / "there")
    sent = hub.repositories["me/reams"].files("main")[1].values()
    kept = [path.read_bytes() for path in (tmp_path / "there").iterdir()]
    assert not any(GOOD.encode() in content for content in (*sent, *kept))


# The card.


def test_the_card_says_where_the_bank_comes_from(bank):
    card = card_of(bank, where=".", base_model="owner/model", control=None)
    front = yaml.safe_load(card.split("---\n")[1])
    assert front == {
        "library_name": "tl_steer",
        "base_model": "owner/model",
        "tags": ["tl_steer", "steering-vectors"],
    }
    text = " ".join(node.content for node in nodes(card) if node.type == "text")
    made = bank.provenance
    for fact in (
        made.model,
        made.method,
        made.divergence,
        made.prompts,
        made.versions["torch"],
        f": {made.seed}",
        str(bank.source),
        str(bank.target),
        f"{bank.radius:.4g}, {bank.radius_share:.4g} of the median norm",
        f"{len(bank)} steering vectors",
        "every token",
    ):
        assert fact in text, fact
    for name, value in made.settings.items():
        assert name in text
        assert str(value).strip("'\"")[:10].lower() in text.lower()


def test_a_model_that_the_hub_may_not_have_is_no_base_model(bank):
    card = card_of(bank, where=".", base_model=None, control=None)
    assert "base_model" not in yaml.safe_load(card.split("---\n")[1])
    for name in ("model", "a/b/c", "a/b\nlicense: mit", "/home/me/model", "a/b\n", '"/"'):
        with pytest.raises(SettingError, match="owner/name"):
            card_of(bank, where=".", base_model=name, control=None)


def test_the_card_of_a_bank_of_the_embedded_model_loads_that(bank):
    made = dataclasses.replace(bank.provenance, model="SmolLM2-135M-Instruct")
    own = dataclasses.replace(bank, provenance=made)
    assert "load_model('smollm2')" in card_of(own, where=".", base_model=None, control=None)
    assert "load_model('a/b')" in card_of(own, where=".", base_model="a/b", control=None)


def test_a_bank_file_is_no_folder_and_the_hub_is_not_asked_for_it(bank, tmp_path):
    bank.save(tmp_path / "bank.safetensors")
    with pytest.raises(BankFileError, match=r"is a file; .*load_bank"):
        ts.Bank.from_pretrained(tmp_path / "bank.safetensors")


def test_without_a_control_the_card_says_so(bank):
    assert "No control was run" in card_of(bank, where=".", base_model=None, control=None)


def test_a_control_stands_beside_the_bank(bank):
    model = make(LLAMAS[0])
    random = ts.Bank.from_vectors(model, ts.random_bank(bank, seed=3), prompts=PROMPTS)
    card = card_of(bank, where=".", base_model=None, control=random)
    rows = {line.split(" | ")[0]: line for line in card.splitlines() if line.startswith("| ")}
    for name, one in (("| this bank", bank), ("| random", random)):
        largest = one.objective.max().item()
        middle = sorted(one.objective.tolist())[len(one) // 2 - 1 : len(one) // 2 + 1]
        assert f"{sum(middle) / 2:.4g}, {largest:.4g}" in rows[name]
    assert "seed 3" in card
    assert "No control was run" not in card


def test_what_is_no_control_of_the_bank_is_refused(bank):
    model = make(LLAMAS[0])
    random = ts.Bank.from_vectors(model, ts.random_bank(bank), prompts=PROMPTS)
    for wrong, told in (
        (bank, "not from random_bank"),
        (ts.random_bank(bank), "never measured"),
        (ts.Bank.from_vectors(model, ts.random_bank(bank), prompts=PROMPTS[:1]), "prompts"),
        (ts.Bank.from_vectors(model, ts.random_bank(bank) * 2, prompts=PROMPTS), "radius"),
        (dataclasses.replace(random, source=bank.target), "source"),
    ):
        with pytest.raises(SettingError, match=told):
            card_of(bank, where=".", base_model=None, control=wrong)


def test_the_code_in_the_card_runs(bank, hub, monkeypatch, capsys):
    monkeypatch.setattr(ts, "load_model", lambda name: make(LLAMAS[0]))
    monkeypatch.setenv("HF_TOKEN", GOOD)
    bank.push_to_hub("me/reams")
    card = hub.repositories["me/reams"].files("main")[1]["README.md"].decode()
    (code,) = [node.content for node in nodes(card) if node.type == "fence"]
    exec(code.replace("I think that", "t5 t9"), {})
    assert "Generations" in capsys.readouterr().out


def test_what_a_stranger_wrote_is_text_in_the_card(bank):
    kept = bank.provenance
    odd = dataclasses.replace(
        bank.label(0, HOSTILE).label(1, "two\nlines\r\n\n# heading\n\n```\n"),
        provenance=dataclasses.replace(
            kept,
            model="<b>\n---\nlicense: mit\n---\n[x](http://evil.example)",
            method=HOSTILE,
            divergence=HOSTILE,
            settings={HOSTILE: HOSTILE, "\n# h": ["```\n", {"a": "<b>"}]},
            notes=(HOSTILE, "\n\n# heading"),
            versions={HOSTILE: HOSTILE},
            prompts=HOSTILE,
        ),
    )
    card = card_of(odd, where=".", base_model=None, control=None)
    found = nodes(card)
    plain = nodes(card_of(bank, where=".", base_model=None, control=None))
    assert {node.type for node in found} <= {node.type for node in plain}
    for kind in ("heading_open", "tr_open", "td_open", "fence"):
        assert sum(n.type == kind for n in found) == sum(n.type == kind for n in plain)
    assert any("".join(c.content for c in n.children) == HOSTILE for n in found if n.children)
    assert list(yaml.safe_load(card.split("---\n")[1])) == ["library_name", "tags"]
    assert "<" not in re.sub(r"(?s)```.*?```", "", card)


def test_every_character_of_a_label_is_shown_as_it_is(bank):
    for label in [*map(chr, range(33, 0x180)), "0123", "1. a", "- a", "+ a", "&lt;", "\\&lt;"]:
        if not label.isprintable():
            continue
        (_, inline, _) = MarkdownIt("gfm-like").parse(quoted("x" + label))
        assert "".join(child.content for child in inline.children) == "x" + label
