"""The documentation runs: every python block of the guides, and the README's example."""

import ast
import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import transformer_lens
import typer
from conftest import KINDS, LLAMAS, PROMPTS, SOURCE, TARGET

import tl_steer as ts
from tl_steer.cli import app

ROOT = Path(__file__).resolve().parent.parent
FRAGMENTS = (
    "docs/radius.md",
    "docs/methods.md",
    "docs/views.md",
    "docs/live.md",
    "docs/generalisation.md",
)  # they say `model`, `bank`, `prompts`
GUIDES = (
    "README.md",
    "docs/quickstart.md",
    "docs/concepts.md",
    "docs/extending.md",
    "docs/organisms.md",
    "docs/monitoring.md",
    *FRAGMENTS,
)
WRITTEN_BY_BENCH = {ROOT / "docs/benchmarks.md"}

pytestmark = pytest.mark.skipif(
    not (ROOT / "README.md").is_file(), reason="the documentation is not beside these tests"
)


def blocks(page: str) -> list[tuple[int, str]]:
    """The ```python blocks of a page, with the line each starts at."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, match.start(1)), match.group(1)) for match in found]


def execute(
    page: str, *, instead: dict[str, str] | None = None, given: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Run a page's blocks in one namespace; tracebacks point at the page's own lines."""
    # dataclass() looks its class's module up, so the namespace has to name a real one.
    namespace: dict[str, Any] = {"__name__": __name__, **(given or {})}
    for line, source in blocks(page):
        for old, new in (instead or {}).items():
            source = source.replace(old, new)
        exec(compile("\n" * line + source, str(ROOT / page), "exec"), namespace)
    return namespace


@pytest.fixture
def offline(smollm2: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The embedded model wherever a page boots one; files go to a temporary folder."""

    class Booted:
        @staticmethod
        def boot_transformers(name: str) -> Any:
            return smollm2

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ts, "load_model", lambda: smollm2)
    monkeypatch.setattr(transformer_lens, "TransformerBridge", Booted, raising=False)
    return smollm2


def objectives(model: Any, bank: ts.Bank, prompts: list[Any]) -> torch.Tensor:
    """MELBO's objective of every vector, as `elicit` measures it."""
    tokens = ts.tokenize(model, prompts)
    measured = tokens.select(ts.Positions(last=3, bos=False))
    with ts.models.frozen(model):
        segment = ts.Segment(model, tokens, bank.source, bank.target)
        objective = ts.objectives.Objective(segment, ts.objectives.Displacement(), measured)
        return objective(bank.perturbation(), gradient=False).value


@pytest.mark.parametrize("page", GUIDES)
def test_pages_name_only_what_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"\bts\.([A-Za-z_]\w*)", text))
    assert all(hasattr(ts, name) for name in named), [n for n in named if not hasattr(ts, n)]
    for line, source in blocks(page):
        ast.parse(source, filename=f"{page}:{line}")


def test_the_wings_of_the_readme_have_what_it_says() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (.+) \|$", text.partition("| wing |")[2], re.M)
    wings = {wing for names, _ in rows for wing in re.findall(r"\w+", names)}
    assert wings >= ts._WINGS - {"errors", "files", "interop"}
    for names, told in rows:
        rooms = [getattr(ts, wing) for wing in re.findall(r"\w+", names)]
        for name in re.findall(r"`([A-Za-z]\w*)`", told):
            assert any(hasattr(room, name) for room in rooms), name


def resolves(dotted: str) -> bool:
    """Whether a dotted name leads to a module, or to something in one."""
    found: Any = ts
    for i, part in enumerate(parts := dotted.split(".")[1:], start=1):
        try:
            found = getattr(found, part)
        except AttributeError:
            if part in getattr(found, "__annotations__", ()):
                return True
            try:
                found = importlib.import_module(".".join(["tl_steer", *parts[:i]]))
            except ImportError:
                return False
    return True


@pytest.mark.parametrize("folder", ["tl_steer", "docs", "tutorials"])
def test_what_texts_name_of_the_package_is_there(folder: str) -> None:
    wrong = []
    for path in (ROOT / folder).rglob("*.*"):
        if path.suffix in (".py", ".md"):
            text = path.read_text(encoding="utf-8")
            named = set(re.findall(r"(?<![\w./])tl_steer(?:\.[A-Za-z_]\w*)+", text))
            wrong += [f"{path.name}: {name}" for name in named if not resolves(name)]
    assert wrong == []


