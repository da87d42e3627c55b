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


class Frame:
    """What iterates over its columns, as data frames do."""

    def __init__(self, rows):
        self.rows, self.columns = rows, list(rows[0])

    def __iter__(self):
        return iter(self.columns)


def pandas_frame(rows):
    return pytest.importorskip("pandas").DataFrame(rows)


def polars_frame(rows):
    class Polars(Frame):
        def to_dicts(self):
            return self.rows

    return Polars(rows)


def dask_frame(rows):
    class Dask(Frame):
        def iterrows(self):
            pandas = pytest.importorskip("pandas")
            return ((i, pandas.Series(row)) for i, row in enumerate(self.rows))

    return Dask(rows)


@pytest.mark.parametrize(
    "frame", [pandas_frame, polars_frame, dask_frame, pa.Table.from_pylist, list]
)
def test_a_tables_rows_are_read_and_not_its_columns(frame):
    rows = [{"label": 1, "prompt": "a"}, {"label": 0, "prompt": "b"}]
    assert read(frame(rows)) == ["a", "b"]
    source = ts.sweeps.source_of(frame(rows), column="prompt", ids="label")
    assert [(a.id, a.prompt) for a in source] == [("1", "a"), ("0", "b")]
    with pytest.raises(PromptError, match="has no 'words'"):
        read(frame(rows), column="words")


def test_tables_that_cannot_be_read_by_rows_or_lack_a_cell_are_refused():
    with pytest.raises(PromptError, match="rows cannot be read"):
        read(Frame([{"prompt": "a"}]))
    pandas = pytest.importorskip("pandas")
    with pytest.raises(PromptError, match="Row 1 has no text"):
        read(pandas.DataFrame({"prompt": ["a", None]}))
    with pytest.raises(PromptError, match="two columns of one name"):
        read(pandas.DataFrame([["a", "b"]], columns=["prompt", "prompt"]))
    assert read(pandas.Series(["a", "b"])) == ["a", "b"]


@pytest.mark.parametrize("knobs", [{"column": "prompt"}, {"ids": "id"}])
def test_a_column_of_plain_texts_is_refused_and_not_ignored(tmp_path, knobs):
    (tmp_path / "p.txt").write_text("a\n", encoding="utf-8")
    for prompts in (["a", "b"], tmp_path / "p.txt", [ts.chat("a")]):
        with pytest.raises(PromptError, match=r"Row 0|Line 1"):
            read(prompts, **knobs)


def test_a_json_file_is_read_as_json(tmp_path):
    path = tmp_path / "p.json"
    for rows in (TEXTS, [{"prompt": text} for text in TEXTS]):
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        assert read(path) == TEXTS
    for wrong in ('{"prompt": "a"}', '"a"', "[", ""):
        path.write_text(wrong, encoding="utf-8")
        with pytest.raises(PromptError, match=r"p\.json"):
            read(path)


@pytest.mark.parametrize("suffix", ["md", "html", "xml", "yaml", "csv.gz", "xlsx", "safetensors"])
def test_a_file_of_another_kind_is_refused_with_the_kinds_there_are(tmp_path, suffix):
    path = tmp_path / f"p.{suffix}"
    path.write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(PromptError, match=r"\.txt, \.jsonl.*\.parquet"):
        read(path)


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "json", "csv", "tsv"])
@pytest.mark.parametrize("coding", ["latin-1", "utf-16", "utf-16-le"])
def test_text_that_is_not_utf_8_is_refused(tmp_path, suffix, coding):
    path = tmp_path / f"p.{suffix}"
    path.write_bytes('["text é", "text"]\n'.encode(coding))
    with pytest.raises(PromptError, match=r"UTF-8|not JSON"):
        read(path)


def test_a_byte_order_mark_is_no_part_of_a_prompt_or_of_a_column(tmp_path):
    (tmp_path / "p.txt").write_text("a\n", encoding="utf-8-sig")
    (tmp_path / "p.csv").write_text("text,n\na,1\n", encoding="utf-8-sig")
    assert read(tmp_path / "p.txt") == read(tmp_path / "p.csv") == ["a"]


@pytest.mark.parametrize("line", ["[" * 5000, "9" * 5000, '{"text": "a", "text": "b"}', "{", "x"])
def test_json_that_no_reader_should_take_is_refused(tmp_path, line):
    for suffix in ("jsonl", "json"):
        (tmp_path / f"p.{suffix}").write_text(line + "\n", encoding="utf-8")
        with pytest.raises(PromptError, match="is not JSON"):
            read(tmp_path / f"p.{suffix}")


def test_rows_with_more_fields_than_the_heading_and_doubled_headings_are_refused(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("id,text\n1,half a text, and the rest\n", encoding="utf-8")
    with pytest.raises(PromptError, match="more fields"):
        read(path)
    path.write_text("text,text\na,b\n", encoding="utf-8")
    with pytest.raises(PromptError, match="two columns"):
        read(path)


def test_a_parquet_file_that_would_fill_the_memory_is_refused(tmp_path):
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"text": ["a" * 200_000_000]}), path, compression="zstd")
    assert path.stat().st_size < 200_000
    with pytest.raises(PromptError, match="would unpack"):
        read(path)


def test_one_long_text_named_by_many_rows_stays_one(tmp_path):
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"text": ["a" * 1_000_000] * 1000}), path)
    assert path.stat().st_size < 1_100_000
    assert sum(len(a.prompt) for a in ts.sweeps.source_of(path)) == 10**9
