"""Read a GGUF file once, keep it as safetensors.

transformers dequantises GGUF slowly, so the result is kept in a cache folder. The folder is written
under another name and renamed when complete, with a manifest of checksums; one that is incomplete
or does not match its manifest is thrown away and made again.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tl_steer.errors import ModelError

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
    digest = sha256(gguf)
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


def is_whole(folder: Path) -> bool:
    """Whether every file of a cache folder is there with the checksum it was written with."""
    try:
        listed: Any = json.loads((folder / _MANIFEST).read_text())
        return bool(listed) and all(sha256(folder / name) == sum_ for name, sum_ in listed.items())
    except (OSError, ValueError, AttributeError):
        return False


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        sha = hashlib.sha256()
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"transformers cannot read {gguf}: {error}") from error
    # Dequantised weights are plain ones, but transformers goes on refusing to save them.
    for holder, name in ((model.config, "quantization_config"), (model, "hf_quantizer")):
        if hasattr(holder, name):
            delattr(holder, name)
    model.is_quantized = False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_manifest(folder: Path) -> None:
    sums = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
    for name in sums:
        with open(folder / name, "rb") as file:
            os.fsync(file.fileno())
    with open(folder / _MANIFEST, "w") as file:
        json.dump(sums, file)
        file.flush()
        os.fsync(file.fileno())
