"""NumPy files in and out."""

import io
import threading
import warnings
import weakref
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frconvert import exporters, importers
from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.dtypes import DTYPE_NAMES, numpy_dtype
from frconvert.errors import DamagedError, FrqError, UnsupportedError

WIDENED = [name for name in DTYPE_NAMES if name.startswith(("bfloat", "float8"))]
SHARED = Path(__file__).resolve().parents[2].parent / "shared"
CIFAR = SHARED / "data" / "cifar10-jpeg.npz"


def entry(name, array, tied_to=None):
    return TensorEntry(name, array.shape, array.dtype.name, array.copy, tied_to=tied_to)


def exported(checkpoint, path):
    notices = []
    exporters.save(checkpoint, path, "npz", notices.append)
    return notices


def npy(array=None, header=None, data=b""):
    """A .npy member: of an array, or of a header text and data that need not fit."""
    file = io.BytesIO()
    if header is None:
        np.save(file, array)
        return file.getvalue()
    text = header.encode("latin1")
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def archive(tmp_path, members, method=zipfile.ZIP_STORED):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_of_numpy_is_read_bit_by_bit(tmp_path, save):
    arrays = {
        "c order": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran/order": np.asfortranarray(np.arange(24, dtype=np.int16).reshape(2, 3, 4)),
        "big endian": np.arange(3, dtype=">f8"),
        "0-d": np.array(True),
        "empty": np.zeros((0, 4), np.complex64),
    }
    save(tmp_path / "x.npz", **arrays)
    checkpoint = importers.load(tmp_path / "x.npz")
    assert checkpoint.format == "npz"
    assert [item.name for item in checkpoint] == list(arrays)
    for item in checkpoint:
        array = item.read()
        assert (array.shape, array.dtype) == (item.shape, numpy_dtype(item.dtype))
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, arrays[item.name])
    assert not checkpoint.notices


def test_a_single_array_is_named_after_its_file(tmp_path):
    np.save(tmp_path / "weight.npy", np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    checkpoint = importers.load(tmp_path / "weight.npy")
    np.testing.assert_array_equal(checkpoint["weight"].read(), np.arange(6.0).reshape(2, 3))
    with (tmp_path / "weight.npy").open("ab") as file:
        file.write(b"more")
    with pytest.raises(DamagedError, match="'weight' has 52 bytes of data, its header says 48"):
        importers.load(tmp_path / "weight.npy")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tensors=st.dictionaries(
        st.text(max_size=8).filter(lambda name: "\0" not in name),
        st.tuples(st.sampled_from(DTYPE_NAMES), st.lists(st.integers(0, 3), max_size=6)),
        min_size=1,
        max_size=4,
    ),
    seed=st.binary(min_size=1, max_size=9),
)
def test_any_shape_type_and_name_survives_and_numpy_agrees(tmp_path, tensors, seed):
    entries = []
    for name, (dtype, shape) in tensors.items():
        array = np.zeros(shape, numpy_dtype(dtype))
        content = np.resize(np.frombuffer(seed, np.uint8), array.nbytes)
        array = (content & 1 if dtype == "bool" else content).view(array.dtype).reshape(shape)
        entries.append(entry(name, array))
    path = tmp_path / "x.npz"
    notices = exported(Checkpoint(tuple(entries), "test"), path)
    assert len(notices) == any(item.dtype in WIDENED for item in entries)
    again = importers.load(path)
    assert [item.name for item in again] == list(tensors)
    with np.load(path) as numpy_sees:
        for item in entries:
            expected = item.read().astype(np.float32) if item.dtype in WIDENED else item.read()
            assert again[item.name].read().tobytes() == expected.tobytes()
            assert numpy_sees[item.name].tobytes() == expected.tobytes()
            assert numpy_sees[item.name].dtype == expected.dtype


