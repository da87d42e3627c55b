"""Tables in a real Jupyter kernel: each is shown once, and asking for its text shows nothing."""

import pytest

nbformat = pytest.importorskip("nbformat", reason="no nbconvert (pip install nbconvert)")
pytest.importorskip("ipykernel", reason="no ipykernel (pip install ipykernel)")
preprocessors = pytest.importorskip("nbconvert.preprocessors")

SETUP = """
from tl_steer.files.tables import Sheet, Tabled

class Small(Tabled):
    def table(self):
        return Sheet("Small table", ("name", "number"), (("a", "1"), ("b", "2")))

small = Small()
"""


@pytest.fixture(scope="module")
def cells():
    v4 = nbformat.v4
    sources = [SETUP, "small", "said = repr(small)", "print(said)"]
    book = v4.new_notebook(cells=[v4.new_code_cell(source) for source in sources])
    preprocessors.ExecutePreprocessor(timeout=120, kernel_name="python3").preprocess(book, {})
    return [cell.outputs for cell in book.cells]


def test_a_table_is_shown_once_as_html_and_as_text(cells):
    (shown,) = cells[1]
    assert shown.output_type == "execute_result"
    assert shown.data["text/html"].count("<table>") == 1
    assert "Small table" in shown.data["text/plain"]


def test_asking_for_the_text_shows_nothing_and_gives_all_of_it(cells):
    assert cells[2] == []
    (printed,) = cells[3]
    assert printed.output_type == "stream"
    assert "Small table" in printed.text
    assert "│ b    │ 2      │" in printed.text
