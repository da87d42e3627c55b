"""Banks as other tools' files: what a format can say is said, and the rest is refused."""

import dataclasses

import pytest
import torch
from conftest import LLAMAS, PROMPTS, make
from typer.testing import CliRunner

import tl_steer as ts
from tl_steer import cli
from tl_steer.errors import (
    BankFileError,
    ForeignModelError,
    HookPointError,
    NotFiniteError,
    SettingError,
    WriteError,
)
from tl_steer.hook_points import PROMPT
from tl_steer.perturbations import Ablation


@pytest.fixture(scope="module")
def model():
    return make(LLAMAS[0])


@pytest.fixture(scope="module")
def bank(model):
    return ts.elicit(model, PROMPTS[:1], source=1, target=2, n=3, radius=2.0)


def test_vectors_come_back_from_every_format_that_is_read_and_do_the_same(model, bank, tmp_path):
    for name, format in ts.interop.FORMATS.items():
        if format.read is None:
            continue
        path = ts.interop.export(bank[1], tmp_path / name, to=name, model=model)
        found = ts.interop.read(path, format=name).bank(model, prompts=PROMPTS[:1], target=2)
        assert found.source == bank.source
        torch.testing.assert_close(found.vectors, bank.vectors[1:2])
        torch.testing.assert_close(found.responses, bank.responses[1:2], rtol=1e-4, atol=1e-5)


def test_a_bank_in_front_of_a_block_is_written_as_the_block_before(model, bank, tmp_path):
    there = ts.Bank.from_vectors(
        model, bank.vectors, prompts=PROMPTS[:1], source="blocks.2.hook_resid_pre", target=3
    )
    path = ts.interop.export(there[0], tmp_path / "b.svec", to="svec")
    assert list(ts.interop.read(path, format="svec").layers) == [1]


@pytest.mark.parametrize("where", ["blocks.0.hook_resid_pre", "blocks.1.attn.hook_z"])
def test_what_is_no_output_of_a_block_is_refused(model, where, tmp_path):
    width = ts.models.resolve(model, where).width
    inside = ts.Bank.from_vectors(
        model, torch.ones(1, width), prompts=PROMPTS[:1], source=where, target=3
    )
    with pytest.raises(HookPointError, match="outputs of blocks"):
        ts.interop.export(inside, tmp_path / "b.svec", to="svec")
    assert not list(tmp_path.iterdir())


def test_tokens_that_a_format_cannot_say_and_other_kinds_are_refused(model, bank, tmp_path):
    early = dataclasses.replace(bank, positions=PROMPT)
    with pytest.raises(SettingError, match="over-steers"):
        ts.interop.export(early, tmp_path / "b.svec", to="svec")
    ablated = ts.Bank.from_vectors(model, Ablation(1, bank.vectors), prompts=PROMPTS[:1], target=2)
    with pytest.raises(SettingError, match="'ablation'"):
        ts.interop.export(ablated, tmp_path / "b.svec", to="svec")


def test_vectors_that_are_not_finite_are_not_written(bank, tmp_path):
    endless = dataclasses.replace(bank[0], vectors=bank.vectors[:1] * torch.inf)
    with pytest.raises(NotFiniteError, match="not finite"):
        ts.interop.export(endless, tmp_path / "b.svec", to="svec")


def test_a_bank_is_not_written_with_the_names_of_another_model(bank, tmp_path):
    with pytest.raises(ForeignModelError, match="not this model"):
        ts.interop.export(bank[0], tmp_path / "b.svec", to="svec", model=make("bridge-gpt2"))


