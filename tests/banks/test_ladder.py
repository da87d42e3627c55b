"""A ladder holds every direction of a bank at several lengths, and claims nothing more."""

import math

import pytest
import torch
from conftest import adapter_bank
from test_values import bank

import tl_steer as ts
from tl_steer.banks import ladder
from tl_steer.errors import SettingError


def test_rungs_stand_one_after_the_other_each_vector_with_its_label():
    given = bank(3)
    found = ladder(given, lengths=(0.5, 1, 2))
    assert len(found) == 9
    for row in range(9):
        times = (0.5, 1, 2)[row // 3]
        torch.testing.assert_close(found.vectors[row], times * given.vectors[row % 3])
        assert found.labels[row] == given.labels[row % 3]
        assert float(found.scores["length"][row]) == times


def test_what_was_measured_is_known_at_the_length_it_was_measured_at_and_nowhere_else():
    given = bank(3)
    found = ladder(given, lengths=(2, 1))
    for name in ("responses", "objective"):
        torch.testing.assert_close(getattr(found, name)[3:], getattr(given, name))
        assert bool(getattr(found, name)[:3].isnan().all())
    torch.testing.assert_close(found.scores["worth"][3:], given.scores["worth"])
    assert bool(found.scores["worth"][:3].isnan().all())


def test_the_radius_is_the_mean_length_and_the_provenance_says_which_there_are():
    found = ladder(bank(2, radius=2.0), lengths=(1, 2))
    assert found.radius == 3.0
    assert found.radius_share == pytest.approx(0.3)
    assert found.radius == pytest.approx(float(found.vectors.norm(dim=1).mean()))
    assert found.provenance.notes[-1] == "at 1, 2 times their lengths"


def test_its_control_is_as_long_row_by_row():
    found = ladder(bank(3), lengths=(0.5, 2))
    control = ts.random_bank(found)
    torch.testing.assert_close(control.vectors.norm(dim=1), found.vectors.norm(dim=1))


def test_it_comes_back_from_a_file(tmp_path):
    found = ladder(bank(3), lengths=(0.5, 1))
    again = ts.load_bank(found.save(tmp_path / "ladder.safetensors"))
    torch.testing.assert_close(again.vectors, found.vectors)
    torch.testing.assert_close(again.scores["length"], found.scores["length"])


@pytest.mark.parametrize("lengths", [(), (1, 1), (0, 1), (-1,), (math.inf,), (math.nan,)])
def test_lengths_that_are_none_are_refused(lengths):
    with pytest.raises(SettingError, match=r"expected different numbers above 0"):
        ladder(bank(3), lengths=lengths)


def test_what_has_no_length_is_refused(llama):
    adapters = adapter_bank(llama)
    with pytest.raises(SettingError, match=r"holds no strength of its own"):
        ladder(adapters, lengths=(1, 2))
