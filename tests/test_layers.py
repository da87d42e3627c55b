"""Imports point down: values know no model, and verbs do not know each other."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "tl_steer"
FLOORS = {
    0: "errors shapes site positions sphere divergence perturbation bank bankfile files tensorfile "
    "adapter penalty tables results band selection checkpoint inspection inspectionfile "
    "scorer endpoint promptsource interval beyond_random systematic sweepfile sweepresult "
    "conformal drift gaussian neighbourhood scores probes fitted detector categories level reader "
    "running identity panel panelfile audit verdict",
    1: "model tokens hooks segment objective response provenance interop rows fluency controls "
    "linear_map output_kl recording attribution metric plan together cells sweepjob packed "
    "taps traffic evidence identify kvcache",
    2: "methods radius generate load rank dose start inspect views sweep",
    3: "inband select run organisms report alert",
    4: "scan",
    5: "elicit session",
    6: "watch",
    7: "monitor",
    8: "cli __init__ __main__",
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names.split()}
SIDEWAYS_ALLOWED = {0, 1, 8}


def module_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tl_steer."):
            yield node.module.split(".")[1]


def test_every_module_has_a_floor():
    found = {module_of(path) for path in PACKAGE.rglob("*.py")}
    assert found == set(FLOOR_OF)


def test_imports_never_point_up_or_sideways_among_verbs():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        here = module_of(path)
        for there in imports(path):
            up = FLOOR_OF[there] > FLOOR_OF[here]
            sideways = FLOOR_OF[there] == FLOOR_OF[here] and here != there
            if up or (sideways and FLOOR_OF[here] not in SIDEWAYS_ALLOWED):
                wrong.append(f"{here} imports {there}")
    assert wrong == []


def test_values_do_not_import_a_model_library():
    for name in FLOORS[0].split():
        text = (PACKAGE / f"{name}.py").read_text()
        assert "transformer_lens" not in {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import)
            for alias in node.names
        }, name


def test_the_front_door_lists_what_it_opens():
    import tl_steer

    assert sorted(tl_steer.__all__) == list(tl_steer.__all__)
    assert all(hasattr(tl_steer, name) for name in tl_steer.__all__)
