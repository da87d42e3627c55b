"""The formats that banks are written in and read from: registered by name, ours as well."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from tl_steer.banks.bank import Bank
from tl_steer.banks.provenance import check_fits
from tl_steer.errors import BankFileError, SettingError, WriteError
from tl_steer.files.read import read_bounded
from tl_steer.files.registry import named
from tl_steer.files.signatures import typed
from tl_steer.files.write import write_beside
from tl_steer.models.model import HookedModel
from tl_steer.models.tokens import Prompts, TokenBatch

# A file's bytes; or, for a folder, those of each file in it by its name.
Content: TypeAlias = bytes | Mapping[str, bytes]
Write: TypeAlias = Callable[[Bank, HookedModel | None], Content]


@runtime_checkable
class Found(Protocol):
    """What a file holds, before there is a model: `Directions`, or edits of another kind."""

    def bank(
        self, model: HookedModel, *, prompts: Prompts | TokenBatch, target: int | str | None = None
    ) -> Bank:
        """A bank of it, with what it does on these prompts; see `Directions.bank`."""


Read: TypeAlias = Callable[[Path], Found]


@dataclass(frozen=True)
class Format:
    """How a tool's files are made of a bank, and read."""

    name: str
    write: Write
    read: Read | None


# A vector for each of 128 layers, 16,384 wide, is 8 MB; as JSON six times that.
MOST_BYTES = 256 << 20
FORMATS: dict[str, Format] = {}
"""The formats that `export` and `read` know, by name; `register` adds one."""


def register(name: str, *, write: Write, read: Read | None = None) -> None:
    """Make a format known to `export` and `read`, and so to `tl-steer export` and `import`.

    Args:
        write: `(bank, model)` to the bytes of a file, or to those of each file of a folder by its
            name. The model is `None` unless the caller gave one. It refuses (`SettingError`,
            `HookPointError`) what the format cannot say: other kinds, places or tokens.
        read: `(path)` to `Directions`, or to what else has a `bank`. What is in the file is
            hostile.

    Raises:
        SettingError: another format has the name.
    """
    there = FORMATS.get(name)
    if there is not None and there.write.__module__ != write.__module__:
        raise SettingError(f"There is a format {name!r} already; register yours by another name.")
    FORMATS[name] = Format(name, write, read)


@typed
def export(bank: Bank, path: str | Path, *, to: str, model: HookedModel | None = None) -> Path:
    """Write vectors as another tool's file, whole or not at all; or as a folder of such files.

    Vectors are written at the bank's own length; `bank[4] * 2` is twice that. Most formats hold one
    vector, so choose it first.

    Args:
        to: the format's name; docs/interop.md lists them.
        model: for formats that have to know more of the model than the bank does.

    Raises:
        SettingError: an unknown format, or one that cannot say what the bank does (its kind, its
            hook point, the tokens that it acts on), with the reason.
        NotFiniteError: vectors that hold NaN or infinity.
        ForeignModelError: the bank was made for another model than this.
        WriteError: the file cannot be written.

    Wrong to use as an archive: provenance, responses and scores stay behind (`Bank.save`).
    """
    write = named(FORMATS, to, what="format").write
    if model is not None:
        check_fits(model, bank.provenance)
    content = write(bank, model)
    if isinstance(content, bytes):
        write_beside(Path(path), content)
    else:
        _refuse_files(Path(path), content)
        for name, payload in content.items():
            write_beside(Path(path) / name, payload)
    return Path(path)


@typed
def read(path: str | Path, *, format: str) -> Found:
    """What another tool's file holds: as a rule `Directions`, vectors and the blocks at whose
    output they are added.

    Raises:
        SettingError: an unknown format, or one that is only written.
        BankFileError: the file is missing, damaged, too large or something else.
    """
    found = named(FORMATS, format, what="format")
    if found.read is None:
        read_too = ", ".join(name for name, each in FORMATS.items() if each.read is not None)
        raise SettingError(f"The format {format!r} can only be written; {read_too} are read.")
    return found.read(Path(path))


def content_of(path: Path) -> bytes:
    """A foreign file's bytes.

    Raises:
        BankFileError: it is missing, cannot be read, or holds more than 256 MB.
    """
    try:
        return read_bounded(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BankFileError(f"{path} cannot be read: {reason}.") from error


def _refuse_files(path: Path, content: Mapping[str, Any]) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise WriteError(f"{path} is a file; this format writes a folder ({', '.join(content)}).")
    others = {each.name for each in path.iterdir() if not each.name.startswith(".")} - set(content)
    if others:  # a server would load an earlier bank's vectors as this one's
        raise WriteError(
            f"{path} holds other files already ({', '.join(sorted(others)[:3])}); write this "
            "folder anew, elsewhere."
        )
