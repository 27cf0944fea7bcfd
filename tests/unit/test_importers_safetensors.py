"""safetensors files in and out, in one piece and in shards."""

import json
import tracemalloc
import weakref

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import deserialize, safe_open
from safetensors.numpy import load_file, save_file

from frconvert import exporters, importers
from frconvert.checkpoint import SAFETENSORS_METADATA, Checkpoint, TensorEntry
from frconvert.dtypes import DTYPE_NAMES, numpy_dtype
from frconvert.errors import DamagedError, FrqError, UnreadableError, UnsupportedError

HELD = [name for name in DTYPE_NAMES if name != "complex128"]


def entry(name, array, tied_to=None):
    return TensorEntry(name, array.shape, array.dtype.name, array.copy, tied_to=tied_to)


def exported(checkpoint, path):
    notices = []
    exporters.save(checkpoint, path, "safetensors", notices.append)
    return notices


def written(tmp_path, header, data=bytes(8), name="x.safetensors"):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / name
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def info(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def sharded(tmp_path, weight_map, **more):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 8}, "weight_map": weight_map, **more}))
    return path


def test_a_file_of_the_library_is_read_bit_by_bit_in_header_order(tmp_path):
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array(5, np.int64)}
    path = tmp_path / "x.safetensors"
    save_file(tensors, path)
    checkpoint = importers.load(path)
    with safe_open(path, "np") as library:
        assert {item.name for item in checkpoint} == set(library.keys())
    for name, array in tensors.items():
        assert checkpoint[name].dtype == array.dtype.name
        np.testing.assert_array_equal(checkpoint[name].read(), array)
    assert not checkpoint.attachments
    assert not checkpoint.notices


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tensors=st.dictionaries(
        st.text(max_size=8).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(HELD), st.lists(st.integers(0, 3), max_size=6)),
        max_size=4,
    ),
    seed=st.binary(min_size=1, max_size=9),
)
def test_any_shape_type_and_name_survives_and_the_library_agrees(tmp_path, tensors, seed):
    entries = []
    for name, (dtype, shape) in tensors.items():
        array = np.zeros(shape, numpy_dtype(dtype))
        content = np.resize(np.frombuffer(seed, np.uint8), array.nbytes)
        array = (content & 1 if dtype == "bool" else content).view(array.dtype).reshape(shape)
        entries.append(entry(name, array))
    path = tmp_path / "x.safetensors"
    exported(Checkpoint(tuple(entries), "test"), path)
    again = importers.load(path)
    assert again.entries == tuple(entries)
    library = dict(deserialize(path.read_bytes()))
    assert library.keys() == tensors.keys()
    for one, other in zip(entries, again, strict=True):
        assert one.read().tobytes() == other.read().tobytes() == bytes(library[one.name]["data"])


def test_export_is_deterministic_aligned_and_reads_one_tensor_at_a_time(tmp_path):
    live = []

    def read():
        assert all(earlier() is None for earlier in live)
        array = np.ones(3, np.int64)
        live.append(weakref.ref(array))
        return array

    wide = [TensorEntry(name, (3,), "int64", read) for name in ("z", "y")]
    checkpoint = Checkpoint((entry("flag", np.ones(3, bool)), *wide), "test")
    exported(checkpoint, tmp_path / "one.safetensors")
    exported(checkpoint, tmp_path / "two.safetensors")
    content = (tmp_path / "one.safetensors").read_bytes()
    assert content == (tmp_path / "two.safetensors").read_bytes()
    assert int.from_bytes(content[:8], "little") % 8 == 0
    assert [item.name for item in importers.load(tmp_path / "one.safetensors")] == ["flag", "z", "y"]
    assert json.loads(content[8:].split(b"}}")[0] + b"}}")["z"]["data_offsets"] == [0, 24]


def test_opening_reads_no_tensor_data(tmp_path):
    path = tmp_path / "big.safetensors"
    save_file({"w": np.zeros(4_000_000, np.float32)}, path)
    tracemalloc.start()
    try:
        checkpoint = importers.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert checkpoint.tensor_bytes == 16_000_000
    assert peak < 1_000_000


def test_a_read_array_is_fresh_each_time(tmp_path):
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "x.safetensors")
    item = importers.load(tmp_path / "x.safetensors")["w"]
    item.read()[:] = 7
    assert item.read().tolist() == [1, 1, 1]


def test_metadata_travels_there_and_back(tmp_path):
    path = tmp_path / "x.safetensors"
    metadata = {"ss_rank": "8", "format": "pt", "è": "ü"}
    save_file({"w": np.ones(2)}, path, metadata=metadata)
    checkpoint = importers.load(path)
    assert json.loads(checkpoint.attachments[SAFETENSORS_METADATA]) == metadata
    assert exported(checkpoint, tmp_path / "y.safetensors") == []
    with safe_open(tmp_path / "y.safetensors", "np") as library:
        assert library.metadata() == metadata


