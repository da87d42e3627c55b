"""Faults that are none: what changes cannot be seen from outside, and why."""


def reason(key: tuple[str, str, str]) -> str:
    """Why the mutant (path, line before, line after) does what the original does, or ""."""
    return next((why for why, keys in EQUIVALENT.items() if key in keys), "")


EQUIVALENT: dict[str, list[tuple[str, str, str]]] = {}
