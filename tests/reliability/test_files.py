"""A bounded part of torture_files.py."""

from rivals import rivals, threads
from torture_files import fuzz


def test_damaged_files_are_refused_or_work(tmp_path):
    wrong = [row for row in fuzz(300, tmp_path, seed=5) if row.failures]
    assert not wrong, wrong


def test_a_second_process_is_refused_and_the_first_ends_whole(tmp_path):
    wrong = [row for row in rivals(tmp_path, times=1) if row.failures]
    assert not wrong, wrong


def test_threads_on_one_path_never_tear_it(tmp_path):
    assert threads(tmp_path, writes=60).failures == 0
