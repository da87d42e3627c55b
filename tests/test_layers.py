"""The house: a short table of wings, and imports that point down it or stay in their wing."""

import ast
import graphlib
import importlib
import re
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import tl_steer as ts

PACKAGE = Path(ts.__file__).parent
# From the bottom up.
WINGS = [
    "errors",
    "files",
    "hook_points",
    "perturbations",
    "models",
    "objectives",
    "methods",
    "banks",
    "radii",
    "elicitation",
    "sweeps",
    "monitoring",
    "inspection",
    "views",
    "serving",
    "organisms",
    "interop",
    "cli",
]
# Floors within a wing: the folders of `monitoring` know nothing of it.
INNER = {"monitoring": ("detectors", "statistics")}
# Names that are themselves rooms, since another tool's names are kept in them.
ROOMS = {("views", "circuitsvis")}
MODEL_LIBRARIES = {"transformer_lens", "transformers", "peft", "gguf"}


def name_of(path: Path) -> str:
    parts = ("tl_steer", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


FILES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports anywhere in it, within functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in FILES else str(node.module)


def wing_of(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def arrows() -> list[tuple[str, str]]:
    """(file, file it imports), the front door aside: it opens onto everything."""
    return [
        (name, there)
        for name, path in FILES.items()
        if name != "tl_steer"
        for there in imported(path)
        if there in FILES and there != "tl_steer"
    ]


def test_every_room_is_in_the_table_and_there_are_few():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert rooms - {"__init__", "__main__", "__pycache__"} == set(WINGS)
    assert len(WINGS) <= 18


def test_imports_between_wings_only_point_down():
    up = [
        f"{a} imports {b}"
        for a, b in arrows()
        if a != "tl_steer.__main__" and WINGS.index(wing_of(b)) > WINGS.index(wing_of(a))
    ]
    assert up == []


def test_inner_folders_know_nothing_of_their_wing():
    for wing, folders in INNER.items():
        inside = tuple(f"tl_steer.{wing}.{folder}" for folder in folders)
        out = [
            f"{a} imports {b}"
            for a, b in arrows()
            if a.startswith(inside) and wing_of(b) == wing and not b.startswith(inside)
        ]
        assert out == []
        low = {wing_of(b) for a, b in arrows() if a.startswith(inside)} - {wing}
        assert low <= {"errors", "files"}


def test_there_is_no_circle_anywhere():
    graph: dict[str, set[str]] = {name: set() for name in FILES}
    for a, b in arrows():
        graph[a].add(b)
    list(graphlib.TopologicalSorter(graph).static_order())


def test_files_of_a_wing_import_each_other_and_not_their_wing():
    """A wing that is half imported has half of its names."""
    wings = {f"tl_steer.{wing}" for wing in WINGS}
    wrong = [
        f"{a} imports {b}" for a, b in arrows() if b in wings and b == f"tl_steer.{wing_of(a)}"
    ]
    assert wrong == []


def test_what_lies_below_the_models_imports_no_model_library():
    for name, path in FILES.items():
        if wing_of(name) in WINGS and WINGS.index(wing_of(name)) < WINGS.index("models"):
            roots = {there.split(".")[0] for there in imported(path)}
            assert not roots & MODEL_LIBRARIES, name


def test_a_wing_is_a_docstring_and_its_public_names():
    for wing in [*WINGS, *(f"{w}.{f}" for w, fs in INNER.items() for f in fs)]:
        path = FILES[f"tl_steer.{wing}"]
        if path.name != "__init__.py" or wing == "cli":
            continue
        docstring, *imports = ast.parse(path.read_text(encoding="utf-8")).body
        assert ast.get_docstring(ast.Module([docstring], [])), wing
        for one in imports:
            assert isinstance(one, ast.ImportFrom), wing
            rooms = {(wing, alias.name) for alias in one.names} <= ROOMS
            inside = str(one.module).startswith(f"tl_steer.{wing}.")
            assert inside or (rooms and one.module == f"tl_steer.{wing}"), wing
            assert all(alias.name == alias.asname for alias in one.names), wing


def test_a_wing_says_the_highest_wing_that_it_imports():
    for wing in WINGS[1:]:
        doc = str(ast.get_docstring(ast.parse(FILES[f"tl_steer.{wing}"].read_text("utf-8"))))
        below = {wing_of(b) for a, b in arrows() if wing_of(a) == wing} - {wing}
        if wing in ("cli", "interop"):
            continue
        (told,) = re.findall(r"Imports\s`(\w+)`", doc)
        assert told == max(below, key=WINGS.index), wing


def test_no_wing_is_named_like_a_verb_of_the_front_door():
    # `import tl_steer.elicit` would be two things.
    assert not {name for name in ts.__all__ if callable(getattr(ts, name))} & set(WINGS)


def test_public_names_of_a_wing_are_not_hidden_by_files_of_their_name():
    """Where a function and its file share a name, whoever asks the wing gets the function."""
    for name in FILES:
        if not name.endswith("__main__"):
            importlib.import_module(name)
    for wing in WINGS:
        room = importlib.import_module(f"tl_steer.{wing}")
        body = ast.parse(FILES[room.__name__].read_text(encoding="utf-8")).body
        names = {a.name for one in body if isinstance(one, ast.ImportFrom) for a in one.names}
        for name in names if hasattr(room, "__path__") and wing != "cli" else ():
            hidden = isinstance(getattr(room, name), types.ModuleType)
            assert hidden == ((wing, name) in ROOMS), (wing, name)
    for name in ts._WING_OF:
        assert not isinstance(getattr(ts, name), types.ModuleType), name


def test_the_front_door_is_small_lists_what_it_opens_and_says_the_same_to_type_checkers():
    assert sorted(ts.__all__) == list(ts.__all__)
    assert len(ts.__all__) <= 37
    assert set(ts.__all__) <= {*ts._WING_OF, *ts._WINGS}
    assert all(getattr(ts, name) is not None for name in ts.__all__)
    assert set(ts.__all__) | ts._WINGS <= set(dir(ts))
    tree = ast.parse(FILES["tl_steer"].read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    told = [node for node in guarded.body if isinstance(node, ast.ImportFrom)]
    shown = {alias.asname: wing_of(str(node.module)) for node in told for alias in node.names}
    assert shown == ts._WING_OF | dict.fromkeys(ts._WINGS, "")
    assert {*WINGS} - {"cli"} == ts._WINGS
    with pytest.raises(AttributeError, match="no attribute 'Elicit'"):
        ts.Elicit  # noqa: B018
    with pytest.raises(AttributeError, match=r"there is ts\.methods\.Power"):
        ts.Power  # noqa: B018


HEAVY = {"scipy", "pyarrow", "sqlite3", "circuitsvis", "rich", "typer", "pandas", "starlette"}
HEAVY |= {"uvicorn", "torch", "sklearn", "transformers", "transformer_lens", "matplotlib"}


def test_importing_the_package_imports_nothing_and_learning_a_bank_little():
    run(f"""
        import sys
        import tl_steer as ts
        assert not {HEAVY} & set(sys.modules), sorted({HEAVY} & set(sys.modules))
        ts.elicit, ts.generate, ts.perturbing, ts.random_bank, ts.load_bank
        heavy = {HEAVY} - {{"torch", "transformers", "transformer_lens"}}
        assert not heavy & set(sys.modules), sorted(heavy & set(sys.modules))
    """)


def run(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
