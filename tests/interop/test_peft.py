"""Adapters and vectors as LoRA folders: peft loads them, and logits are those of the bank."""

import copy
import dataclasses
import json

import pytest
import safetensors.torch
import torch
from conftest import PROMPTS, tokenizer
from plain_families import bridged, fresh

import tl_steer as ts
from tl_steer.errors import (
    BankFileError,
    ForeignModelError,
    HookPointError,
    ModelError,
    NotFiniteError,
    SettingError,
)
from tl_steer.hook_points import PROMPT
from tl_steer.perturbations import Ablation, Additive, MultiSite

peft = pytest.importorskip("peft")
TransformerBridge = pytest.importorskip("transformer_lens.model_bridge").TransformerBridge
IDS = torch.tensor([[5, 9, 30, 7, 61], [8, 3, 70, 1, 44]])


def vectors(n=1):
    return 3 * torch.randn(n, 24, generator=torch.Generator().manual_seed(1))


def bank_of(kind, edits):
    return ts.Bank.from_vectors(bridged(kind), edits, prompts=PROMPTS[:1], target=3)


def adapters(kind, source, *, layers=None, rank=1):
    return ts.elicit(
        bridged(kind),
        PROMPTS[:1],
        source=source,
        target=3,
        n=1,
        radius=2.0,
        perturbation=ts.elicitation.Adapters(rank=rank, layers=layers),
        progress=False,
    )


@torch.no_grad()
def steered(kind, bank):
    with ts.perturbing(bridged(kind), bank):
        return bridged(kind)(IDS, attention_mask=torch.ones_like(IDS))


def loaded(kind, folder):
    return peft.PeftModel.from_pretrained(fresh(kind), folder).eval()


@pytest.mark.parametrize(
    ("source", "layers", "rank"),
    [("blocks.1.hook_mlp_out", None, 2), ("blocks.0.hook_attn_out", (0, 2), 1)],
)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
@torch.no_grad()
def test_peft_loads_and_merges_an_adapter(kind, source, layers, rank, tmp_path):
    bank = adapters(kind, source, layers=layers, rank=rank)
    folder = ts.interop.export(bank, tmp_path / "lora", to="peft", model=bridged(kind))
    model = loaded(kind, folder)
    there = steered(kind, bank)
    torch.testing.assert_close(model(IDS).logits, there, rtol=1e-4, atol=1e-5)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(IDS).logits, there, rtol=1e-4, atol=1e-5)
    assert float((there - fresh(kind)(IDS).logits).abs().max()) > 1e-3
    card = (folder / "README.md").read_text()
    assert "can be merged" in card
    assert "base_model" not in card  # the tiny model's name is none of the Hub's


POINTS = [1, "blocks.2.hook_resid_pre", "blocks.1.hook_mlp_out", "blocks.1.hook_attn_out"]


