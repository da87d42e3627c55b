"""What several benchmarks do with banks and with the prompt that one was learned on."""

import dataclasses
from typing import Any

import tl_steer as ts
from tl_steer.hook_points.positions import LAST_THREE


def both_signs(bank: ts.Bank) -> ts.Bank:
    """The vectors, then their opposites."""
    opposite = dataclasses.replace(bank, vectors=-bank.vectors, responses=-bank.responses)
    return bank.merge(opposite)


def objective_of(model: Any, bank: ts.Bank, prompt: str) -> ts.objectives.Objective:
    """MELBO's between a bank's source and target, last three tokens; the model must be frozen."""
    tokens = ts.tokenize(model, [ts.chat(prompt)])
    segment = ts.Segment(model, tokens, bank.source.name, bank.target.name)
    chosen = LAST_THREE.measure(segment.mask, tokens.has_bos)
    return ts.objectives.Objective(segment, ts.objectives.Displacement(), chosen)
