"""Banks as folders, and as repositories on the Hugging Face Hub: one bank each, with its card."""

from pathlib import Path
from typing import TypeVar

from tl_steer.banks.algebra import Algebra
from tl_steer.banks.card import card_of
from tl_steer.banks.file import BANK_FILE, contents_of, load_checkpoint
from tl_steer.banks.hub import fetch, send
from tl_steer.errors import BankFileError, SettingError
from tl_steer.files.signatures import typed
from tl_steer.files.write import write_beside

BANK, _CARD = "bank.safetensors", "README.md"
Own = TypeVar("Own", bound="Pretrained")


class Pretrained(Algebra):
    """What is shared as the Hub has it."""

    @typed
    def save_pretrained(
        self,
        folder: str | Path,
        *,
        base_model: str | None = None,
        control: Algebra | None = None,
    ) -> Path:
        """Write a folder as the Hugging Face Hub has them: `bank.safetensors`, and what is known of
        the bank as a model card, `README.md`. Both are written anew.

        Args:
            base_model: the model's name on the Hub ("owner/name"); the bank's own name for it,
                where that is one. Otherwise the card names none.
            control: `Bank.from_vectors(model, random_bank(bank), prompts=...)` on the bank's own
                prompts. The card compares them; without, it says that no control was run.

        Raises:
            SettingError: as `save`, and for what is no `base_model` or `control`.
            WriteError: a file cannot be written.
        """
        card = card_of(self, where=".", base_model=base_model, control=control)
        BANK_FILE.write(Path(folder) / BANK, *contents_of(self))
        write_beside(Path(folder) / _CARD, card.encode())
        return Path(folder)

    @typed
    def push_to_hub(
        self,
        repo_id: str,
        *,
        base_model: str | None = None,
        control: Algebra | None = None,
        private: bool = True,
        token: str | None = None,
    ) -> str:
        """`save_pretrained`, as one commit to a repository on the Hugging Face Hub, which is made
        if it is not there.

        Labels, notes and settings are in the bank and in its card: read them before others do.

        Args:
            repo_id: "owner/name".
            base_model, control: as for `save_pretrained`.
            private: whether a new repository is; one that is there stays what it is.
            token: that of `hf auth login`, unless given. It goes to the Hub and nowhere else.

        Returns:
            The commit's address.

        Raises:
            SettingError: as `save_pretrained`, before anything is sent.
            WriteError: the Hub cannot be reached, or refuses.
        """
        card = card_of(self, where=repo_id, base_model=base_model, control=control)
        files = {BANK: BANK_FILE.payload(*contents_of(self)), _CARD: card.encode()}
        message = f"A bank of {len(self)}"
        return send(repo_id, files, message=message, private=private, token=token)

    @classmethod
    @typed
    def from_pretrained(
        cls: type[Own], where: str | Path, *, revision: str | None = None, token: str | None = None
    ) -> Own:
        """Read a bank from a folder that `save_pretrained` wrote, or from the Hugging Face Hub.

        Nothing in it is executed, and its labels and vectors deserve the trust that its author
        does.

        Args:
            where: a folder, or "owner/name"; a folder of that name comes first.
            revision: a branch, a tag or a commit. Give a commit for what must not change.
            token: as for `push_to_hub`.

        Raises:
            SettingError: a revision of a folder.
            BankFileError: there is none, the Hub cannot be reached or refuses, or it is no bank.
        """
        folder = Path(where)
        if folder.is_file():
            raise BankFileError(f"{where} is a file; a bank's own is read by load_bank.")
        if not folder.is_dir():
            path = fetch(str(where), BANK, revision=revision, token=token)
        elif revision is None:
            path = folder / BANK
        else:
            raise SettingError(f"{where} is a folder here, without revisions: leave revision= out.")
        return load_checkpoint(cls, path)[0]