@pytest.mark.parametrize("page", [*GUIDES, "CHANGELOG.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        name, _, heading = link.partition("#")
        path = (ROOT / page).parent / name
        assert path.is_file() or path.resolve() in WRITTEN_BY_BENCH, link
        if heading:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {h.lower().replace(" ", "-") for h in headings}, link


@pytest.mark.parametrize("script", sorted(ROOT.glob("tutorials/*.py")), ids=lambda p: p.stem)
def test_notebook_is_its_script(script: Path) -> None:
    jupytext = pytest.importorskip("jupytext")
    notebook = script.with_suffix(".ipynb")
    cells = jupytext.reads(script.read_text(encoding="utf-8"), fmt="py:percent").cells
    paired = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert [(c.cell_type, c.source) for c in cells] == [
        (c["cell_type"], "".join(c["source"])) for c in paired
    ], f"make tutorials-stored TUTORIALS=tutorials/{script.name} brings them together"


@pytest.mark.parametrize("page", GUIDES)
def test_commands_parse(page: str) -> None:
    command = typer.main.get_command(app)
    text = (ROOT / page).read_text(encoding="utf-8")
    for line in re.findall(r"^    tl-steer ([a-z].*)$", text, flags=re.MULTILINE):
        # Parses the subcommand's arguments as well, and runs nothing.
        name, *arguments = shlex.split(line)
        command.commands[name].make_context(name, arguments)


def _before_a_change() -> Any:
    """What the model could have been made from."""
    base = KINDS[LLAMAS[0]]()
    with torch.no_grad():
        for weight in base.blocks[0].parameters():
            weight += 0.1
    return base


@pytest.mark.parametrize("page", FRAGMENTS)
def test_fragments_run(
    page: str, one: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    prompts, source, target = ["t5 t9 t30 t7 t61"], SOURCE, TARGET
    bank = ts.elicit(one, prompts, source=source, target=target, n=4, radius=4.0, progress=False)
    given = {"ts": ts, "model": one, "bank": bank, "prompts": prompts}
    given |= {"source": source, "target": target, "validation": prompts, "held_out": PROMPTS[-1:]}
    given |= {"texts": PROMPTS, "base": _before_a_change()}
    small = {'" Sure", " Sorry"': '"t5", "t9"', "n=32": "n=4"}
    small |= {"target=target": "target=target, radius=4.0", "0.05, 0.1, 0.2, 0.4": "0.2, 3.0"}
    found = execute(page, instead=small, given=given)
    assert {"page", "banks", "result"} & set(found) or len(found["best"]) == 2


@pytest.mark.smollm2
def test_readme_example_runs(offline: Any) -> None:
    smaller = {"n=32": "n=6, radius=19.0", "max_new_tokens=40": "max_new_tokens=6"}
    (_, source), *others = blocks("README.md")
    assert not others
    assert all(old in source for old in smaller)
    namespace = execute("README.md", instead=smaller)
    assert len(namespace["bank"]) == 6
    assert Path("house.safetensors").is_file()


@pytest.mark.smollm2
def test_quickstart_runs(offline: Any) -> None:
    namespace = execute("docs/quickstart.md", instead={"n=8": "n=5"})
    bank, prompt = namespace["bank"], namespace["prompt"]
    trained = objectives(offline, bank, [prompt])
    random = objectives(offline, ts.random_bank(bank), [prompt])
    torch.testing.assert_close(trained, bank.objective, rtol=1e-3, atol=1e-3)
    assert float(trained.mean()) > 2 * float(random.mean())
    assert torch.equal(namespace["again"].vectors, bank.vectors)
    assert namespace["again"].labels[0] == "largest effect"
    # radius="auto": between paraphrase and gibberish
    assert 0.1 < bank.radius_share < 0.3


@pytest.mark.smollm2
def test_extending_runs_and_its_kinds_train(offline: Any) -> None:
    namespace = execute("docs/extending.md")
    assert float(namespace["after"].sum()) > 2 * float(namespace["before"].sum())
    gains, prompt = namespace["gains"], namespace["prompt"]
    control = objectives(offline, ts.random_bank(gains), [prompt])
    assert float(gains.objective.mean()) > 2 * float(control.mean())
    torch.testing.assert_close(gains.vectors.norm(dim=1), torch.full((4,), 8.0))
    ids = ts.tokenize(offline, [prompt]).ids
    where, factors = "blocks.7.mlp.hook_post", 1 + gains.vectors[1]
    with torch.no_grad(), ts.perturbing(offline, gains[1]):
        found = offline(ids)
    with torch.no_grad():
        slow = [(where, lambda activation, hook: activation * factors)]
        torch.testing.assert_close(found, offline.run_with_hooks(ids, fwd_hooks=slow))
    together = namespace["together"]
    assert [site.kind for site in together.perturbation().sites] == [
        "hook_resid_pre",
        "mlp.hook_post",
    ]
    assert bool((together.objective > 0).all())

    given, both = namespace["given"], namespace["both"]
    assert given.provenance.method == "given, not trained"
    assert torch.equal(both.vectors, torch.stack([given.vector, -2 * given.vector]))
    assert bool(both.responses.isfinite().all())
    assert both.labels == ("formal", "formal")

    assert namespace["bank"].provenance.divergence == "LargestMoves(k=2)"
    climbed = namespace["climbed"]
    assert climbed.provenance.method == "ascent"
    control = objectives(offline, ts.random_bank(climbed), [namespace["prompt"]])
    assert float(climbed.objective.mean()) > 2 * float(control.mean())

    monitor, few = namespace["monitor"], torch.randn(3, 576)
    projection = monitor.reader.phases[0][1].known[0].detector
    assert monitor.reader.parts == 3
    found = projection(few) - projection(torch.zeros(1, 576))
    lengths = projection.weights.norm(dim=0)
    torch.testing.assert_close(lengths, torch.ones(4))
    torch.testing.assert_close(found, few @ projection.weights)

    assert climbed.provenance.settings["share"] == 0.5
    assert (
        type(ts.Monitor.load(namespace["saved"]).reader.phases[0][0].known[0].detector)
        is (namespace["Squares"])
    )
    assert list(namespace["swept"].asked["metrics"]) == [
        "kl",
        "Likelier_token_3",
        "Likelier_token_5",
    ]
    assert len(namespace["view"].data) == 4
    assert namespace["draw"] in namespace["page"].read_text()

    own, own_bank = namespace["own"], namespace["own_bank"]
    prompts = ["a longer prompt", "a short one"]
    control = objectives(own, ts.random_bank(own_bank), prompts)
    assert float(own_bank.objective.mean()) > float(control.mean())
