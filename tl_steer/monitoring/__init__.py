"""Monitors: a bank kept from before deployment, looked for in deployment.

Fitting, watching, alerts, the audit log and the file; `detectors` and `statistics` are its maths.
Imports `banks` and what lies below.
"""

from tl_steer.monitoring.alert import Alert as Alert
from tl_steer.monitoring.audit import (
    AuditLog as AuditLog,
    read_log as read_log,
    verify_log as verify_log,
)
from tl_steer.monitoring.evidence import Effects as Effects, spoken_effects as spoken_effects
from tl_steer.monitoring.monitor import Monitor as Monitor, split_of as split_of
from tl_steer.monitoring.panel import Panel as Panel, Scores as Scores
from tl_steer.monitoring.traffic import Traffic as Traffic, observe as observe
from tl_steer.monitoring.watch import watch as watch, watch_torch as watch_torch
