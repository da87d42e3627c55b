"""A second model in settings: told by name and fingerprint, held by nothing that is written."""

import dataclasses
import re

import pytest
import torch
from conftest import LLAMAS, make
from linear import LinearHost

import tl_steer as ts
from tl_steer.errors import ModelError
from tl_steer.files.describe import describe
from tl_steer.models import Reference, fingerprint


def host(width=6, blocks=2, words=31):
    made = LinearHost([torch.eye(width) * 1.5] * blocks)
    made.cfg.d_vocab = words
    return made


def test_it_is_shown_by_name_and_fingerprint_and_never_by_weights(one):
    reference = Reference.of(one)
    first, last = (fingerprint(one).signature[i] for i in (0, -1))
    assert repr(reference) == f"tiny-llama (float32, fingerprint {first:.4f} … {last:.4f})"
    assert describe(reference) == repr(reference)
    assert reference.model is one


def test_a_setting_that_holds_one_is_described_by_it(one):
    @dataclasses.dataclass(frozen=True)
    class Against:
        base: Reference
        along: int = 4

    reference = Reference.of(one)
    assert describe(Against(reference)) == f"Against(base={reference!r}, along=4)"
    assert not re.search("Bridge|Transformer|tensor|0x", describe(Against(reference)))


def test_a_reference_of_a_reference_is_itself(one):
    reference = Reference.of(one)
    assert Reference.of(reference) is reference


def test_references_are_equal_where_name_and_fingerprint_are():
    assert Reference.of(host()) == Reference.of(host())
    other = host()
    with torch.no_grad():
        other.blocks[1].matrix[0, 1] = 1.0
    assert Reference.of(other) != Reference.of(host())


def test_models_of_one_size_are_alike_whatever_their_class(llama):
    for name in LLAMAS:
        Reference.of(make(name)).refuse_unlike(llama)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (host(width=7), "d_model 7, and that has 6"),
        (host(blocks=3), "n_layers 3, and that has 2"),
        (host(words=30), "d_vocab 30, and that has 31"),
    ],
)
def test_a_model_of_another_size_is_refused_with_the_number_that_differs(other, told):
    with pytest.raises(ModelError, match=f"linear cannot be the base of linear: it has {told}"):
        Reference.of(other).refuse_unlike(host())


@pytest.mark.parametrize("given", ["smollm2", None, 3, torch.nn.Linear(2, 2)])
def test_what_is_no_model_is_refused(given):
    with pytest.raises(ModelError, match=r"load it|cannot be steered"):
        Reference.of(given)


def test_hooks_and_flags_of_the_other_model_are_left_as_they_are(one):
    with ts.perturbing(
        one, ts.Additive(ts.models.resolve(one, "blocks.1.hook_resid_post"), torch.ones(1, 24))
    ):
        assert Reference.of(one).mark == fingerprint(one)
    assert all(p.requires_grad for p in one.parameters())