def test_a_file_without_metadata_says_format_pt_and_carries_the_checkpoints_own(tmp_path):
    exported(Checkpoint((), "test", metadata={"author": "x"}), tmp_path / "y.safetensors")
    with safe_open(tmp_path / "y.safetensors", "np") as library:
        assert library.metadata() == {"format": "pt", "author": "x"}
    exported(Checkpoint((), "test"), tmp_path / "z.safetensors")
    assert not importers.load(tmp_path / "z.safetensors").attachments


@pytest.mark.parametrize("attachment", [b"", b"[]", b'{"a":1}', b"[" * 100_000, b"\xff"])
def test_a_hostile_metadata_attachment_is_named_as_damage(tmp_path, attachment):
    checkpoint = Checkpoint((), "frq", attachments={SAFETENSORS_METADATA: attachment})
    with pytest.raises(DamagedError, match=SAFETENSORS_METADATA):
        exported(checkpoint, tmp_path / "x.safetensors")


def test_tied_tensors_are_written_in_full_and_said(tmp_path):
    array = np.arange(4, dtype=np.float32)
    checkpoint = Checkpoint((entry("in", array), entry("out", array, tied_to="in")), "test")
    notices = exported(checkpoint, tmp_path / "x.safetensors")
    assert notices == ["safetensors cannot share data: 1 tied tensors are written in full: out"]
    assert load_file(tmp_path / "x.safetensors")["out"].tolist() == [0, 1, 2, 3]


def test_export_refuses_by_name_what_the_format_cannot_hold(tmp_path):
    for name, array in (("w", np.ones(2, np.complex128)), ("__metadata__", np.ones(2))):
        with pytest.raises(UnsupportedError, match=f"tensor '{name}'"):
            exported(Checkpoint((entry(name, array),), "test"), tmp_path / "x.safetensors")


def test_export_says_what_it_leaves_out(tmp_path):
    checkpoint = Checkpoint((), "onnx", attachments={"onnx/skeleton.onnx": b""})
    assert exported(checkpoint, tmp_path / "x.safetensors") == [
        "left out, as a safetensors file has no place for it: the ONNX graph"
    ]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"not json", "not sound JSON"),
        (b"[]", "not an object"),
        (b"[" * 100_000, "not sound JSON"),
        (b'{"a":' * 100_000, "not sound JSON"),
        (b"\xff\xfe", "not sound JSON"),
        (b'{"\\ud800": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "not sound JSON"),
        (b'{"a":{"dtype":"F32","shape":[2' + b"9" * 5000 + b'],"data_offsets":[0,8]}}', "not sound JSON"),
        (
            b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"a":{"dtype":"U8","shape":[0],"data_offsets":[8,8]}}',
            "'a' occurs twice",
        ),
        ({"__metadata__": {"a": 1}, "a": info()}, "__metadata__"),
        ({"__metadata__": [], "a": info()}, None),
        ({"a": 5}, "'a' has no dtype"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "'a' has no dtype"),
        ({"a": info(dtype="F33")}, "'a' has unknown dtype 'F33'"),
        ({"a": info(dtype=["F32"])}, "'a' has unknown dtype"),
        ({"a": info(dtype="F4", shape=[16])}, "less than a byte"),
        ({"a": info(shape=[-2])}, "shape is not a list"),
        ({"a": info(shape=[2.0])}, "shape is not a list"),
        ({"a": info(shape=[True, 2])}, "shape is not a list"),
        ({"a": info(shape=[3])}, "'a': data_offsets"),
        ({"a": info(offsets=[0])}, "'a': data_offsets"),
        ({"a": info(offsets=[8, 0])}, "'a': data_offsets"),
        ({"a": info(shape=[2**40, 2**40])}, "'a': the size of shape"),
        ({"a": info(shape=[2**40, 2**40, 0], offsets=[0, 0])}, "'a': the size of shape"),
        ({"a": info(shape=[1] * 33 + [2])}, "34 axes"),
        ({"a": info(shape=[1], offsets=[0, 4])}, "tensors end at"),
        ({"a": info(offsets=[8, 16])}, "leaves a hole"),
        ({"a": info(), "b": info(shape=[1], offsets=[4, 8])}, "'b' at data offset 4 overlaps"),
        ({"a": info(shape=[4], offsets=[0, 16])}, "tensors end at"),
    ],
)
def test_every_rule_of_the_header_is_checked(tmp_path, header, message):
    path = written(tmp_path, header)
    if message is None:
        assert len(importers.load(path, "safetensors")) == 1
        return
    with pytest.raises((DamagedError, UnsupportedError), match=message) as error:
        importers.load(path, "safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\x10\0\0\0", (2**63).to_bytes(8, "little") + b"{}"])
def test_a_header_beyond_the_file_is_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="the header would end at"):
        importers.load(path, "safetensors")


