"""Monitors: a bank kept from before deployment, looked for in deployment.

Fitting, watching, alerts, the audit log and the file; `detectors` and `statistics` are its maths.
Imports `banks` and what lies below.
"""

from tl_steer.monitoring.alert import Alert
from tl_steer.monitoring.audit import AuditLog, audit_table, read_log
from tl_steer.monitoring.evidence import Effects, effects, spoken_effects
from tl_steer.monitoring.file import load_panel, save_panel
from tl_steer.monitoring.monitor import LOOKED_FOR, Monitor, split_of
from tl_steer.monitoring.panel import Panel, Scores
from tl_steer.monitoring.traffic import Traffic, observe
from tl_steer.monitoring.watch import watch, watch_torch

__all__ = [
    "LOOKED_FOR",
    "Alert",
    "AuditLog",
    "Effects",
    "Monitor",
    "Panel",
    "Scores",
    "Traffic",
    "audit_table",
    "effects",
    "load_panel",
    "observe",
    "read_log",
    "save_panel",
    "split_of",
    "spoken_effects",
    "watch",
    "watch_torch",
]
