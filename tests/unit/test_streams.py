"""Writing a .frq into standard output, pipes and open files."""

import io
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import frconvert
from frconvert.errors import TargetError, UsageError, WriteError

MAIN = "import sys; from frconvert.cli import main; main()"


@pytest.fixture
def expected(npz, tmp_path):
    frconvert.convert(npz, tmp_path / "expected.frq", snr=30)
    return (tmp_path / "expected.frq").read_bytes()


class Trickle(io.RawIOBase):
    """Takes at most 1,000 bytes at a time, as an unbuffered pipe may."""

    def __init__(self):
        self.content = bytearray()

    def writable(self):
        return True

    def write(self, data):
        self.content += bytes(data[:1000])
        return len(data[:1000])


def test_standard_output_gets_the_same_bytes_and_the_words_go_to_standard_error(npz, expected):
    command = [sys.executable, "-c", MAIN, "convert", str(npz), "-", "--snr", "30"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout == expected
    assert done.stderr.startswith(b"the .frq is ")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_named_pipe_is_written_into_and_not_replaced(npz, expected, tmp_path):
    fifo = tmp_path / "pipe.frq"
    os.mkfifo(fifo)
    got = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    frconvert.convert(npz, fifo, snr=30)
    reader.join(10)
    assert got == [expected]
    assert fifo.is_fifo()
    with pytest.raises(UsageError, match="suffix"):
        frconvert.convert(npz, tmp_path)
    fifo.rename(tmp_path / "pipe.npz")
    with pytest.raises(UsageError, match=r"only .frq can be written into a pipe"):
        frconvert.convert(npz, tmp_path / "pipe.npz")


@pytest.mark.parametrize("stream", [io.BytesIO, Trickle])
def test_an_open_file_gets_the_same_bytes_and_stays_open(npz, expected, stream):
    file = stream()
    summary = frconvert.convert(npz, file, snr=30)
    content = file.getvalue() if isinstance(file, io.BytesIO) else bytes(file.content)
    assert content == expected
    assert summary.destination_bytes == len(expected)
    assert not file.closed


def test_what_was_written_into_a_file_can_be_read_from_it(npz):
    file = io.BytesIO(b"")
    frconvert.convert(npz, file, lossless=True)
    values = frconvert.load(file).numpy()
    assert np.array_equal(values["bias"], np.load(npz)["bias"])


def test_nothing_reaches_a_stream_if_the_conversion_fails(npz):
    file = io.BytesIO()
    with pytest.raises(TargetError):
        frconvert.convert(npz, file, size=10)
    assert file.getvalue() == b""


def test_a_dry_run_writes_nothing_into_a_stream(npz, expected):
    file = io.BytesIO()
    assert frconvert.convert(npz, file, snr=30, dry_run=True).destination_bytes == len(expected)
    assert file.getvalue() == b""


def test_a_stream_that_cannot_be_written_is_an_error_of_this_package(npz, tmp_path):
    (tmp_path / "x").write_bytes(b"")
    with (tmp_path / "x").open("rb") as file, pytest.raises(WriteError, match="cannot be written"):
        frconvert.convert(npz, file)
    with io.StringIO() as text, pytest.raises(WriteError, match="cannot be written"):
        frconvert.convert(npz, text)


def test_json_and_a_file_do_not_share_standard_output(npz, fails):
    assert "both want standard output" in fails(2, "convert", npz, "-", "--json")


def test_a_reader_that_goes_away_is_one_line(npz):
    command = [sys.executable, "-c", MAIN, "convert", str(npz), "-", "--quiet"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.returncode == 3
    assert done.stderr == "frconvert: standard output: cannot be written: Broken pipe\n"
