"""The documentation runs: every python block of the guides, and the README's example."""

import ast
import builtins
import importlib
import inspect
import json
import re
import shlex
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any
from zlib import crc32

import pytest
import torch
import transformer_lens
import typer
from conftest import KINDS, LLAMAS

import tl_steer as ts
from tl_steer.cli import app

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))
GUIDES = ("README.md", *DOCS)
# Run by tests of their own: in this file, or beside what they are about (tests/interop).
ELSEWHERE = ("docs/quickstart.md", "docs/extending.md", "docs/interop/", "docs/evidence/")
# Dozens of searches, and workers that load a model by its name.
NOT_RUN = ("docs/scale_grid.md",)
# What a page says of a model of thirty blocks, as it is of one of four.
SMALLER = {
    "source=7, target=20": "source=1, target=3",
    "source, target = 7, 20": "source, target = 1, 3",
    "[(7, 20), (16, 25)]": "[(1, 3), (0, 2)]",
    "source=7": "source=1",
    "blocks.7.": "blocks.1.",
    "blocks.20.": "blocks.3.",
    "blocks.22.": "blocks.3.",
    "range(7, 11)": "range(1, 3)",
    "target=target, n=32": "target=target, n=4, radius=4.0",
    "target=target)": "target=target, radius=4.0)",
    "0.05, 0.1, 0.2, 0.4": "0.2, 3.0",
    '" Sure", " Sorry"': '"t5", "t9"',
}

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
        assert path.is_file(), link
        if heading:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}
            assert heading in slugs, link


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
        name, *arguments = shlex.split(line, comments=True)
        command.commands[name].make_context(name, arguments)


def _before_a_change() -> Any:
    """What the model could have been made from."""
    base = KINDS[LLAMAS[0]]()
    with torch.no_grad():
        for weight in base.blocks[0].parameters():
            weight += 0.1
    return base


RUN = [page for page in DOCS if blocks(page) and not page.startswith(ELSEWHERE + NOT_RUN)]


@pytest.mark.parametrize("page", RUN)
def test_a_page_defines_what_it_uses_and_runs(
    page: str, one: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The page's own words are no tokens of a tiny model's, which would all look alike.
    chat, words = ts.chat, lambda text: " ".join(f"t{crc32(w.encode()) % 97}" for w in text.split())
    base = _before_a_change()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ts, "load_model", lambda name="smollm2": base if name == "smollm2" else one)
    monkeypatch.setattr(ts, "chat", lambda text: chat(words(text)))
    with warnings.catch_warnings():  # of a model that says nothing sensible at any length
        warnings.filterwarnings("ignore", message="No band between|Its text cannot|A nonlinear")
        found = execute(page, instead=SMALLER)
    assert found["ts"] is ts
    if page == "docs/monitoring.md":
        assert found["w"].requests == 1
        assert (tmp_path / "audit.sqlite").is_file()


@pytest.mark.parametrize("page", NOT_RUN)
def test_a_page_that_is_not_run_defines_what_it_uses(page: str) -> None:
    known = set(dir(builtins))
    for _, source in blocks(page):
        for line in ast.parse(source).body:
            names = [node for node in ast.walk(line) if isinstance(node, ast.Name | ast.alias)]
            read = {n.id for n in names if isinstance(getattr(n, "ctx", None), ast.Load)}
            own = {n.id for n in names if isinstance(getattr(n, "ctx", None), ast.Store)}
            assert read <= known | own, read - known - own
            known |= own | {n.asname or n.name for n in names if isinstance(n, ast.alias)}


def _public() -> dict[str, Any]:
    """Every public name, as Python has them."""
    found = {f"tl_steer.{name}": getattr(ts, name) for name in ts.__all__}
    for wing in ts._WINGS:
        room = importlib.import_module(f"tl_steer.{wing}")
        if wing == "errors":
            names = [n for n, v in vars(room).items() if isinstance(v, type)] + ["plain"]
        else:
            named = {n for n in vars(room) if not n.startswith("_")}
            names = [n for n in named if not isinstance(vars(room)[n], ModuleType)]
        found |= {f"tl_steer.{wing}.{name}": getattr(room, name) for name in names}
    return found


def test_every_public_name_has_an_entry_in_the_reference_and_no_other_has() -> None:
    sys.path.insert(0, str(ROOT / "docs/theme"))
    try:
        hooks = importlib.import_module("hooks")
    except ImportError:
        pytest.skip("mkdocs is not installed")
    finally:
        sys.path.pop(0)
    assert set(hooks.wings()) == ts._WINGS
    in_wings = {name for name in _public() if name.count(".") == 2}
    # A folder that is a name as well (`views.circuitsvis`) is no value of its own.
    assert set(hooks.identifiers()) - in_wings <= {"tl_steer.views.circuitsvis"}
    assert in_wings <= set(hooks.identifiers())
    assert set(hooks.front_door()) == set(ts.__all__) - ts._WINGS


def test_every_public_name_says_what_it_is() -> None:
    silent = []
    for full, value in _public().items():
        own = inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value)
        # Shapes of jaxtyping's are classes, with nothing of their own to say.
        own = own and not getattr(value, "__module__", "").startswith("jaxtyping")
        silent += [] if (own and inspect.getdoc(value)) or _told(full) else [full]
    assert silent == []


def _told(full: str) -> str | None:
    """The string below the definition of a constant or an alias, wherever it is defined."""
    module, name = full.rsplit(".", 1)
    body = ast.parse(inspect.getsource(importlib.import_module(module))).body
    for line in body:
        if isinstance(line, ast.ImportFrom) and name in [alias.name for alias in line.names]:
            return _told(f"{line.module}.{name}")
    for here, below in pairwise(body):
        aim = here.targets[0] if isinstance(here, ast.Assign) else getattr(here, "target", None)
        if getattr(aim, "id", None) == name and isinstance(below, ast.Expr):
            return str(getattr(below.value, "value", ""))
    return None


def test_every_error_is_on_the_troubleshooting_page() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    headings = set(re.findall(r"^### (\w+)$", page, re.MULTILINE))
    raised = {n for n, v in vars(ts.errors).items() if isinstance(v, type)}
    assert headings == raised


def test_every_page_is_in_the_navigation_once() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = re.findall(r"([\w/]+(?:-\w+)?\.md)$", text, re.MULTILINE)
    assert sorted(f"docs/{name}" for name in named) == DOCS


@pytest.mark.smollm2
def test_the_readme_prints_what_it_says(offline: Any, capsys: pytest.CaptureFixture[str]) -> None:
    execute("README.md")
    found = capsys.readouterr().out.splitlines()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    said = re.findall(r"^```text\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)[0].splitlines()
    assert [line[:11] for line in found] == [line[:11] for line in said]
    assert "named SmolLM" in found[1]
    assert found[3] == said[3]
    # Greedy text is the same where numbers are added up in the same order.
    processor = Path("/proc/cpuinfo")
    intel = processor.is_file() and "GenuineIntel" in processor.read_text(encoding="utf-8")
    if intel and torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert found == said
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
