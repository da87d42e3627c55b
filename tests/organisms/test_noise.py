"""What organisms learn to stay clean under."""

import pytest
import torch
from conftest import D
from safetensors.torch import save_file

from tl_steer.errors import SettingError
from tl_steer.organisms import lesson, noise, recipes


def test_random_vectors_go_to_clean_examples_of_the_share_asked_for():
    examples = [lesson.Example([3], [4], clean=i % 2 == 0) for i in range(4000)]
    settings = recipes.Recipe(perturbed=0.75, norms=(10.0, 100.0), layers=(3, 13))
    layers, vectors = noise.perturbations(settings, examples, D, torch.Generator().manual_seed(0))
    norms = vectors.norm(dim=1)
    assert float(norms[1::2].max()) == 0
    chosen = norms[norms > 0]
    assert abs(len(chosen) / 2000 - 0.75) < 0.04
    assert float(chosen.min()) > 9.99
    assert float(chosen.max()) < 100.01
    assert abs(float(chosen.log10().mean()) - 1.5) < 0.05
    assert set(layers.tolist()) == set(range(3, 14))
    _, none = noise.perturbations(recipes.Recipe(), examples, D, torch.Generator())
    assert float(none.abs().max()) == 0


def test_found_vectors_take_the_place_of_a_share_of_the_random_ones():
    examples = [lesson.Example([3], [4], clean=i % 2 == 0) for i in range(4000)]
    settings = recipes.Recipe(perturbed=0.75, found=0.4, norms=(10.0, 100.0), layers=(3, 13))
    found = noise.Found(500 * torch.eye(D)[:3], torch.tensor([20, 21, 22]))
    seeds = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    layers, vectors = noise.perturbations(settings, examples, D, seeds(), found=found)
    before, random = noise.perturbations(settings, examples, D, seeds())
    norms, taken = vectors.norm(dim=1), layers > 13
    assert float(norms[1::2].max()) == 0
    assert abs(int((taken & (norms > 0)).sum()) / int((norms > 0).sum()) - 0.4) < 0.04
    assert torch.equal(vectors[taken], found.vectors[layers[taken] - 20])
    assert set(layers[taken].tolist()) == {20, 21, 22}
    assert torch.equal(vectors[~taken], random[~taken])
    assert torch.equal(layers[~taken], before[~taken])
    assert bool((random[taken].norm(dim=1) > 0).all()), "only what would be perturbed anyway"


def test_found_vectors_are_read_as_they_were_saved(tmp_path):
    vectors, layers = torch.randn(4, D, dtype=torch.float16), torch.tensor([3, 16, 16, 22])
    save_file({"vectors": vectors, "layers": layers}, tmp_path / "found.safetensors")
    read = noise.read_found(tmp_path / "found.safetensors")
    assert torch.equal(read.vectors, vectors.float())
    assert torch.equal(read.layers, layers)


@pytest.mark.parametrize("damage", ["none", "not safetensors", "no layers", "too few", "empty"])
def test_a_file_without_found_vectors_is_refused(tmp_path, damage):
    path, vectors = tmp_path / "found.safetensors", torch.zeros(4, D)
    if damage == "not safetensors":
        path.write_bytes(b"vectors")
    elif damage == "no layers":
        save_file({"vectors": vectors}, path)
    elif damage == "too few":
        save_file({"vectors": vectors, "layers": torch.zeros(3, dtype=torch.long)}, path)
    elif damage == "empty":
        save_file({"vectors": vectors[:0], "layers": torch.zeros(0, dtype=torch.long)}, path)
    with pytest.raises(SettingError, match=r"[Ee]xpected"):
        noise.read_found(path)
