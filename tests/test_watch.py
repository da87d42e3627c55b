"""A monitor on a model at work: same scores as offline, alerts, the audit log, nothing left
behind."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from conftest import D, HAS_BRIDGE, TARGET, bank_of, bridge
from state import state_of
from test_monitor import HORIZON, monitor_of, prompts, scores_of

import tl_steer as ts
from tl_steer.audit import AlertRow, AuditLog, RequestRow, read_log
from tl_steer.errors import AuditError, ForeignModelError, PromptError, SettingError
from tl_steer.traffic import observe


def answer(model, tokens, n=HORIZON + 1, **how):
    """generate() on rows of one length."""
    return model.generate(
        tokens, max_new_tokens=n, do_sample=False, verbose=False, return_type="tokens", **how
    )
