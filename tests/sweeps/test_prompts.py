"""Prompts from lists, files and datasets, and rows that cannot be prompts."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import tl_steer as ts
from tl_steer.errors import PromptError

TEXTS = ["one fish", "two fish", 'red, "blue"\nfish']


def read(prompts, **knobs):
    return [asked.prompt for asked in ts.sweeps.source_of(prompts, **knobs)]


def csv_file(path):
    path.write_text('id,text\na,one fish\nb,two fish\nc,"red, ""blue""\nfish"\n', encoding="utf-8")


def jsonl_file(path):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")


def parquet_file(path):
    pq.write_table(pa.table({"n": [1, 2, 3], "text": TEXTS}), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [("p.csv", csv_file), ("p.jsonl", jsonl_file), ("p.parquet", parquet_file)],
)
def test_a_files_column_is_read_and_read_again(tmp_path, name, write):
    write(tmp_path / name)
    source = ts.sweeps.source_of(tmp_path / name, column="text")
    assert [a.prompt for a in source] == TEXTS
    assert [(a.prompt, a.id) for a in source] == [(t, str(i)) for i, t in enumerate(TEXTS)]
    assert read(str(tmp_path / name)) == TEXTS, "text is a column that is looked for"
    with pytest.raises(PromptError, match=r"has no 'words'; it has .*text"):
        read(tmp_path / name, column="words")


def test_a_text_file_has_a_prompt_on_every_line(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("one fish\r\ntwo fish\n", encoding="utf-8")
    assert read(path) == ["one fish", "two fish"]
    path.write_text("one fish\n\ntwo fish\n", encoding="utf-8")
    with pytest.raises(PromptError, match=r"Line 2 of p\.txt has no text"):
        read(path)


def test_json_lines_may_be_strings_rows_or_conversations(tmp_path):
    path, turns = tmp_path / "p.jsonl", [{"role": "user", "content": "hi"}]
    path.write_text(f'"plain"\n{json.dumps({"messages": turns})}\n', encoding="utf-8")
    assert read(path) == ["plain", turns]
    path.write_text('"plain"\n{oops\n', encoding="utf-8")
    with pytest.raises(PromptError, match=r"Line 2 of p\.jsonl is not JSON"):
        read(path)


def test_lists_hold_all_that_elicit_takes():
    ids = torch.tensor([4, 5])
    assert read(["a", ts.chat("b"), ids, {"prompt": "c"}]) == ["a", ts.chat("b"), ids, "c"]


def test_a_wrapper_is_applied_to_strings_alone():
    assert read(["a", ts.chat("b")], wrap=ts.chat) == [ts.chat("a"), ts.chat("b")]


def test_hugging_face_datasets_are_read_streaming_or_not():
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_dict({"question": TEXTS, "id": ["x", "y", "z"]})
    source = ts.sweeps.source_of(whole, ids="id")
    assert [(a.id, a.prompt) for a in source] == list(zip("xyz", TEXTS, strict=True))
    assert source.again
    streaming = ts.sweeps.source_of(whole.to_iterable_dataset(), column="question")
    assert [a.prompt for a in streaming] == TEXTS
    assert not streaming.again
    with pytest.raises(PromptError, match="one split"):
        ts.sweeps.source_of(datasets.DatasetDict({"train": whole}))


def test_ids_are_taken_from_their_column_and_must_differ():
    rows = [{"id": 7, "text": "a"}, {"id": 8, "text": "b"}, {"id": 7, "text": "c"}]
    assert [a.id for a in ts.sweeps.source_of(rows[:2], ids="id")] == ["7", "8"]
    with pytest.raises(PromptError, match="Row 2 has the id '7', which Row 0 has too"):
        read(rows, ids="id")
    with pytest.raises(PromptError, match="Row 0 has no 'key'"):
        read(rows, ids="key")


@pytest.mark.parametrize("empty", ["", "  \n", None, [], {"text": ""}, {"text": None}])
def test_a_row_without_text_is_refused_by_its_place(empty):
    with pytest.raises(PromptError, match="Row 1 has no text"):
        read(["a", empty])


@pytest.mark.parametrize("prompts", ["no such file.csv", 7, None, {"train": ["a"]}])
def test_what_prompts_cannot_be_read_from_is_refused(prompts):
    with pytest.raises(PromptError):
        read(prompts)


def test_a_damaged_parquet_file_is_refused(tmp_path):
    path = tmp_path / "p.parquet"
    path.write_bytes(b"PAR1 nonsense")
    with pytest.raises(PromptError, match="not a Parquet file"):
        read(path)
