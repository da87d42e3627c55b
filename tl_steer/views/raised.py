"""Which alerts are a bank's: those of a monitor that was fitted with it, or with some of its
vectors.

A log's rows name the bank that was watched for by its digest alone. A digest says nothing of parts,
so the log notes which vectors' numbers it is of: those of the bank in hand have to give it again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tl_steer.banks.bank import Bank
from tl_steer.monitoring.audit import banks_of
from tl_steer.monitoring.panel import Panel
from tl_steer.views.alerts import raised_with


def digests_of(bank: Bank, alerts: Any, monitor: Panel | None) -> set[str]:
    """The digests of this bank and of those parts of it that alerts or a monitor are of.

    Raises:
        AuditError: no audit log at the path.
    """
    own = bank.digest()
    told = _told(alerts, monitor)
    return {own, *(each for each, numbers in told.items() if _is_part(bank, numbers, each))}


def _told(alerts: Any, monitor: Panel | None) -> dict[str, Sequence[int]]:
    """Of every bank that is named, by its digest, the vectors' numbers."""
    found: dict[str, Sequence[int]] = {}
    if isinstance(alerts, (str, Path)):
        found |= banks_of(alerts)
    watched = [] if monitor is None else [monitor.bank]
    if isinstance(alerts, (list, tuple)):
        watched += raised_with(alerts).values()
    return found | {each.digest(): each.numbers for each in watched}


def _is_part(bank: Bank, numbers: Sequence[int], digest: str) -> bool:
    rows = {number: row for row, number in enumerate(bank.numbers)}
    if not numbers or len({*numbers}) < len(numbers) or not rows.keys() >= {*numbers}:
        return False
    return bank[[rows[number] for number in numbers]].digest() == digest
