"""What Neuronpedia would be sent: its own client's body, at the same place of the model."""

import dataclasses
import json

import pytest
import torch
from conftest import PROMPTS, bank_of

import tl_steer as ts
from tl_steer.errors import HookPointError, SettingError
from tl_steer.perturbations import Additive, MultiSite


def payload(bank, tmp_path):
    path = ts.interop.export(bank, tmp_path / "v.json", to="neuronpedia")
    return json.loads(path.read_text())


def test_the_body_says_the_vector_its_place_and_its_strength(one, tmp_path):
    bank = bank_of(one).label(2, "reams")[2]
    sent = payload(bank, tmp_path)
    vector, strength = sent.pop("vector"), sent.pop("vectorDefaultSteerStrength")
    assert sent == {
        "modelId": bank.provenance.model.lower(),
        "layerNumber": bank.source.layer + 1,
        "hookType": "hook_resid_pre",
        "vectorLabel": "reams",
    }
    assert strength == pytest.approx(bank.radius)
    assert torch.tensor(vector).norm() == pytest.approx(1)
    torch.testing.assert_close(strength * torch.tensor(vector), bank.vectors[0])


def test_the_place_is_the_banks_own(one, tmp_path):
    """The steered model's logits by a hook at the point that the body names."""
    for source in ("blocks.1.hook_resid_post", "blocks.1.hook_resid_pre", 3):
        rows = bank_of(one).vectors[:1]
        bank = ts.Bank.from_vectors(one, rows, prompts=PROMPTS[:1], source=source, target=3)
        sent = payload(bank, tmp_path)
        added = sent["vectorDefaultSteerStrength"] * torch.tensor(sent["vector"])
        point = f"blocks.{sent['layerNumber']}.{sent['hookType']}"
        ids = ts.tokenize(one, PROMPTS[:1]).ids
        hooks = [(point, lambda x, hook, added=added: x + added)]
        steered = one.run_with_hooks(ids, fwd_hooks=hooks)
        with ts.perturbing(one, bank):
            torch.testing.assert_close(one(ids), steered, rtol=1e-4, atol=1e-4)


def test_strengths_stay_where_the_service_takes_them(one, tmp_path):
    bank = bank_of(one)[0]
    sent = payload(bank * 1000, tmp_path)
    assert sent["vectorDefaultSteerStrength"] == 300
    told = 300 * torch.tensor(sent["vector"])
    torch.testing.assert_close(told, 1000 * bank.vectors[0])
    assert payload(bank * 0, tmp_path)["vector"] == [0.0] * 24


def test_a_label_is_one_line_and_never_empty(one, tmp_path):
    bank = bank_of(one)
    assert payload(bank[3], tmp_path)["vectorLabel"] == "vector 3"
    assert payload(bank.label(0, "a\nb\x1b")[0], tmp_path)["vectorLabel"] == "a⏎b\\x1b"


def test_several_vectors_and_other_places_are_refused(one, tmp_path):
    bank = bank_of(one)
    with pytest.raises(SettingError, match=r"takes one.*bank\[0\]"):
        payload(bank, tmp_path)
    there = Additive(1, bank.vectors[:1]), Additive(2, bank.vectors[:1])
    both = ts.Bank.from_vectors(one, MultiSite(there), prompts=PROMPTS[:1], target=3)
    with pytest.raises(SettingError, match="acts at 2"):
        payload(both, tmp_path)
    with pytest.raises(SettingError, match="over-steers"):
        payload(dataclasses.replace(bank[0], positions=ts.Positions(last=1)), tmp_path)
    inside = ts.Bank.from_vectors(
        one, torch.ones(1, 24), prompts=PROMPTS[:1], source="blocks.1.hook_mlp_out", target=3
    )
    with pytest.raises(HookPointError):
        payload(inside, tmp_path)
    assert not list(tmp_path.iterdir())


def test_it_is_what_neuronpedias_own_client_sends(one, tmp_path, monkeypatch):
    client = pytest.importorskip("neuronpedia.requests.vector_request")
    monkeypatch.setenv("NEURONPEDIA_API_KEY", "secret")
    sent, own = [], payload(bank_of(one)[0], tmp_path)

    class Stop(Exception):
        pass

    def send(_self, **asked):
        sent.append(asked)
        raise Stop

    monkeypatch.setattr(client.VectorRequest, "send_request", send)
    with pytest.raises(Stop):
        client.VectorRequest().new(
            label=own["vectorLabel"],
            model_id=own["modelId"],
            layer_num=own["layerNumber"],
            hook_type=own["hookType"],
            vector=own["vector"],
            default_steer_strength=own["vectorDefaultSteerStrength"],
        )
    assert sent == [{"method": "POST", "uri": "new", "json": own}]
