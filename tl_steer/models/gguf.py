"""Read a GGUF file once, keep it as safetensors.

transformers dequantises GGUF slowly, so the result is kept in a cache folder. The folder is written
under another name and renamed when complete, with a manifest of checksums; one that is incomplete
or does not match its manifest is thrown away and made again.
"""

import json
import os
import shutil
import tempfile
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from tl_steer.errors import ModelError
from tl_steer.files.digest import sha256
from tl_steer.files.gguf import tensors_of

_MANIFEST = "manifest.json"


def cache_folder() -> Path:
    """`$TL_STEER_CACHE`, or the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TL_STEER_CACHE") or Path(base) / "tl_steer")


def converted(gguf: Path, *, cache: Path | None = None) -> Path:
    """The folder with `gguf` as a plain transformers model; made now if need be (about 30 s).

    Raises:
        ModelError: the file is missing or cannot be read.
    """
    if not gguf.is_file():
        raise ModelError(f"No GGUF file at {gguf}.")
    digest = _sum_of(gguf)
    folder = (cache or cache_folder()) / f"{gguf.stem}-{digest[:16]}"
    if is_whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _convert(gguf, draft)
        _write_manifest(draft)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            os.replace(draft, folder)
        except OSError:
            # Somebody else finished first; theirs is as good if it is whole.
            if not is_whole(folder):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def refuse_damaged(gguf: Path) -> None:
    """Refuse what is no GGUF file, or counts more than a file of its size can hold: readers loop
    over what it counts.

    Raises:
        ModelError: saying which.
    """
    try:
        with open(gguf, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as view:
            tensors_of(view)
    except OSError as error:
        raise ModelError(f"{gguf} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ModelError(f"{gguf} is no whole GGUF file: {error}.") from error


def is_whole(folder: Path) -> bool:
    """Whether every file of a cache folder is there with the checksum it was written with."""
    try:
        listed: Any = json.loads((folder / _MANIFEST).read_text())
        return bool(listed) and all(_sum_of(folder / name) == sum_ for name, sum_ in listed.items())
    except (OSError, ValueError, AttributeError):
        return False


def _sum_of(path: Path) -> str:
    with open(path, "rb") as file:
        return sha256(file).hex()


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    refuse_damaged(gguf)
    try:
        model, told = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except Exception as error:
        # Its readers of GGUF and of tokenizers have no errors of their own; a damaged file ends in
        # plain `Exception`, in IndexError, or in whatever a wrong offset leads to.
        raise ModelError(
            f"transformers cannot read {gguf}: {type(error).__name__}: {str(error)[:300]}"
        ) from error
    # transformers fills gaps with random numbers, and only logs it.
    missing = sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]]))
    if missing:
        raise ModelError(
            f"{gguf} is not a whole model: {len(missing)} weights are not in it as the model needs "
            f"them, such as {missing[0]}."
        )
    # Dequantised weights are plain ones, but transformers goes on refusing to save them.
    for holder, name in ((model.config, "quantization_config"), (model, "hf_quantizer")):
        if hasattr(holder, name):
            delattr(holder, name)
    model.is_quantized = False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_manifest(folder: Path) -> None:
    sums = {path.name: _sum_of(path) for path in sorted(folder.iterdir()) if path.is_file()}
    for name in sums:
        with open(folder / name, "rb") as file:
            os.fsync(file.fileno())
    with open(folder / _MANIFEST, "w") as file:
        json.dump(sums, file)
        file.flush()
        os.fsync(file.fileno())