@pytest.mark.parametrize("name", WIDENED)
def test_every_value_of_a_narrow_float_widens_exactly(tmp_path, name):
    dtype = numpy_dtype(name)
    values = np.arange(1 << (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}").view(dtype)
    notices = exported(Checkpoint((entry("w", values),), "test"), tmp_path / "x.npz")
    assert notices == ["numpy has no bfloat16 or float8: 1 tensors are float32 now: w"]
    wide = importers.load(tmp_path / "x.npz")["w"].read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NaN in narrow types
        back = wide.astype(dtype)
    is_nan = np.isnan(wide)
    assert np.array_equal(np.isnan(values.astype(np.float32)), is_nan)
    assert back[~is_nan].tobytes() == values[~is_nan].tobytes()


def test_export_is_deterministic_and_reads_one_tensor_at_a_time(tmp_path):
    live = []

    def read():
        assert all(earlier() is None for earlier in live)
        array = np.ones(3, np.int64)
        live.append(weakref.ref(array))
        return array

    entries = tuple(TensorEntry(name, (3,), "int64", read) for name in ("z", "y"))
    exported(Checkpoint(entries, "test"), tmp_path / "one.npz")
    exported(Checkpoint(entries, "test"), tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_export_says_what_a_npz_file_cannot_hold(tmp_path):
    array = np.ones(2)
    entries = (entry("in", array), entry("out", array, tied_to="in"))
    checkpoint = Checkpoint(
        entries, "onnx", attachments={"onnx/skeleton.onnx": b""}, metadata={"author": "x"}
    )
    assert exported(checkpoint, tmp_path / "x.npz") == [
        "left out, as a .npz file has no place for it: metadata 'author', the ONNX graph",
        "a .npz file cannot share data: 1 tied tensors are written in full: out",
    ]
    with np.load(tmp_path / "x.npz") as numpy_sees:
        assert numpy_sees["out"].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["a\0b", "x" * 70_000])
def test_a_name_that_a_zip_archive_cannot_hold_is_refused(tmp_path, name):
    with pytest.raises(UnsupportedError, match="cannot hold the name"):
        exported(Checkpoint((entry(name, np.ones(1)),), "test"), tmp_path / "x.npz")


def test_arrays_can_be_read_from_several_threads_again_and_again(tmp_path):
    arrays = {str(i): np.full((50, 50), i) for i in range(8)}
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    checkpoint = importers.load(tmp_path / "x.npz")
    faults = []

    def read_all():
        faults.extend(item.name for item in checkpoint if not np.array_equal(item.read(), arrays[item.name]))

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_object_arrays_are_refused_by_name_and_never_unpickled(tmp_path):
    np.savez(tmp_path / "x.npz", fine=np.ones(2), objects=np.array([{}, None]))
    with pytest.raises(UnsupportedError, match="'objects' holds Python objects"):
        importers.load(tmp_path / "x.npz")


def test_what_is_not_numeric_is_left_out_and_said(tmp_path):
    records = np.zeros(2, [("a", "f4"), ("b", "i4")])
    np.savez(
        tmp_path / "x.npz",
        words=np.array(["one"]),
        raw=np.array([b"one"]),
        day=np.array(["2020-01-01"], "M8[D]"),
        records=records,
        w=np.ones(2),
    )
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as file:
        file.writestr("readme.txt", "hello")
    checkpoint = importers.load(tmp_path / "x.npz")
    assert [item.name for item in checkpoint] == ["w"]
    assert checkpoint.notices == (
        "left out array 'words': <U3 is not numeric",
        "left out array 'raw': |S3 is not numeric",
        "left out array 'day': datetime64[D] is not numeric",
        "left out array 'records': records with named fields",
        "left out 1 members that are no arrays (first 'readme.txt')",
    )


def test_bfloat16_that_numpy_saved_as_raw_bytes_comes_back(tmp_path):
    np.savez(tmp_path / "x.npz", w=np.array([1.5, -2], ml_dtypes.bfloat16), v=np.zeros(2, np.float32))
    checkpoint = importers.load(tmp_path / "x.npz")
    assert checkpoint["w"].dtype == "bfloat16"
    assert checkpoint["w"].read().astype(float).tolist() == [1.5, -2]
    assert checkpoint.notices == ("1 arrays of raw 2-byte values are read as bfloat16, the first 'w'",)


def test_an_element_type_without_a_name_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", w=np.ones(2, np.longdouble))
    with pytest.raises(UnsupportedError, match="'w' has element type"):
        importers.load(tmp_path / "x.npz")


F4 = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(header=F4 % "(1000000000000,)"), "has 0 bytes of data, its header says 4000000000000"),
        (npy(header=F4 % "(2,)", data=bytes(12)), "has 12 bytes of data, its header says 8"),
        (npy(header=F4 % "(-1,)"), "impossible shape"),
        (npy(header=F4 % "(-2, -1)", data=bytes(8)), "impossible shape"),
        (npy(header=F4 % "(1099511627776, 1099511627776, 0)"), "impossible shape"),
        (npy(header=F4 % ("(" + "1," * 40 + ")"), data=bytes(4)), "40 axes"),
        (npy(header=F4 % "(2.0,)"), "broken header"),
        (npy(header=F4 % ("(" * 3000)), "broken header"),
        (npy(header="x" * 20_000), "broken header"),
        (npy(header="{'descr': '<f4'}"), "broken header"),
        (npy(header="__import__('os').system('true')"), "broken header"),
        (npy(np.ones(2))[:20], "broken header"),
        (b"\x93NUMPY\x09\x00", "broken header"),
        (b"", "broken header"),
    ],
)
def test_hostile_headers_are_refused_before_memory_is_used(tmp_path, content, message):
    with pytest.raises((DamagedError, UnsupportedError), match=message) as error:
        importers.load(archive(tmp_path, {"w.npy": content}))
    assert "'w'" in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_other_than_0_and_1_are_true(tmp_path):
    header = "{'descr': '|b1', 'fortran_order': False, 'shape': (3,)}"
    path = archive(tmp_path, {"w.npy": npy(header=header, data=b"\0\2\1")})
    assert importers.load(path)["w"].read().view(np.uint8).tolist() == [0, 1, 1]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_without_a_bound_is_refused(tmp_path, method):
    with pytest.raises(UnsupportedError, match="is compressed by method"):
        importers.load(archive(tmp_path, {"w.npy": npy(np.ones(2))}, method))


