"""What a sweep's folder says of itself is not taken on trust: what was asked for, and what parts
hold."""

from collections.abc import Mapping
from typing import Any

from tl_steer.files.jsons import real, text, texts, whole
from tl_steer.sweeps.metric import SHARED

BANK, RANDOM, UNSTEERED = "bank", "random", "unsteered"
# Columns of cells beside the metrics, and the types that they have on disk.
TYPES = {
    "prompt": "int64",
    "id": "string",
    "kind": "string",
    "vector": "int32",
    "dose": "double",
    "error": "string",
    "prompt_text": "string",
    "text": "string",
}
# In the column of errors.
OVERFLOWS = "the steered model overflows (NaN)"
_NUMBERS = 2**31  # of vectors; a column has 32 bits
# Rows of a part at a time are all in memory.
_MOST_BYTES = 1 << 32


def refuse_asked(asked: Mapping[str, Any]) -> None:
    """Refuse what no sweep asks for.

    Raises:
        ValueError, KeyError: saying what.
    """
    for name in ("model", "bank", "source", "target"):
        text(asked[name])
    real(asked["radius"])
    whole(asked["generate"]), whole(asked["part"], least=1)
    labels, order = texts(asked["labels"]), texts(asked["order"])
    metrics, of_text = asked["metrics"], texts(asked["of_text"])
    if not isinstance(metrics, Mapping) or not metrics or set(metrics) & set(TYPES):
        raise ValueError("it names no metrics, or one like a column")
    texts([*metrics, *metrics.values()])
    if sorted(order) != sorted(metrics) or not set(of_text) <= set(metrics):
        raise ValueError("its metrics are not those in order= and of_text=")
    _refuse_who(asked["who"], len(labels))


def _refuse_who(who: Any, vectors: int) -> None:
    if not isinstance(who, list) or not all(isinstance(w, list) and len(w) == 3 for w in who):
        raise ValueError("it does not say what steered")
    for kind, vector, dose in who:
        most = {BANK: _NUMBERS, RANDOM: len(who), UNSTEERED: 1}.get(text(kind), 0)
        if not whole(vector) < most or real(dose) != dose or (kind == UNSTEERED) != (dose == 0):
            raise ValueError(f"{kind} {vector} at dose {dose} is nothing that steers")
    if [w[0] for w in who].count(UNSTEERED) != 1 or who[-1][0] != UNSTEERED:
        raise ValueError("the unsteered model must be its last row, once")
    if len({w[1] for w in who if w[0] == BANK}) != vectors:
        raise ValueError("it does not have a label for every vector")
    if len({tuple(w) for w in who}) < len(who):
        raise ValueError("something steers twice")


def refuse_part(part: Any, asked: Mapping[str, Any]) -> None:
    """Refuse a Parquet file that holds no cells of this sweep, before any is read.

    Raises:
        ValueError: saying what is wrong.
    """
    wanted = TYPES | {name: "double" for name in asked["metrics"] if name != SHARED}
    found = {each.name: _type_of(each.type) for each in part.schema_arrow}
    if found != wanted:
        odd = sorted({*found.items()} ^ {*wanted.items()})[:3]
        raise ValueError(f"its columns are not those of this sweep: {odd}")
    meta, n = part.metadata, len(asked["who"])
    if meta.num_rows % n or not 0 < meta.num_rows <= n * asked["part"]:
        raise ValueError(f"it has {meta.num_rows} rows, for {n} a prompt")
    groups = map(meta.row_group, range(meta.num_row_groups))
    if sum(group.total_byte_size for group in groups) > _MOST_BYTES:
        raise ValueError(f"its cells take more than {_MOST_BYTES} bytes")


def _type_of(column: Any) -> str:
    return str(getattr(column, "value_type", column))
