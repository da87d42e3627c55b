"""Files of every kind, damaged in every way that is cheap to think of.

A case is right if the file is refused with the error of its kind, or loads to something that works
(is saved again, shown, used). What is only damaged, and not signed anew, must load to the very
numbers that were saved.
"""

import dataclasses
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tiny_sweep
import torch
from safetensors import safe_open
from safetensors.torch import save

import tl_steer as ts
from tl_steer.banks.file import save_checkpoint
from tl_steer.elicitation.checkpoint import RunRecord, read
from tl_steer.errors import (
    BankFileError,
    InspectionFileError,
    ModelError,
    PromptError,
    SettingError,
    SweepFileError,
)
from tl_steer.files.tensors import digest
from tl_steer.inspection.layout import AXES, INSPECTION_FILE
from tl_steer.models.gguf import converted
from tl_steer.organisms.adapter import read_adapter
from tl_steer.sweeps.state import STATE_FILE

OLD = Path(__file__).parents[1] / "fixtures" / "0.1.0"
DEEP: Any = 0
for _ in range(900):
    DEEP = [DEEP]
ODD: list[Any] = [None, True, -1, 0, 1.5, float("nan"), float("inf"), 10**400, 2**70, "", "x"]
ODD += ["\x1b]0;title\x07", "‮", [], {}, [1], ["a", 3], {"a": None}, "x" * 5000, DEEP, 1e308]
TENSORS = [
    torch.zeros(0),
    torch.zeros(()),
    torch.full((3,), float("nan")),
    torch.ones(2, 3, dtype=torch.int64),
    torch.ones(4, 6, dtype=torch.bool),
    torch.full((4, 6), float("inf"), dtype=torch.float64),
    torch.ones(4, 6, dtype=torch.float8_e4m3fn),
    torch.ones(1, 0, 7),
    torch.full((5,), 2**62),
]


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        path: the file that is damaged; `folder` is what is copied, where it is one of several.
        load: reads it; `use` does what is done with what was read, and returns its numbers.
        errors: by which it may be refused.
        key: of its signed header, where it has one.
        exact: whether damage may never change a number.
    """

    name: str
    path: Path
    load: Callable[[Path], Any]
    use: Callable[[Any], Any]
    errors: tuple[type[Exception], ...]
    key: str = ""
    exact: bool = True
    folder: bool = False


def bank(n: int = 5) -> ts.Bank:
    made = tiny_sweep.bank(tiny_sweep.Reading(), n)
    labels = tuple(f"note {i}" for i in range(n))
    return dataclasses.replace(made, labels=labels).with_score("other", made.objective)


def kinds(home: Path) -> list[Kind]:
    """A good file of every kind, in a folder."""
    home.mkdir(parents=True, exist_ok=True)
    whole, record = bank(), RunRecord("2.0", 4, 3)
    state = {"run": record.to_tensor(), "method.step": torch.tensor(3)}
    plain = whole.save(home / "bank.safetensors")
    checkpoint = save_checkpoint(whole, home / "checkpoint.safetensors", state)
    seen = ts.inspection.load_inspection(OLD / "inspection.safetensors")
    inspection = seen.save(home / "inspection.safetensors")
    adapter = shutil.copy(OLD / "adapters.safetensors", home / "adapters.safetensors")
    found = [
        Kind("bank", plain, ts.load_bank, _use_bank, (BankFileError,), "tl_steer"),
        Kind(
            "bank of adapters", Path(adapter), ts.load_bank, _use_bank, (BankFileError,), "tl_steer"
        ),
        Kind("checkpoint", checkpoint, read, _use_checkpoint, (BankFileError,), "tl_steer"),
        Kind(
            "inspection",
            inspection,
            ts.inspection.load_inspection,
            _use_inspection,
            (InspectionFileError,),
            INSPECTION_FILE.key,
        ),
    ]
    sweep = home / "sweep"
    tiny_sweep.run(sweep, n=7)
    for name in ("part-000001.parquet", "_state.safetensors", "_sweep.json"):
        key = STATE_FILE.key if name.startswith("_state") else ""
        load, use = (lambda path: ts.load_sweep(path.parent)), _use_sweep
        kind = f"sweep, {name}"
        found.append(Kind(kind, sweep / name, load, use, (SweepFileError,), key, folder=True))
    return [*found, *_prompt_files(home), _adapter(home), _gguf(home)]


def _prompt_files(home: Path) -> Iterator[Kind]:
    texts = ["one fish", "two fish", 'red, "blue" fish', "é ü 字"] * 5
    rows = [{"id": i, "text": text} for i, text in enumerate(texts)]
    content = {
        "txt": "\n".join(texts),
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "json": json.dumps(rows, indent=1),
        "csv": "id,text\n"
        + "".join(f'{i},"{t.replace(chr(34), chr(34) * 2)}"\n' for i, t in enumerate(texts)),
        "tsv": "id\ttext\n" + "".join(f"{i}\tt {i}\n" for i in range(20)),
    }
    for suffix, text in content.items():
        path = home / f"prompts.{suffix}"
        path.write_text(text, encoding="utf-8")
        yield Kind(path.name, path, _prompts, len, (PromptError,), exact=False)
    path = home / "prompts.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    yield Kind(path.name, path, _prompts, len, (PromptError,), exact=False)


def _prompts(path: Path) -> list[Any]:
    return [(asked.id, asked.prompt) for asked in ts.sweeps.source_of(path)]


def _adapter(home: Path) -> Kind:
    folder = home / "adapter"
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.a.lora_{}.weight"
    tensors = {name.format("A"): torch.ones(2, 3), name.format("B"): torch.ones(4, 2)}
    (folder / "adapter_model.safetensors").write_bytes(save(tensors))
    load = lambda path: read_adapter(path.parent)  # noqa: E731
    path = folder / "adapter_model.safetensors"
    return Kind("organism's adapter", path, load, str, (ModelError,), exact=False, folder=True)


def _gguf(home: Path) -> Kind:
    """Large enough to be taken for one; transformers needs more than this to make a model of it."""
    import gguf

    path = home / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(16)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b"])
    writer.add_token_merges([])
    writer.add_tensor("token_embd.weight", torch.ones(2, 8).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    load = lambda path: converted(path, cache=path.parent / "cache")  # noqa: E731
    return Kind("gguf", path, load, str, (ModelError,), exact=False)


def _use_bank(found: ts.Bank) -> Any:
    repr(found), found._repr_html_(), found.distinct()
    ts.random_bank(found, n=2)
    found.perturbation()
    scratch = _scratch()
    again = ts.load_bank(found.save(scratch / "again.safetensors"))
    assert again.digest() == found.digest()
    assert again.provenance == found.provenance or "nan" in repr(found.provenance)
    names = ("vectors", "responses", "objective")
    return [getattr(found, name).tolist() for name in names], found.labels, found.digest()


def _use_checkpoint(found: Any) -> Any:
    found.finished, found.vec_batch(8)
    return _use_bank(found.bank), found.record, {n: t.tolist() for n, t in found.state.items()}


def _use_inspection(found: Any) -> Any:
    repr(found)
    again = ts.inspection.load_inspection(found.save(_scratch() / "again.safetensors"))
    ts.views.logit_change(again, again.vectors[0]).html()
    # Some parts are there only if they were asked for.
    held = {name: value for name in AXES if (value := getattr(found, name)) is not None}
    return {name: v.tolist() for name, v in held.items()}, found.tokens, found.labels


def _use_sweep(found: Any) -> Any:
    repr(found), found.failures(), found.rows()
    return found.cells().to_pylist(), json.dumps(found.asked), found.state.sums.tolist()


def _scratch() -> Path:
    return _SCRATCH[0]


_SCRATCH = [Path()]


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Bits turned, ends cut off, stretches overwritten, repeated or swapped."""
    found = bytearray(content)
    at = chance.randrange(max(len(found), 1))
    length = chance.choice((1, 4, 16, 200))
    match chance.randrange(7):
        case 0 | 1:
            for _ in range(chance.choice((1, 1, 3))):
                found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
        case 2:
            del found[at:]
        case 3:
            found[at : at + length] = chance.randbytes(length)
        case 4:
            found[at : at + length] = b"\xff" * length
        case 5:
            found[at:at] = found[at : at + length]
        case 6:
            found = bytearray(chance.randbytes(chance.choice((0, 7, 300))))
    return bytes(found)


