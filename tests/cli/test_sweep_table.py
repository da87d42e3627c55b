"""What `tl-steer sweep` prints on a terminal of 80 columns."""

import importlib
import io

import tiny_sweep
from rich.console import Console

app = importlib.import_module("tl_steer.cli.app")


def test_a_row_of_the_narrow_table_is_one_line_of_80_columns_with_all_its_numbers(monkeypatch):
    found = tiny_sweep.run()
    out = Console(file=io.StringIO(), width=80, color_system=None)
    monkeypatch.setattr(app, "out", out)
    sheet = found.table(intervals=False)
    app.print_table(sheet, narrow=True)
    lines = out.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert all(any(line.split() == " ".join(row).split() for line in lines) for row in sheet.rows)
    assert "intervals" not in sheet.note
    assert not any("(" in cell for row in sheet.rows for cell in row)
