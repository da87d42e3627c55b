"""Reading and writing: whole or not at all, never pickle, sizes checked before they are used.

Imports `errors` alone.
"""

from tl_steer.files.record import Record
from tl_steer.files.signatures import checked
from tl_steer.files.tables import (
    Sheet,
    Tabled,
    draw,
    number,
    plain,
    shorten,
    to_csv,
    to_html,
    to_text,
)
from tl_steer.files.tensors import TensorFile, digest
from tl_steer.files.write import write_beside

__all__ = [
    "Record",
    "Sheet",
    "Tabled",
    "TensorFile",
    "checked",
    "digest",
    "draw",
    "number",
    "plain",
    "shorten",
    "to_csv",
    "to_html",
    "to_text",
    "write_beside",
]