@pytest.mark.parametrize("where", POINTS)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "neox"])
@torch.no_grad()
def test_peft_loads_a_vector(kind, where, tmp_path):
    bank = bank_of(kind, Additive(where, vectors()))
    folder = ts.interop.export(bank * 0.5, tmp_path / "lora", to="peft", model=bridged(kind))
    found = loaded(kind, folder)(IDS).logits
    torch.testing.assert_close(found, steered(kind, bank * 0.5), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_vector_cannot_be_merged_where_the_map_has_no_bias_and_the_folder_says_so(tmp_path):
    for kind, can in (("llama", False), ("gpt2", True)):
        bank = bank_of(kind, Additive(1, vectors()))
        folder = ts.interop.export(bank, tmp_path / kind, to="peft", model=bridged(kind))
        assert ("**cannot be merged**" in (folder / "README.md").read_text()) is not can
        model = loaded(kind, folder)
        if can:
            merged = model.merge_and_unload()
            torch.testing.assert_close(
                merged(IDS).logits, steered(kind, bank), rtol=1e-5, atol=1e-5
            )
        else:
            with pytest.raises(RuntimeError, match="no bias"):
                model.merge_and_unload()


@torch.no_grad()
def test_vectors_at_several_blocks_are_one_folder(tmp_path):
    one, other = vectors(2)[:, None]
    places = {1: one, "blocks.1.hook_mlp_out": other, 2: other}
    bank = bank_of("llama", MultiSite([Additive(*each) for each in places.items()]))
    folder = ts.interop.export(bank, tmp_path / "lora", to="peft", model=bridged("llama"))
    found = loaded("llama", folder)(IDS).logits
    torch.testing.assert_close(found, steered("llama", bank), rtol=1e-5, atol=1e-5)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["target_modules"] == [f"model.layers.{i}.mlp.down_proj" for i in (1, 2)]
    assert config["base_model_name_or_path"] == "tiny-llama"


@pytest.mark.parametrize("kind", ["gemma2", "olmo2"])
def test_vectors_on_post_norm_blocks_are_refused(kind, tmp_path):
    for where in (1, "blocks.1.hook_attn_out"):
        bank = bank_of(kind, Additive(where, vectors()))
        with pytest.raises(HookPointError, match="post-norm"):
            ts.interop.export(bank, tmp_path / "lora", to="peft", model=bridged(kind))
    assert not list(tmp_path.iterdir())


def test_what_a_lora_cannot_say_is_refused(tmp_path):
    model, bank = bridged("llama"), bank_of("llama", Additive(1, vectors(2)))

    def refused(bank, error, words, model=model):
        with pytest.raises(error, match=words):
            ts.interop.export(bank, tmp_path / "lora", to="peft", model=model)

    refused(bank, SettingError, r"holds 2 vectors.*choose it")
    refused(bank[0], SettingError, "give model=", None)
    refused(dataclasses.replace(bank[0], positions=PROMPT), SettingError, "over-steers")
    infinite = dataclasses.replace(bank[0], vectors=torch.full((1, 24), torch.inf))
    refused(infinite, NotFiniteError, "not finite")
    refused(bank_of("llama", Ablation(1, vectors())), SettingError, "'ablation'")
    first = bank_of("llama", Additive("blocks.0.hook_resid_pre", vectors()))
    refused(first, HookPointError, "in front of the first block")
    inside = bank_of("llama", Additive("blocks.1.attn.hook_z", vectors()))
    refused(inside, HookPointError, "inside a block")
    refused(bank[0], ForeignModelError, "not this model", bridged("gpt2"))
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_no_bridge_is_refused(tmp_path, monkeypatch):
    model, bank = bridged("llama"), bank_of("llama", Additive(1, vectors()))
    monkeypatch.setattr(model, "adapter", None)
    with pytest.raises(ModelError, match="TransformerBridge"):
        ts.interop.export(bank, tmp_path / "lora", to="peft", model=model)


@pytest.mark.parametrize("part", ["mlp", "attn"])
def test_in_compatibility_mode_adapters_are_what_peft_applies_or_refused(part, tmp_path):
    """That mode folds the biases of values into attention's output, so heads write less."""
    plain = fresh("gpt2")
    with torch.no_grad():
        for name, values in plain.named_parameters():
            values.add_(0.5 if name.endswith("c_attn.bias") else 0.0)
    model = TransformerBridge.boot_transformers(
        "tiny-gpt2", hf_model=copy.deepcopy(plain), tokenizer=tokenizer()
    ).eval()
    model.enable_compatibility_mode()
    bank = ts.elicit(
        model,
        PROMPTS[:1],
        source=f"blocks.1.hook_{part}_out",
        target=2,
        n=1,
        radius=3.0,
        perturbation=ts.elicitation.Adapters(),
        progress=False,
    )
    if part == "attn":
        with pytest.raises(SettingError, match="compatibility mode"):
            ts.interop.export(bank, tmp_path / "lora", to="peft", model=model)
        return
    folder = ts.interop.export(bank, tmp_path / "lora", to="peft", model=model)
    loaded = peft.PeftModel.from_pretrained(plain, str(folder)).eval()
    with torch.no_grad(), ts.perturbing(model, bank):
        ours = model(IDS).log_softmax(-1)
    with torch.no_grad():
        there = loaded(IDS).logits.log_softmax(-1)
    torch.testing.assert_close(ours, there, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "source", "layers"),
    [
        ("llama", "blocks.1.hook_mlp_out", None),
        ("gpt2", "blocks.0.hook_attn_out", (0, 2)),
        ("gemma2", "blocks.1.hook_mlp_out", None),
    ],
)
def test_an_adapter_comes_back_as_it_was(kind, source, layers, tmp_path):
    bank = adapters(kind, source, layers=layers)
    folder = ts.interop.export(bank, tmp_path / "lora", to="peft", model=bridged(kind))
    found = ts.interop.read(folder, format="peft").bank(
        bridged(kind), prompts=PROMPTS[:1], target=3
    )
    assert (found.kind, found.source, dict(found.form)) == (bank.kind, bank.source, dict(bank.form))
    assert found.radius == bank.radius
    torch.testing.assert_close(found.vectors, bank.vectors)
    torch.testing.assert_close(steered(kind, found), steered(kind, bank))


def test_a_folder_that_peft_wrote_is_read(tmp_path):
    config = peft.LoraConfig(
        r=2,
        lora_alpha=3,
        target_modules=["down_proj"],
        layers_to_transform=[1],
        init_lora_weights=False,
    )
    torch.manual_seed(0)
    theirs = peft.get_peft_model(fresh("llama"), config).eval()
    theirs.save_pretrained(tmp_path)
    bank = ts.interop.read(tmp_path, format="peft").bank(bridged("llama"), prompts=PROMPTS[:1])
    with torch.no_grad():
        there = theirs(IDS).logits
    torch.testing.assert_close(steered("llama", bank), there, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("targets", "words"),
    [(["q_proj"], "self_attn.q_proj"), (["down_proj", "o_proj"], "one kind of map")],
)
def test_maps_that_no_bank_holds_are_refused(targets, words, tmp_path):
    config = peft.LoraConfig(r=1, target_modules=targets, init_lora_weights=False)
    peft.get_peft_model(fresh("llama"), config).save_pretrained(tmp_path)
    with pytest.raises(HookPointError, match=words):
        ts.interop.read(tmp_path, format="peft").bank(bridged("llama"), prompts=PROMPTS[:1])


