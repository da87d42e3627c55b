"""What is shipped: a light package, and the organisms' weights in one of their own."""

import importlib
import sys
import zlib
from pathlib import Path

import pytest

import tl_steer as ts
from tl_steer.files.toml import read_toml
from tl_steer.models import load
from tl_steer.organisms import NAMES

ROOT = Path(__file__).parents[1]
LIMIT = 2_000_000


def packed(builder):
    """The files of a distribution, and about how many bytes they take when compressed."""
    files = {file.distribution_path: Path(file.path) for file in builder.recurse_included_files()}
    return files, sum(len(zlib.compress(path.read_bytes())) for path in files.values())


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_the_package_is_light_and_has_no_weights(kind):
    builders = pytest.importorskip(f"hatchling.builders.{kind}", reason="hatchling builds it")
    builder = builders.WheelBuilder if kind == "wheel" else builders.SdistBuilder
    files, size = packed(builder(str(ROOT)))
    assert size < LIMIT
    assert "tl_steer/organisms/load.py" in files
    assert "tl_steer/views/web/core.js" in files
    ours = [f for f in files if f.startswith("tl_steer/")]
    assert not [f for f in ours if f.endswith((".safetensors", ".gguf", ".toml"))]


@pytest.mark.skipif(
    not (ROOT / "tl_steer/organisms/pyproject.toml").is_file(), reason="there in a checkout only"
)
def test_the_weights_have_a_package_of_their_own():
    builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling builds it")
    builder = builders.WheelBuilder(str(ROOT / "tl_steer" / "organisms"))
    files, _ = packed(builder)
    assert builder.metadata.version == ts.__version__
    kept = ("adapter_config.json", "adapter_model.safetensors", "recipe.json")
    weights = {f"tl_steer_organisms/{name}/{file}" for name in NAMES for file in kept}
    assert set(files) == {*weights, "tl_steer_organisms/LICENSE"}


@pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="there in a checkout only")
def test_the_demo_extra_brings_the_embedded_model_and_nothing_that_is_compiled():
    whole = read_toml(ROOT / "pyproject.toml")["project"]["optional-dependencies"]
    model = read_toml(ROOT / "tl_steer/models/smollm2/pyproject.toml")
    assert whole["demo"] == [model["project"]["name"]] == [load.PACKAGES[0]]
    assert "dependencies" not in model["project"]
    assert list(model["tool"]["hatch"]["build"]["targets"]["wheel"]["sources"].values()) == [
        load.PACKAGES[0]
    ]


def test_a_model_of_either_package_is_found(tmp_path, monkeypatch):
    for name in reversed(load.PACKAGES):  # ours comes first, where there are both
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.gguf").write_bytes(b"GGUF")
        (tmp_path / name / "__init__.py").write_text("raise ImportError('found, not imported')")
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        importlib.invalidate_caches()
        assert load.embedded_gguf() == tmp_path / name / "m.gguf"


@pytest.mark.skipif(not (ROOT / "CITATION.cff").is_file(), reason="there in a checkout only")
def test_the_citation_is_of_this_version():
    said = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {ts.__version__}\n" in said
