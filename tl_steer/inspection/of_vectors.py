"""What results about vectors of a bank on one prompt have in common."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tl_steer.banks.origin import Origin
from tl_steer.errors import SettingError
from tl_steer.files.tables import Tabled
from tl_steer.files.text import capped
from tl_steer.models.fingerprint import Fingerprint


class OfVectors(Tabled):
    """Which vectors a result is of, by whom it was made, and the texts of the tokens in it."""

    model: str
    vectors: tuple[int, ...]
    words: Mapping[int, str]
    bank: str
    fingerprint: Fingerprint | None
    # What one does to a vector ("inspect"), and the call that does it.
    VERB: ClassVar[str]
    CALL: ClassVar[str]

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def origin(self) -> Origin:
        """The bank and the model that this is of."""
        return Origin(self.bank, self.model, self.fingerprint)

    def index(self, vector: int) -> int:
        """Where a vector of the bank is in here.

        Raises:
            SettingError: it is not.
        """
        if vector not in self.vectors:
            there = ", ".join(map(str, self.vectors))
            raise SettingError(
                f"Vector {vector} was not {self.VERB.removesuffix('e')}ed; there are {there}. "
                f"{self.VERB.capitalize()} it: "
                f"{self.CALL}(model, bank, prompt, vectors=[{vector}])."
            )
        return self.vectors.index(vector)

    def word(self, token: int) -> str:
        """The text of a token id, of at most 64 characters."""
        return capped(self.words.get(token, f"<token {token}>"))

    def header(self, names: Sequence[str]) -> dict[str, Any]:
        """What stands in a file beside the tensors: the fields of these names, and those above."""
        meta = {name: getattr(self, name) for name in names}
        meta |= {"words": {str(token): word for token, word in self.words.items()}}
        if self.fingerprint is not None:
            meta |= {"fingerprint": dataclasses.asdict(self.fingerprint)}
        return meta
