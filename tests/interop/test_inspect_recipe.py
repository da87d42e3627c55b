"""The recipe of docs/interop/inspect.md, on a tiny model."""

from pathlib import Path

import pytest
from inspect_world import bank_file, folder, loaded
from test_docs import ROOT, blocks, execute
from tiny_monitor import monitor_of

import tl_steer as ts

inspect_ai = pytest.importorskip("inspect_ai", reason="Inspect is an extra")

PAGE = "docs/interop/inspect.md"


@pytest.mark.skipif(
    not (ROOT / PAGE).is_file(), reason="the documentation is not beside these tests"
)
def test_the_recipe_runs(tmp_path, monkeypatch):
    import tl_steer.interop.inspect_ai.provider  # noqa: F401 (what the entry point does)

    monkeypatch.chdir(tmp_path)
    monitor_of(loaded()).save("house.monitor")
    monkeypatch.setattr(ts, "load_model", loaded)
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    Path("house.safetensors").write_bytes(Path(bank_file()).read_bytes())
    assert len(blocks(PAGE)) == 5
    space = execute(PAGE, instead={"tl_steer/smollm2": f"tl_steer/{folder()}"})
    assert [log.status for log in space["logs"]] == ["success"] * 3
    assert {log.eval.model_args["vector"] for log in space["logs"]} == {3, "none", "random:3"}
    (log,) = space["eval"](space["watched"](), model=space["models"][0], max_tokens=4)
    assert log.status == "success", str(log.error and log.error.message)[:1000]
    assert [score.name for score in log.results.scores] == ["includes", "monitor"]
    assert "includes" in space["found"].cells().column_names