def signed_anew(path: Path, key: str, chance: random.Random) -> bytes:
    """A header or a tensor of the forger's choice, with a checksum that fits."""
    with safe_open(path, framework="pt") as file:
        meta = json.loads(file.metadata()[key])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del meta["sha256"]
    if chance.random() < 0.6:
        place = meta
        while chance.random() < 0.7 and (
            inner := [v for v in place.values() if isinstance(v, dict)]
        ):
            place = chance.choice(inner) or place
        name = chance.choice([*place]) if place and chance.random() < 0.9 else "extra"
        if chance.random() < 0.2:
            place.pop(name, None)
        else:
            place[name] = chance.choice(ODD)
    else:
        name = chance.choice([*tensors]) if chance.random() < 0.9 else "extra"
        if chance.random() < 0.2:
            tensors.pop(name, None)
        else:
            tensors[name] = chance.choice(TENSORS).clone()
    try:
        meta["sha256"] = digest(meta, tensors)
        return save(tensors, {key: json.dumps(meta)})
    except (ValueError, RecursionError):  # not even a forger could write it
        return b""


def original(kind: Kind, home: Path) -> str:
    """What the undamaged file says."""
    home.mkdir(parents=True, exist_ok=True)
    _SCRATCH[0] = home
    # Not for ==: NaN is not equal to itself.
    return repr(kind.use(kind.load(kind.path))) if kind.exact else ""


def case(kind: Kind, home: Path, chance: random.Random, expected: str) -> str:
    """Damage a copy and read it. Returns what went wrong, or nothing."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    _SCRATCH[0] = home
    forged = bool(kind.key) and chance.random() < 0.5
    content = kind.path.read_bytes()
    content = signed_anew(kind.path, kind.key, chance) if forged else damaged(content, chance)
    if kind.folder:
        shutil.copytree(kind.path.parent, home / "all")
    path = home / "all" / kind.path.name if kind.folder else home / kind.path.name
    path.write_bytes(content)
    try:
        found = kind.use(kind.load(path))
    except kind.errors as error:
        return "" if str(error).isprintable() or "\n" in str(error) else f"prints {str(error)!r}"
    except SettingError as error:
        return f"loads, and cannot be used: {error!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    changed = kind.exact and not forged and repr(found) != expected
    return "other numbers than were saved" if changed else ""
