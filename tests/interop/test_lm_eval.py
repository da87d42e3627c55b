"""Vectors in lm-evaluation-harness, by its own `steered` model."""

from dataclasses import replace

import pytest
import torch
from conftest import PROMPTS, make, tokenizer
from plain_hf import IDS, hugging_face, steered_by_us, two_blocks

import tl_steer as ts
from tl_steer.errors import SettingError
from tl_steer.hook_points import PROMPT

pytest.importorskip("lm_eval")
KINDS = ["llama", "gpt2", "neox"]


def bank_of(kind):
    return ts.elicit(
        make(f"bridge-{kind}"), PROMPTS[:1], source=1, target=2, n=2, radius=2.0, progress=False
    )


@pytest.mark.parametrize("kind", KINDS)
def test_lm_eval_adds_what_our_hooks_add(kind, tmp_path):
    from lm_eval.models.hf_steered import SteeredModel

    model, bank = make(f"bridge-{kind}"), bank_of(kind)[1] * 1.5
    path = ts.interop.export(bank, tmp_path / "v.pt", to="lm-eval", model=model)
    steered = SteeredModel(
        pretrained=hugging_face(kind), steer_path=str(path), device="cpu", tokenizer=tokenizer()
    )
    expected = steered_by_us(model, bank, kind=kind)
    torch.testing.assert_close(steered._model_call(IDS), expected, rtol=1e-5, atol=1e-5)


def test_an_lm_eval_file_holds_plain_tensors(tmp_path):
    model, bank = make("bridge-llama"), bank_of("llama")
    path = ts.interop.export(bank[0], tmp_path / "v.pt", to="lm-eval", model=model)
    ((hook_point, held),) = torch.load(path, weights_only=True).items()
    assert hook_point == "layers.1"
    assert torch.equal(held["steering_vector"], bank.vectors[0])
    assert path.stat().st_size < 4000


def test_what_lm_eval_cannot_say_is_refused(tmp_path):
    model, bank = make("bridge-llama"), bank_of("llama")
    for wrong, match in [
        (two_blocks(model, bank.vectors)[0], r"blocks \[1, 2\]"),
        (bank, "holds 2 vectors"),
        (replace(bank[0], positions=PROMPT), "over-steers"),
    ]:
        with pytest.raises(SettingError, match=match):
            ts.interop.export(wrong, tmp_path / "v.pt", to="lm-eval", model=model)
    with pytest.raises(SettingError, match="TransformerBridge"):
        ts.interop.export(bank[0], tmp_path / "v.pt", to="lm-eval")
    with pytest.raises(SettingError, match="can only be written"):
        ts.interop.read(tmp_path / "v.pt", format="lm-eval")
    assert not list(tmp_path.iterdir())