def test_a_file_cut_after_opening_is_named_as_damage(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"w": np.ones(10, np.float32)}, path)
    item = importers.load(path)["w"]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DamagedError, match="'w' ends after 36 of 40 bytes"):
        item.read()
    path.unlink()
    with pytest.raises(UnreadableError, match="'w' cannot be read"):
        item.read()


def test_bytes_other_than_0_and_1_are_true(tmp_path):
    path = written(tmp_path, {"a": info("BOOL", [3], [0, 3])}, b"\0\2\1")
    assert importers.load(path)["a"].read().view(np.uint8).tolist() == [0, 1, 1]


def test_altered_headers_never_give_a_traceback(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"w": np.ones((3, 4), np.float32), "flag": np.ones(2, bool)}, path, metadata={"a": "b"})
    whole = path.read_bytes()
    rng = np.random.default_rng(2)
    messages = []
    for trial in range(300):
        content = bytearray(whole)
        for position in rng.integers(0, len(whole) - 50, size=1 + trial % 3):
            content[position] = rng.integers(256)
        path.write_bytes(content if trial % 4 else content[: rng.integers(1, len(content))])
        try:
            importers.load(path, "safetensors").numpy()
        except FrqError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert not [text for text in messages if "\n" in text or len(text) > 1000]


def test_shards_are_joined_in_the_order_of_the_index(tmp_path):
    save_file({"a": np.ones(2, np.float32), "b": np.zeros(1)}, tmp_path / "1.safetensors", {"k": "v"})
    save_file({"c": np.arange(3)}, tmp_path / "2.safetensors")
    path = sharded(tmp_path, {"c": "2.safetensors", "a": "1.safetensors", "b": "1.safetensors"})
    checkpoint = importers.load(path)
    names = ["c", *(item.name for item in importers.load(tmp_path / "1.safetensors"))]
    assert checkpoint.format == "safetensors"
    assert [item.name for item in checkpoint] == names
    assert checkpoint["a"].read().tolist() == [1, 1]
    assert json.loads(checkpoint.attachments[SAFETENSORS_METADATA]) == {"k": "v"}


def test_tensors_that_the_index_does_not_name_are_left_out_and_said(tmp_path):
    save_file({"a": np.ones(2), "b": np.zeros(1)}, tmp_path / "1.safetensors")
    checkpoint = importers.load(sharded(tmp_path, {"a": "1.safetensors"}))
    assert [item.name for item in checkpoint] == ["a"]
    assert checkpoint.notices == ("left out 1 tensors of '1.safetensors' that the index does not name",)


def test_pytorch_shards_are_joined_too(tmp_path):
    torch = pytest.importorskip("torch")
    weight = torch.ones(3)
    torch.save({"a": weight, "b": weight}, tmp_path / "pytorch_model-1.bin")
    torch.save({"c": torch.zeros(2)}, tmp_path / "pytorch_model-2.bin", _use_new_zipfile_serialization=False)
    index = {"b": "pytorch_model-1.bin", "a": "pytorch_model-1.bin", "c": "pytorch_model-2.bin"}
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    checkpoint = importers.load(path)
    assert checkpoint.format == "pytorch"
    assert [(item.name, item.tied_to) for item in checkpoint] == [("a", None), ("b", "a"), ("c", None)]
    path.write_text(json.dumps({"weight_map": {"b": "pytorch_model-1.bin"}}))
    assert [(item.name, item.tied_to) for item in importers.load(path)] == [("b", None)]


def test_a_missing_shard_or_tensor_is_named(tmp_path):
    with pytest.raises(UnreadableError, match=r"shard '1\.safetensors': No such file"):
        importers.load(sharded(tmp_path, {"a": "1.safetensors"}))
    save_file({"a": np.ones(2)}, tmp_path / "1.safetensors")
    with pytest.raises(DamagedError, match=r"tensor 'b' is not in its shard '1\.safetensors'"):
        importers.load(sharded(tmp_path, {"a": "1.safetensors", "b": "1.safetensors"}))


@pytest.mark.parametrize(
    "shard", ["../1.safetensors", "/etc/passwd", "a/b", "a\\b", "c:x", "", ".", "..", "\0"]
)
def test_shards_outside_the_folder_are_refused(tmp_path, shard):
    with pytest.raises(DamagedError, match="is not a plain file name"):
        importers.load(sharded(tmp_path, {"a": shard}))


def test_an_index_that_names_itself_or_no_weights_is_refused(tmp_path):
    with pytest.raises(DamagedError, match="is neither a safetensors nor a PyTorch file"):
        importers.load(sharded(tmp_path, {"a": "model.safetensors.index.json"}))
    for weight_map in (None, [], {"a": 5}):
        with pytest.raises(DamagedError, match="no weight_map"):
            importers.load(sharded(tmp_path, weight_map))