def test_an_unknown_format_names_those_there_are(bank, tmp_path):
    with pytest.raises(SettingError, match="svec"):
        ts.interop.export(bank, tmp_path / "b", to="svek")
    with pytest.raises(SettingError, match="svec"):
        ts.interop.read(tmp_path / "b", format="svek")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"model_type": "", "directions": {}}',
        b'{"model_type": "", "directions": {"1": [[NaN, 1]]}}',
        b'{"model_type": "", "directions": {"1": [[1e999, 1]]}}',
        b'{"model_type": "", "directions": {"1": [[1, 2]], "2": [[1]]}}',
        b'{"model_type": "", "directions": {"x": [[1, 2]]}}',
        b'{"model_type": "", "directions": {"1": [["a"]]}}',
        b'{"model_type": "", "directions": {"-1": [[1]]}}',
        b'{"model_type": "", "directions": [1]}',
    ],
)
def test_an_svec_file_that_is_none_is_one_error(content, tmp_path):
    (tmp_path / "b.svec").write_bytes(content)
    with pytest.raises(BankFileError):
        ts.interop.read(tmp_path / "b.svec", format="svec")


def test_a_file_above_the_limit_is_not_read(tmp_path):
    with open(tmp_path / "b.svec", "wb") as file:
        file.truncate(300 << 20)
    with pytest.raises(BankFileError, match="more than 256 MB"):
        ts.interop.read(tmp_path / "b.svec", format="svec")


def test_vectors_of_another_models_width_are_refused_with_both(model, tmp_path):
    narrow = ts.interop.Directions({1: torch.ones(1, 5)})
    with pytest.raises(HookPointError, match="5 wide"):
        narrow.bank(model, prompts=PROMPTS[:1])


def test_the_command_line_writes_a_file_and_makes_a_bank_of_one(model, bank, tmp_path, monkeypatch):
    monkeypatch.setattr(ts, "load_model", lambda *_, **__: model)
    own, there, back = (tmp_path / n for n in ("a.safetensors", "b.svec", "c.safetensors"))
    bank.save(own)
    asked = ["export", own, there, "--to", "svec", "-v", 2, "--scale", 2]
    runner = CliRunner()
    assert runner.invoke(cli.app, [*map(str, asked)], catch_exceptions=False).exit_code == 0
    asked = ["import", there, back, "--from", "svec", "-p", PROMPTS[0], "--target", 2]
    assert runner.invoke(cli.app, [*map(str, asked)], catch_exceptions=False).exit_code == 0
    torch.testing.assert_close(ts.load_bank(back).vectors, 2 * bank.vectors[2:])


@pytest.mark.parametrize("to", ["gguf", "peft"])
def test_several_vectors_for_one_place_are_refused_with_how_to_choose(model, bank, to, tmp_path):
    with pytest.raises(SettingError, match=r"holds 3.* bank\[0\], or --vector 1 on the command"):
        ts.interop.export(bank[[1, 0, 2]], tmp_path / "v", to=to, model=model)


@pytest.mark.parametrize("name", [n for n, f in ts.interop.FORMATS.items() if f.read is not None])
def test_a_file_that_is_not_there_is_one_plain_error(name, tmp_path):
    with pytest.raises(BankFileError, match=r"cannot be read: No such file or directory\.$"):
        ts.interop.read(tmp_path / "none", format=name)


def test_a_format_that_is_only_written_says_which_are_read(tmp_path):
    with pytest.raises(SettingError, match="only be written; gguf, peft, svec, vllm-lens"):
        ts.interop.read(tmp_path / "v.json", format="easysteer")


def test_the_command_line_lists_formats():
    for command, shown, hidden in (("export", "hotwire", None), ("import", "svec", "hotwire")):
        said = CliRunner().invoke(cli.app, [command, "--help"]).output
        assert shown in said
        assert hidden is None or hidden not in said


def test_a_folder_with_anything_else_in_it_is_not_written_into(model, bank, tmp_path):
    folder = ts.interop.export(bank, tmp_path / "h", to="hotwire")
    kept = {each.name: each.read_bytes() for each in folder.iterdir()}
    with pytest.raises(WriteError, match="holds other files already"):
        ts.interop.export(bank[:1], folder, to="hotwire")
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == kept
    assert ts.interop.export(bank, folder, to="hotwire") == folder
