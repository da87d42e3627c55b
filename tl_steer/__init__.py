"""tl_steer: latent perturbations of language models, learned without labels, beside
TransformerLens.

bank = ts.elicit(model, [prompt], source="blocks.3.hook_resid_post",
                 target="blocks.9.hook_resid_post", n=32)
with ts.perturbing(model, bank[4]):
    model.generate(prompt, max_new_tokens=40)
"""

from tl_steer import views
from tl_steer.adapter import Adapter
from tl_steer.alert import Alert
from tl_steer.band import DoseResponse
from tl_steer.bank import Bank, Provenance, random_bank
from tl_steer.bankfile import load_bank
from tl_steer.controls import shuffled
from tl_steer.divergence import Cosine, Displacement, Divergence
from tl_steer.dose import dose_response
from tl_steer.elicit import elicit
from tl_steer.endpoint import judged
from tl_steer.errors import SteerError
from tl_steer.generate import generate
from tl_steer.hooks import capturing, perturbing
from tl_steer.inband import InBand
from tl_steer.inspect import inspect
from tl_steer.inspection import Inspection
from tl_steer.inspectionfile import load_inspection
from tl_steer.load import load_model
from tl_steer.methods import (
    Dct,
    Iterate,
    Jacobian,
    Melbo,
    Method,
    Power,
    Quadratic,
    ResponseSogi,
    Sogi,
)
from tl_steer.metric import Metric, Reading
from tl_steer.model import HookedModel, adopt, frozen, resolve
from tl_steer.monitor import Monitor
from tl_steer.objective import Evaluation, Objective
from tl_steer.output_kl import OutputKL
from tl_steer.penalty import Differential, OffManifold, Population, Weighted
from tl_steer.perturbation import Additive, Perturbation
from tl_steer.positions import Positions
from tl_steer.promptsource import source_of
from tl_steer.radius import Calibrated, ShareOfNorm
from tl_steer.rank import Exponent, Score, Toward, rank
from tl_steer.report import Report, report
from tl_steer.results import Generations
from tl_steer.scan import Scan, scan
from tl_steer.scorer import Scorer, refusal, regex
from tl_steer.segment import Segment
from tl_steer.select import halve
from tl_steer.selection import Selection
from tl_steer.site import Site
from tl_steer.start import Adapters, Start, Vectors
from tl_steer.sweep import sweep
from tl_steer.sweepresult import SweepResult, load_sweep
from tl_steer.tokens import TokenBatch, chat, tokenize
from tl_steer.verdict import mark, marked
from tl_steer.watch import watch

__version__ = "0.1.0"

__all__ = [
    "Adapter",
    "Adapters",
    "Additive",
    "Alert",
    "Bank",
    "Calibrated",
    "Cosine",
    "Dct",
    "Differential",
    "Displacement",
    "Divergence",
    "DoseResponse",
    "Evaluation",
    "Exponent",
    "Generations",
    "HookedModel",
    "InBand",
    "Inspection",
    "Iterate",
    "Jacobian",
    "Melbo",
    "Method",
    "Metric",
    "Monitor",
    "Objective",
    "OffManifold",
    "OutputKL",
    "Perturbation",
    "Population",
    "Positions",
    "Power",
    "Provenance",
    "Quadratic",
    "Reading",
    "Report",
    "ResponseSogi",
    "Scan",
    "Score",
    "Scorer",
    "Segment",
    "Selection",
    "ShareOfNorm",
    "Site",
    "Sogi",
    "Start",
    "SteerError",
    "SweepResult",
    "TokenBatch",
    "Toward",
    "Vectors",
    "Weighted",
    "adopt",
    "capturing",
    "chat",
    "dose_response",
    "elicit",
    "frozen",
    "generate",
    "halve",
    "inspect",
    "judged",
    "load_bank",
    "load_inspection",
    "load_model",
    "load_sweep",
    "mark",
    "marked",
    "perturbing",
    "random_bank",
    "rank",
    "refusal",
    "regex",
    "report",
    "resolve",
    "scan",
    "shuffled",
    "source_of",
    "sweep",
    "tokenize",
    "views",
    "watch",
]
