"""All methods at equal compute and equal radius on SmolLM2-135M-Instruct, beside random vectors.

    python tests/benchmarks/methods.py

Every method starts from the same random vectors at the same radius and has about as many passes
per vector (twelve with gradient; a pass without one counts a third, and MELBO is shown at its
published 300 steps too). What vectors do is then looked at on the prompt that they were learned on
and on two that they were not:

* objective: the sum of MELBO's objective (p = q = 2), last three tokens; learned prompt only
* distinct: responses whose |cosine| with every response kept so far is below .9, greedily by
  objective; learned prompt only
* KL: of the next token from the unsteered model, median, nats
* texts: different greedy continuations of 20 tokens per prompt, of all
* coherent: continuations that are nearer to the model's own text than to shuffled text in surprise
  under the unsteered model, and repeat fewer than half of their token pairs (`tl_steer.radii.band`)
* useful: continuations that are coherent, differ from the unsteered one, and from those of the
  vectors before them: what is left to read
"""

import argparse
import dataclasses
import time
from statistics import mean, median, stdev
from typing import Any

from banks import objective_of
from page import table, write_section

import tl_steer as ts
from tl_steer.hook_points.positions import LAST_THREE
from tl_steer.methods import METHODS, Dct, Jacobian, Melbo, Method, Power, Sogi
from tl_steer.models.segment import Segment
from tl_steer.models.state import frozen
from tl_steer.perturbations.neighbours import distinct_rows

SOURCE, TARGET = "blocks.7.hook_resid_post", "blocks.20.hook_resid_post"
LEARNED = "How do I make my house safer?"
HELD_OUT = ("Tell me about the history of Rome.", "What should I cook tonight?")
CONTENDERS: dict[str, Method] = {
    "power, spread 0": Power(spread=0, tolerance=0),
    "power, spread .7": Power(spread=0.7, tolerance=0),
    "power, spread 1": Power(spread=1, tolerance=0),
    "jacobian, stacked": Jacobian(passes=5, block=32),
    "dct": Dct(steps=12),
    "dct, Jacobian start": Dct(steps=10, init=Jacobian(passes=2, block=32)),
    "sogi, T = 1": Sogi(steps=12),
    "sogi, T = .1": Sogi(steps=12, temperature=0.1),
    "quadratic": METHODS["quadratic"](),
    "melbo, 12 steps": Melbo(steps=12, lr=0.1),
}
LONG: dict[str, Method] = {"melbo, 300 steps": Melbo(steps=300)}


def judged(model: Any, bank: ts.Bank) -> dict[str, float]:
    prompts = [ts.chat(text) for text in (LEARNED, *HELD_OUT)]
    found = ts.dose_response(
        model,
        bank,
        prompts,
        shares=(bank.radius_share,),
        signs=(1,),
        n_random=0,
        max_new_tokens=20,
        batch_rows=99,
    )
    return {
        "KL": median(dose.kl for dose in found.doses),
        "texts": len({(dose.prompt, dose.text) for dose in found.doses}) / len(found.doses),
        "coherent": mean(map(found.holds_together, found.doses)),
        "useful": len(found.coherent_texts()) / len(found.doses),
        "surprise": median(dose.surprise for dose in found.doses),
    }


def measured(
    model: Any, method: Method | None, radius: float, n: int, seed: int
) -> dict[str, float]:
    began = time.perf_counter()
    bank = ts.elicit(
        model,
        [ts.chat(LEARNED)],
        source=SOURCE,
        target=TARGET,
        n=n,
        radius=radius,
        method=method or Power(steps=1),
        seed=seed,
        progress=False,
    )
    seconds = time.perf_counter() - began
    if method is None:
        bank = at_random(model, bank, seed)
    return {
        "objective": float(bank.objective.sum()),
        "distinct": len(distinct_rows(bank.responses, 0.9)),
        **judged(model, bank),
        "s": seconds,
    }


def at_random(model: Any, like: ts.Bank, seed: int) -> ts.Bank:
    """Random vectors with the objectives and responses that they have."""
    bank = ts.random_bank(like, seed=seed)
    with frozen(model):
        at = objective_of(model, bank, LEARNED)(bank.perturbation(), gradient=False)
    return dataclasses.replace(bank, objective=at.value, responses=at.response).sort()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--radius", choices=("auto", "calibrated"), nargs="+", default=["auto"])
    parser.add_argument("--long", action="store_true", help="MELBO's 300 steps as well")
    parser.add_argument("--only", nargs="+", help="some contenders, and print only")
    given = parser.parse_args()
    model = ts.load_model()
    with frozen(model):
        tokens = ts.tokenize(model, [ts.chat(LEARNED)])
        segment = Segment(model, tokens, SOURCE, TARGET)
        chosen = LAST_THREE.measure(segment.mask, tokens.has_bos)
        rules = {"auto": ts.radii.InBand(), "calibrated": ts.radii.Calibrated()}
        radii = {name: rules[name](segment, chosen, 0) for name in given.radius}
        norm = segment.source_norm()
    contenders: dict[str, Method | None] = {**CONTENDERS, **(LONG if given.long else {})}
    contenders = {k: v for k, v in contenders.items() if not given.only or k in given.only}
    contenders["random vectors"] = None
    parts = []
    for name, radius in radii.items():
        rows = []
        for contender, method in contenders.items():
            runs = [measured(model, method, radius, given.n, seed) for seed in range(given.seeds)]
            rows.append([contender, *(shown(key, [run[key] for run in runs]) for key in runs[0])])
            print(" | ".join(rows[-1]), flush=True)
        columns = ["", *runs[0]]
        heading = f"Radius {radius:.3g} ({name}; {radius / norm:.3f} of the residual norm):\n\n"
        parts.append(heading + table(columns, rows))
    text = (
        f"`python tests/benchmarks/methods.py`: {given.n} vectors, {SOURCE} to {TARGET}, mean of "
        f"{given.seeds} seeds ± their standard deviation. What the columns mean is said in that "
        "file.\n\n" + "\n\n".join(parts)
    )
    print(text) if given.only else write_section("methods.md", "comparison", text)


def shown(key: str, values: list[float]) -> str:
    spread = stdev(values) if len(values) > 1 else 0.0
    if key in ("texts", "coherent", "useful"):
        return f"{mean(values):.0%} ± {spread:.0%}"
    digits = 0 if key in ("objective", "distinct", "s") else 2
    return f"{mean(values):.{digits}f} ± {spread:.{digits}f}"


if __name__ == "__main__":
    main()
