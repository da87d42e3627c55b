"""Reading and writing: whole or not at all, never pickle, sizes checked before they are used.

Imports `errors` alone.
"""

from tl_steer.files.record import Record as Record
from tl_steer.files.signatures import checked as checked
from tl_steer.files.tables import (
    Sheet as Sheet,
    Tabled as Tabled,
    to_html as to_html,
    to_text as to_text,
)
from tl_steer.files.tensors import TensorFile as TensorFile
from tl_steer.files.write import write_beside as write_beside
