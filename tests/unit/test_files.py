"""Destinations appear whole or not at all."""

import errno
import os
import stat

import pytest

import frconvert
from frconvert.errors import UsageError, WriteError
from frconvert.files import check_destination, replacing


def listing(folder):
    return sorted(item.name for item in folder.iterdir())


def write_half(path, error):
    with replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise error


def test_a_block_that_ends_well_makes_the_file(tmp_path):
    path = tmp_path / "a.frq"
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert listing(tmp_path) == ["a.frq"]


def test_the_temporary_file_is_beside_the_destination_hidden_and_of_the_same_suffix(tmp_path):
    with replacing(tmp_path / "a.b.npz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".npz"
        temporary.write_bytes(b"")


def test_an_old_file_is_replaced_at_once_and_with_usual_permissions(tmp_path):
    path = tmp_path / "a.frq"
    path.write_bytes(b"old")
    usual = stat.S_IMODE(path.stat().st_mode)
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == usual


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyboardInterrupt(), MemoryError(), SystemExit(3), frconvert.FrqError("x")]
)
def test_a_block_that_fails_leaves_the_old_file_and_no_temporary(tmp_path, error):
    path = tmp_path / "a.frq"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        write_half(path, error)
    assert path.read_bytes() == b"old"
    assert listing(tmp_path) == ["a.frq"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_refusal_of_the_system_is_a_write_error_of_one_line(tmp_path, code):
    path = tmp_path / "a.frq"
    with pytest.raises(WriteError, match=r"a\.frq: cannot be written: ") as caught:
        write_half(path, OSError(code, os.strerror(code)))
    assert os.strerror(code) in str(caught.value)
    assert listing(tmp_path) == []


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(WriteError), replacing(tmp_path / "a.frq"):
        pass
    assert listing(tmp_path) == []


def test_a_writer_that_fails_half_way_leaves_the_old_file(tmp_path, checkpoint_of, model, monkeypatch):
    path = tmp_path / "a.frq"
    path.write_bytes(b"old")
    from frconvert.container.writer import Writer

    write, calls = Writer._write, []

    def full(self, data):
        calls.append(data)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, data)

    monkeypatch.setattr(Writer, "_write", full)
    with pytest.raises(WriteError, match="No space left on device"):
        frconvert.save(checkpoint_of(model), path, overwrite=True)
    assert path.read_bytes() == b"old"
    assert listing(tmp_path) == ["a.frq"]


def test_an_existing_destination_is_refused_unless_it_may_be_replaced(tmp_path):
    path = tmp_path / "a.frq"
    check_destination(path, overwrite=False)
    path.write_bytes(b"old")
    with pytest.raises(UsageError, match="exists; use --overwrite"):
        check_destination(path, overwrite=False)
    check_destination(path, overwrite=True)


def test_a_folder_or_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is a folder; name a file"):
        check_destination(tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="there is no folder"):
        check_destination(tmp_path / "no" / "a.frq", overwrite=True)


def test_a_name_too_long_for_the_system_is_an_error_of_this_package(tmp_path):
    with pytest.raises(frconvert.FrqError):
        check_destination(tmp_path / ("x" * 300 + ".frq"), overwrite=False)


def test_a_folder_that_may_not_be_entered_is_an_error_of_this_package(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(frconvert.FrqError):
        check_destination(tmp_path / "a.frq", overwrite=False)


def test_the_longest_name_that_the_system_takes_can_be_written(tmp_path):
    path = tmp_path / ("x" * 251 + ".frq")
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"


def test_a_source_that_vanishes_is_not_blamed_on_the_destination(tmp_path, checkpoint_of, model):
    frconvert.save(checkpoint_of(model), tmp_path / "a.frq")
    source = frconvert.load(tmp_path / "a.frq")
    (tmp_path / "a.frq").unlink()
    with pytest.raises(frconvert.FrqError) as caught:
        frconvert.save(source, tmp_path / "b.frq", snr=10)
    assert not isinstance(caught.value, WriteError)
    assert "a.frq" in str(caught.value)