def patched(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


def test_a_member_that_claims_more_than_its_bytes_can_hold_is_refused(tmp_path):
    member = npy(header=F4 % "(500000000,)")
    path = archive(tmp_path, {"w.npy": member}, zipfile.ZIP_DEFLATED)
    claimed = (len(member) + 2_000_000_000).to_bytes(4, "little")
    patched(path, len(member).to_bytes(4, "little"), claimed)
    with pytest.raises(DamagedError, match="more than the file can hold"):
        importers.load(path)


def test_members_that_share_their_bytes_are_refused(tmp_path):
    content = archive(tmp_path, {"w.npy": npy(np.ones(100))}).read_bytes()
    directory, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    records = content[directory:end] * 9
    tail = bytearray(content[end:])
    tail[8:16] = (9).to_bytes(2, "little") * 2 + len(records).to_bytes(4, "little")
    (tmp_path / "x.npz").write_bytes(content[:directory] + records + tail)
    with pytest.raises(DamagedError, match="more than the file can hold"):
        importers.load(tmp_path / "x.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_altered_files_never_give_a_traceback(tmp_path, method):
    members = {"a.npy": npy(np.arange(30.0)), "b.npy": npy(np.ones((2, 2), bool))}
    path = archive(tmp_path, members, method)
    whole = path.read_bytes()
    rng = np.random.default_rng(3)
    messages = []
    for trial in range(300):
        content = bytearray(whole)
        for position in rng.integers(0, len(whole), size=1 + trial % 3):
            content[position] = rng.integers(256)
        path.write_bytes(content if trial % 4 else content[: rng.integers(1, len(content))])
        try:
            importers.load(path, "npz").numpy()
        except FrqError as error:
            messages.append(str(error))
    assert len(messages) > 200
    assert not [text for text in messages if "\n" in text or len(text) > 1000]


@pytest.mark.skipif(not CIFAR.exists(), reason="the shared CIFAR-10 archive is not there")
def test_a_large_archive_opens_without_its_data_being_read():
    checkpoint = importers.load(CIFAR)
    with np.load(CIFAR, allow_pickle=False) as numpy_sees:
        assert [item.name for item in checkpoint] == numpy_sees.files
        smallest = min(checkpoint, key=lambda item: item.size_bytes)
        np.testing.assert_array_equal(smallest.read(), numpy_sees[smallest.name])