def test_a_vector_behind_attention_or_in_front_of_a_norm_is_not_taken_for_a_blocks_output(tmp_path):
    at = Additive("blocks.1.hook_attn_out", vectors())
    folder = ts.interop.export(
        bank_of("llama", at), tmp_path / "lora", to="peft", model=bridged("llama")
    )
    found = ts.interop.read(folder, format="peft")
    with pytest.raises(HookPointError, match=r"o_proj.*last map of an MLP"):
        found.bank(bridged("llama"), prompts=PROMPTS[:1])
    at = Additive(1, vectors())
    ts.interop.export(bank_of("llama", at), folder, to="peft", model=bridged("llama"))
    found = ts.interop.read(folder, format="peft")
    with pytest.raises(HookPointError, match="without a norm"):
        found.bank(bridged("gemma2"), prompts=PROMPTS[:1])


GOOD = {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
NAME = "base_model.model.model.layers.1.mlp.down_proj.lora_"
PAIR = {f"{NAME}A.weight": torch.ones(1, 40), f"{NAME}B.weight": torch.ones(24, 1)}
BIAS = {f"{NAME}B.bias": torch.ones(24)}


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        ({**GOOD, "peft_type": "IA3"}, PAIR),
        ({**GOOD, "use_dora": True}, PAIR),
        ({**GOOD, "rank_pattern": {"x": 2}}, PAIR),
        ({**GOOD, "r": 0}, PAIR),
        ({**GOOD, "lora_alpha": 0}, PAIR),
        ({**GOOD, "r": 2}, PAIR),
        ({**GOOD, "r": True}, PAIR),
        ({**GOOD, "lora_alpha": "1"}, PAIR),
        ({"peft_type": "LORA"}, PAIR),
        ([1], PAIR),
        (GOOD, {}),
        (GOOD, PAIR | BIAS),
        (GOOD, PAIR | {f"{NAME}B.bias": torch.zeros(24)}),
        (GOOD, PAIR | {f"{NAME}A.weight": torch.full((1, 40), 1e300, dtype=torch.float64)}),
        (GOOD, BIAS),
        (GOOD, PAIR | {f"{NAME}A.weight": torch.ones(40)}),
        (GOOD, PAIR | {f"{NAME}A.weight": torch.full((1, 40), torch.nan)}),
        (GOOD, PAIR | {f"{NAME}A.weight": torch.ones(1, 40).int()}),
        (GOOD, PAIR | {"base_model.model.lm_head.weight": torch.ones(2, 2)}),
        (GOOD, PAIR | {f"{NAME}magnitude": torch.ones(2)}),
    ],
)
def test_a_folder_that_is_no_plain_lora_is_one_error(config, tensors, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(safetensors.torch.save(tensors))
    with pytest.raises(BankFileError):
        ts.interop.read(tmp_path, format="peft")


def test_a_negative_alpha_turns_an_adapter_round(tmp_path):
    turned = {f"{NAME}A.weight": PAIR[f"{NAME}A.weight"], f"{NAME}B.weight": -torch.ones(24, 1)}
    found = []
    for alpha, tensors in ((-2, PAIR), (2, turned)):
        (tmp_path / "adapter_config.json").write_text(json.dumps(GOOD | {"lora_alpha": alpha}))
        (tmp_path / "adapter_model.safetensors").write_bytes(safetensors.torch.save(tensors))
        read = ts.interop.read(tmp_path, format="peft")
        found.append(read.bank(bridged("llama"), prompts=PROMPTS[:1], target=2))
    assert found[0].radius == found[1].radius == 2.0
    torch.testing.assert_close(found[0].responses, found[1].responses)


def test_damaged_missing_and_huge_files_are_one_error(tmp_path):
    with pytest.raises(BankFileError, match="cannot be read"):
        ts.interop.read(tmp_path, format="peft")
    (tmp_path / "adapter_config.json").write_text(json.dumps(GOOD))
    whole = safetensors.torch.save(PAIR)
    for damaged in (b"", whole[:50], whole[:-8], b"\xff" * 100):
        (tmp_path / "adapter_model.safetensors").write_bytes(damaged)
        with pytest.raises(BankFileError):
            ts.interop.read(tmp_path, format="peft")
    with open(tmp_path / "adapter_model.safetensors", "wb") as file:
        file.truncate(300 << 20)
    with pytest.raises(BankFileError, match="more than 256 MB"):
        ts.interop.read(tmp_path, format="peft")
