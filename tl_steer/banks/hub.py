"""The Hugging Face Hub: sending files, and getting one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tl_steer.errors import BankFileError, SteerError, WriteError
from tl_steer.files.text import plain


def send(
    repo_id: str, files: Mapping[str, bytes], *, message: str, private: bool, token: str | None
) -> str:
    """Files as one commit to a repository, which is made if it is not there; the commit's address.

    Raises:
        WriteError: the Hub cannot be reached, or refuses.
    """

    def work() -> Any:
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        adding = [CommitOperationAdd(name, content) for name, content in files.items()]
        return api.create_commit(repo_id, adding, commit_message=message).commit_url

    failed = f"Nothing was written to {repo_id} on the Hub"
    return plain(str(_asked(work, failed, WriteError)))


def fetch(repo_id: str, name: str, *, revision: str | None, token: str | None) -> Path:
    """Where a file of a repository is, once it has come.

    Raises:
        BankFileError: there is none, the Hub cannot be reached, or it refuses.
    """

    def work() -> Any:
        from huggingface_hub import HfApi

        return HfApi(token=token).hf_hub_download(repo_id, name, revision=revision)

    at = "" if revision is None else f" at revision {revision}"
    failed = f"No folder is called {repo_id}, and there is no such bank on the Hub{at}"
    return Path(_asked(work, failed, BankFileError))


def _asked(work: Callable[[], Any], failed: str, kind: type[SteerError]) -> Any:
    """What the Hub's client gives; whatever it raises is one error.

    What the server or the client said is neither quoted nor kept as the error's cause: it may hold
    the token.
    """
    try:
        return work()
    except Exception as error:  # its classes change with its versions, and with httpx's
        reason = _reason(error)
    raise kind(f"{failed}: {reason}")


def _reason(error: Exception) -> str:
    from huggingface_hub import constants, errors

    here = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "nobody answers"
    known: list[tuple[type[Exception], str]] = [
        (errors.HFValidationError, "that is no name of a repository; expected 'owner/name'."),
        (errors.OfflineModeIsEnabled, f"{here}."),
        (errors.LocalEntryNotFoundError, f"it has not been downloaded before, and {here}."),
        (errors.GatedRepoError, "ask its owner for access, on its page."),
        (errors.RevisionNotFoundError, "the repository has no such revision."),
        (
            errors.RepositoryNotFoundError,
            "there is none of that name, or you may not see it. Log in (hf auth login), or give a "
            "token= that may.",
        ),
        (errors.EntryNotFoundError, "the repository holds something else."),
    ]
    for kind, told in known:
        if isinstance(error, kind):
            return told
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"it refuses you ({status}). Log in (hf auth login), or give a token= that may."
    if status is not None:
        return f"it answered with {status}."
    return f"{getattr(error, 'strerror', None) or type(error).__name__}."
