"""Files are whole or not there, whoever writes them and whatever has their name."""

import os
import signal
import socket
import stat
import threading

import pytest
import torch
from conftest import bank_of
from safetensors import SafetensorError, safe_open

from tl_steer.banks import load_bank
from tl_steer.errors import BankFileError, SettingError, WriteError
from tl_steer.files import tensors
from tl_steer.files.lock import locked
from tl_steer.files.write import beside, tidy, write_beside


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_file_stays_private_and_a_new_one_follows_the_umask(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    write_beside(old, b"1")
    old.chmod(0o600)
    write_beside(old, b"2")
    assert (old.read_bytes(), mode(old)) == (b"2", 0o600)
    before = os.umask(0o027)
    try:
        write_beside(new, b"1")
    finally:
        os.umask(before)
    assert mode(new) == 0o640


def test_a_link_stays_one_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    target, link, loose = tmp_path / "there" / "t", tmp_path / "l", tmp_path / "loose"
    target.write_bytes(b"1")
    link.symlink_to(target)
    loose.symlink_to(tmp_path / "not yet")
    for path in (link, loose):
        write_beside(path, b"2")
        assert path.is_symlink()
        assert path.read_bytes() == b"2"
    assert target.read_bytes() == b"2"
    assert names(tmp_path) == ["l", "loose", "not yet", "there"]


def test_what_is_no_file_is_refused_and_stays(tmp_path):
    fifo, folder, spot = tmp_path / "fifo", tmp_path / "folder", tmp_path / "socket"
    os.mkfifo(fifo)
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(spot))
        for path in (fifo, folder, spot, *map(type(fifo), ("/dev/full", "/dev/null"))):
            kind = stat.S_IFMT(path.stat().st_mode)
            with pytest.raises(WriteError, match=r"is a (folder|device)"):
                write_beside(path, b"1")
            assert stat.S_IFMT(path.stat().st_mode) == kind
    assert names(tmp_path) == ["fifo", "folder", "socket"]


@pytest.mark.parametrize("name", ["é" * 127, "x" * 255])
def test_the_longest_names_work(tmp_path, name):
    for content in (b"1", b"2"):
        write_beside(tmp_path / name, content)
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("name", ["x" * 256, "a/b", "nul\0"])
def test_what_cannot_be_a_file_is_refused_in_a_sentence(tmp_path, name):
    (tmp_path / "a").write_text("a file, and no folder")
    with pytest.raises(WriteError, match=r"cannot be written: .*before is whole"):
        write_beside(tmp_path / name, b"1")
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_no_draft_is_left_by_an_error_or_by_ctrl_c(tmp_path, monkeypatch, error):
    write_beside(tmp_path / "f", b"old")

    def fails(*_):
        raise error

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises((WriteError, KeyboardInterrupt)):
        write_beside(tmp_path / "f", b"new")
    assert names(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


def test_threads_never_tear_a_file(tmp_path):
    contents, errors = [bytes([i]) * 300_000 for i in range(4)], []

    def writing(content):
        try:
            for _ in range(15):
                write_beside(tmp_path / "f", content)
                assert (tmp_path / "f").read_bytes() in contents
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=writing, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert names(tmp_path) == ["f"]


def test_drafts_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path, monkeypatch):
    dead = [tmp_path / f"{beside(tmp_path / 'f', 'x').stem}-0123.part", tmp_path / ".f.77.part"]
    other = tmp_path / ".g.77.part"
    for draft in (*dead, other):
        draft.write_bytes(b"half")
    replace = os.replace

    def meanwhile(draft, final):
        tidy(tmp_path, "f")
        replace(draft, final)

    monkeypatch.setattr(os, "replace", meanwhile)
    write_beside(tmp_path / "f", b"whole")
    assert names(tmp_path) == [".g.77.part", "f"]
    tidy(tmp_path)
    assert names(tmp_path) == ["f"]


def test_a_lock_says_who_holds_it_and_goes_with_its_block(tmp_path):
    path = tmp_path / "lock"
    for _ in range(2):
        with locked(path, "the bank", SettingError):
            told = rf"writes to the bank \(process {os.getpid()} on {socket.gethostname()}, since"
            with pytest.raises(SettingError, match=told), locked(path, "the bank", SettingError):
                pass
        assert names(tmp_path) == []


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    path = tmp_path / "lock"
    child = os.fork()
    if child == 0:
        mine = locked(path, "it", SettingError)
        mine.__enter__()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert names(tmp_path) == ["lock"]
    with locked(path, "it", SettingError):
        pass
    assert names(tmp_path) == []


def test_tensors_that_share_their_memory_are_saved(tmp_path):
    from tl_steer.files.tensors import TensorFile

    file, one = TensorFile("thing", "thing", SettingError), torch.arange(6.0)
    path = file.write(tmp_path / "t", {}, {"a": one, "b": one[:3], "c": one.view(2, 3).T})
    meta, tensors = file.read(path)
    assert meta == {"format": 1}
    assert torch.equal(tensors["c"], one.view(2, 3).T)


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(one, tmp_path, monkeypatch):
    """safetensors opens a file twice: it may see the head of one and the body of another."""
    path, opened = tmp_path / "bank.safetensors", []
    old, new = bank_of(one), bank_of(one).label(0, "another")

    def replaced(*args, **kwargs):
        opened.append(1)
        if len(opened) == 1:
            new.save(path)
            raise SafetensorError("size <1964> is smaller than the required mapping size <5964>")
        return safe_open(*args, **kwargs)

    old.save(path)
    monkeypatch.setattr(tensors, "safe_open", replaced)
    assert load_bank(path).labels == new.labels
    assert len(opened) == 2


def test_a_damaged_file_that_stays_is_read_once(one, tmp_path, monkeypatch):
    path, opened = tmp_path / "bank.safetensors", []
    bank_of(one).save(path)
    path.write_bytes(path.read_bytes()[:-8])

    def counted(*args, **kwargs):
        opened.append(1)
        return safe_open(*args, **kwargs)

    monkeypatch.setattr(tensors, "safe_open", counted)
    with pytest.raises(BankFileError, match="damaged"):
        load_bank(path)
    assert len(opened) == 1
