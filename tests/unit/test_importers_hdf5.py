"""HDF5 in and out: files in the layouts of Keras 2 and 3, ties, element types, and what is hostile."""

import json
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from frconvert.checkpoint import HDF5_SKELETON, Checkpoint, TensorEntry
from frconvert.dtypes import DTYPE_NAMES, dtype_name, numpy_dtype
from frconvert.errors import DamagedError, FrqError, UnreadableError, UnsupportedError
from frconvert.exporters import save as save_as
from frconvert.importers import load as load_any
from frconvert.importers.hdf5 import load


def save(checkpoint, path, notices=None):
    save_as(checkpoint, Path(path), "hdf5", [].append if notices is None else notices.append)
    return path


def checkpoint_of(arrays, ties=None, **kwargs):
    entries = [
        TensorEntry(name, array.shape, dtype_name(array.dtype), array.copy) for name, array in arrays.items()
    ]
    for name, other in (ties or {}).items():
        entries.append(
            TensorEntry(
                name, arrays[other].shape, dtype_name(arrays[other].dtype), arrays[other].copy, tied_to=other
            )
        )
    return Checkpoint(tuple(entries), "test", **kwargs)


def same_bits(left, right):
    return left.shape == right.shape and left.dtype == right.dtype and left.tobytes() == right.tobytes()


def content(path, but=()):
    """Everything that a reader can see in a file: type, shape and value of each dataset and attribute."""
    seen = {}

    def see(name, item):
        if name.split("/")[0] in but:
            return
        attrs = {key: _value(item.attrs[key], item.attrs.get_id(key).dtype) for key in item.attrs}
        data = _value(item[()], item.dtype) if isinstance(item, h5py.Dataset) else None
        seen[name] = (type(item).__name__, attrs, data)

    with h5py.File(path) as file:
        see("", file["/"])
        file.visititems(see)
    return seen


def _value(value, dtype):
    if isinstance(value, h5py.Empty):
        return "empty", str(value.dtype), dict(value.dtype.metadata or {})
    array = np.asarray(value)
    data = array.tolist() if dtype.hasobject else array.tobytes()
    return str(dtype), str(dict(dtype.metadata or {})), array.shape, data


@pytest.fixture
def keras2(tmp_path):
    """A full model as Keras 2.9 saves it: JSON in attributes, names in arrays of strings, Adam's slots."""
    path = tmp_path / "model.h5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.9.0"
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "text": "x" * 70_000}).encode()
        file.attrs["training_config"] = b"{}"
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = [b"conv2d", b"dropout", b"dense"]
        slots = file.create_group("optimizer_weights")
        slots.attrs["weight_names"] = [b"Adam/iter:0"]
        slots["Adam/iter:0"] = np.int64(7)
        for layer, shape in (("conv2d", (3, 3, 3, 8)), ("dense", (8, 4))):
            group = weights.create_group(layer)
            names = [f"{layer}/kernel:0".encode(), f"{layer}/bias:0".encode()]
            group.attrs["weight_names"] = names
            group[names[0]] = rng.normal(size=shape).astype("f4")
            group[names[1]] = np.zeros(shape[-1], "f4")
            slots[f"Adam/{layer}/kernel/m:0"] = np.zeros(shape, "f4")
        weights.create_group("dropout").attrs["weight_names"] = []
        weights.create_group("top_level_model_weights").attrs["weight_names"] = np.array([], "S1")
    return path


@pytest.fixture
def keras3(tmp_path):
    """Weights as Keras 3 saves them, one bfloat16 among them, which h5py makes opaque bytes."""
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        for number, layer in enumerate(("conv2d", "dense", "dropout")):
            group = file.create_group(f"layers/{layer}/vars")
            group.attrs["name"] = f"my_{layer}"
            if layer != "dropout":
                group["0"] = np.arange(12, dtype="f4").reshape(3, 4) + number
        half = file["layers/dense/vars"].create_dataset("1", data=np.arange(4).astype(ml_dtypes.bfloat16))
        half.attrs["dtype"] = "bfloat16"
        file.create_group("vars")
        file["optimizer/vars/0"] = np.int64(1)
        file["optimizer/vars/1"] = np.float32(0.1)
    return path


def test_a_legacy_keras_model_has_its_weights_without_the_optimizer(keras2):
    checkpoint = load_any(keras2)
    assert checkpoint.format == "hdf5"
    assert [entry.name for entry in checkpoint] == [
        "model_weights/conv2d/conv2d/bias:0",
        "model_weights/conv2d/conv2d/kernel:0",
        "model_weights/dense/dense/bias:0",
        "model_weights/dense/dense/kernel:0",
    ]
    assert checkpoint.notices == (
        "optimizer tensors left out: 3 (first 'optimizer_weights/Adam/conv2d/kernel/m:0')",
    )
    with h5py.File(keras2) as file:
        kernel = file["model_weights"]["conv2d"]["conv2d"]["kernel:0"][()]
    assert same_bits(checkpoint["model_weights/conv2d/conv2d/kernel:0"].read(), kernel)


def test_a_keras_3_file_has_its_weights_and_bfloat16_without_the_optimizer(keras3):
    checkpoint = load(keras3)
    assert [(entry.name, entry.dtype) for entry in checkpoint] == [
        ("layers/conv2d/vars/0", "float32"),
        ("layers/dense/vars/0", "float32"),
        ("layers/dense/vars/1", "bfloat16"),
    ]
    assert checkpoint.notices == ("optimizer tensors left out: 2 (first 'optimizer/vars/0')",)
    assert checkpoint["layers/dense/vars/1"].read().astype(int).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("layout", "optimizer"), [("keras2", "optimizer_weights"), ("keras3", "optimizer")])
def test_a_keras_file_comes_back_with_every_dataset_group_and_attribute(layout, optimizer, request, tmp_path):
    path = request.getfixturevalue(layout)
    notices = []
    back = save(load(path), tmp_path / "back.h5", notices)
    assert notices == []
    assert content(back) == content(path, but=(optimizer,))


def test_only_a_group_of_variables_named_optimizer_is_optimizer_state(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["optimizer/weight"] = np.ones(3)
    assert [entry.name for entry in load(tmp_path / "a.h5")] == ["optimizer/weight"]


def test_plain_datasets_need_no_skeleton(tmp_path):
    arrays = {"a.weight": np.ones((2, 3), "f4"), "b/c": np.arange(3), "b/d": np.float64(2).reshape(())}
    checkpoint = load(save(checkpoint_of(arrays), tmp_path / "a.h5"))
    assert dict(checkpoint.attachments) == {}
    assert checkpoint.notices == ()
    assert {entry.name: entry.shape for entry in checkpoint} == {"a.weight": (2, 3), "b/c": (3,), "b/d": ()}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_element_type_shape_and_bit_survives(data, tmp_path):
    native = [name for name in DTYPE_NAMES if not name.startswith(("bfloat", "float8"))]
    name = data.draw(st.sampled_from(native))
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3))
    if name == "bool":
        array = data.draw(hnp.arrays("?", shape))
    else:  # from bytes: NaN with payload, infinities and subnormal numbers too
        raw = data.draw(hnp.arrays("u1", (int(np.prod(shape)) * numpy_dtype(name).itemsize,)))
        array = raw.view(numpy_dtype(name)).reshape(shape)
    back = load(save(checkpoint_of({"x": array}), tmp_path / "x.h5"))["x"].read()
    assert same_bits(back, array)
    assert back.flags.c_contiguous


@pytest.mark.parametrize("name", [name for name in DTYPE_NAMES if name.startswith(("bfloat", "float8"))])
def test_small_floats_widen_to_float32_exactly_and_with_a_notice(name, tmp_path):
    every = np.arange(1 << 8 * numpy_dtype(name).itemsize, dtype=f"u{numpy_dtype(name).itemsize}")
    array = every.view(numpy_dtype(name))
    notices = []
    back = load(save(checkpoint_of({"x": array}), tmp_path / "x.h5", notices))["x"]
    assert back.dtype == "float32"
    np.testing.assert_array_equal(back.read(), array.astype("f4"))
    assert notices == ["bfloat16 and float8 tensors widened to float32, exactly: 1 (first 'x')"]


def test_unusual_types_come_back_as_they_were(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["big"] = np.arange(4, dtype=">f4")
        file["bool"] = np.array([True, False])
        file["enum"] = np.array([0, 1], h5py.enum_dtype({"A": 0, "B": 1}, "i1"))
        file["pairs"] = np.arange(3, dtype="u2").view(ml_dtypes.bfloat16)
        file["quads"] = np.arange(3, dtype="u4").view("V4")
        file["half"] = np.float16(1.5)
        file["empty"] = np.zeros((0, 3), "f4")
        file["null"] = h5py.Empty("f4")
        file["text"] = "naïve"
        file["texts"] = np.array([b"a", b"bc\0d"])
        file["record"] = np.array([(1, 2.5, b"x")], [("n", "u1"), ("v", ">f8"), ("s", "S3")])
        file["big"].attrs["unit"] = "mV"
    checkpoint = load(path)
    assert {entry.name: entry.dtype for entry in checkpoint} == {
        "big": "float32", "bool": "bool", "empty": "float32", "enum": "int8", "half": "float16",
        "pairs": "bfloat16", "quads": "uint32",
    }  # fmt: skip
    assert checkpoint["big"].read().dtype.str == "<f4"
    assert checkpoint["big"].read().tolist() == [0, 1, 2, 3]
    assert checkpoint.notices == (
        "opaque values of 2 bytes read as bfloat16: 1 (first 'pairs')",
        "opaque values of 4 bytes read as uint32: 1 (first 'quads')",
    )
    assert content(save(checkpoint, tmp_path / "back.h5")) == content(path)


def test_attributes_of_every_kind_come_back_as_they_were(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="v110") as file:
        values = {
            "text": "ü", "bytes": np.bytes_(b"fixed"), "texts": ["a", "bb"], "fixed": np.array([b"a", b"bb"]),
            "utf8": np.array(["ä".encode()], h5py.string_dtype("utf-8", 5)), "float": 1.5, "array": np.eye(3),
            "bool": True, "bools": np.array([True]), "null": h5py.Empty("f8"), "nulltext": h5py.Empty("S4"),
            "large": np.bytes_(b"x" * 100_000), "empty": np.array([], "S1"), "void": np.void(b"\1\2\3"),
            "raw": b"\xff\xfe", "complex": 1j,
        }  # fmt: skip
        for name, value in values.items():
            file.attrs[name] = value
        file.create_group("empty/inner")
        file["w"] = np.ones(2)
        file["w"].attrs["scale"] = np.float32(0.5)
    checkpoint = load(path)
    assert checkpoint.notices == ()
    assert content(save(checkpoint, tmp_path / "back.h5")) == content(path)


def test_creation_order_is_kept_where_the_source_tracks_it(tmp_path):
    path = tmp_path / "a.h5"
    names = [f"n{number * 7 % 20:02}" for number in range(20)]
    with h5py.File(path, "w", track_order=True) as file:
        group = file.create_group("z", track_order=True)
        for name in names:
            group[name] = np.ones(1)
            group.attrs[name] = 1
        file.create_group("a", track_order=True)
    checkpoint = load(path)
    assert [entry.name for entry in checkpoint] == [f"z/{name}" for name in names]
    with h5py.File(save(checkpoint, tmp_path / "back.h5")) as file:
        assert list(file) == ["z", "a"]
        assert list(file["z"]) == list(file["z"].attrs) == names


def test_what_cannot_be_carried_along_is_said(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["w"] = np.ones(2)
        file["ref"] = file["w"].ref
        file["table"] = np.array([b"x" * 1000] * 2000)
        file["type"] = np.dtype("f4")
        file["w"].attrs["other"] = file["ref"].ref
        file["lost"] = h5py.SoftLink("/nowhere")
    assert sorted(load(tmp_path / "a.h5").notices) == [
        "attributes of references or other unusual types, left out: 1 (first '/w@other')",
        "datasets that are no tensors, too large or too unusual to carry along, left out: 2 (first 'ref')",
        "links to what is not there or was left out, left out too: 1 (first 'lost')",
        "named datatypes left out: 1 (first 'type')",
    ]


def test_hard_and_soft_links_to_a_tensor_are_ties(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["b/w"] = np.arange(3.0)
        file["a"] = h5py.SoftLink("b/./w")  # before its target
        file["c/hard"] = file["b/w"]
        file["c/soft"] = h5py.SoftLink("hard")
        file["d"] = h5py.SoftLink("/c")
        file["e"] = h5py.SoftLink("/d/soft")
    checkpoint = load(path)
    assert {entry.name: entry.tied_to for entry in checkpoint} == {
        "b/w": None, "c/hard": "b/w", "a": "b/w", "c/soft": "b/w", "e": "b/w",
    }  # fmt: skip
    with h5py.File(save(checkpoint, tmp_path / "back.h5")) as file:
        assert file["a"] == file["c/hard"] == file["d/soft"] == file["e"] == file["b/w"]
        assert file["d"] == file["c"]
        assert isinstance(file.get("a", getlink=True), h5py.HardLink)


def test_ties_from_other_formats_become_hard_links(tmp_path):
    source = checkpoint_of({"w": np.ones((2, 2), "f4")}, ties={"x.y": "w", "g/v": "w"})
    checkpoint = load(save(source, tmp_path / "a.h5"))
    assert {entry.name: entry.tied_to for entry in checkpoint} == {"g/v": None, "w": "g/v", "x.y": "g/v"}


def test_groups_in_a_ring_end_and_come_back_as_a_ring(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["a/b/w"] = np.ones(2)
        file["a/b/up"] = file["a"]
        file["a/b/top"] = file["/"]
        file["one"] = h5py.SoftLink("/two")
        file["two"] = h5py.SoftLink("/one/x")
    checkpoint = load(path)
    assert [entry.name for entry in checkpoint] == ["a/b/w"]
    assert checkpoint.notices == (
        "groups under a second name, whose tensors keep the names under the first: 2 (first 'a/b/top')",
        "links to what is not there or was left out, left out too: 2 (first 'one')",
    )
    with h5py.File(save(checkpoint, tmp_path / "back.h5")) as file:
        assert file["a/b/up/b/top/a"] == file["a"]


def test_reading_is_lazy_repeatable_and_safe_from_several_threads(keras3):
    checkpoint = load(keras3)
    results = []

    def work():
        results.extend(entry.read().tobytes() for _ in range(5) for entry in checkpoint)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted([entry.read().tobytes() for entry in checkpoint] * 20)
    entry = checkpoint.entries[0]
    entry.read()[...] = 0
    assert entry.read().any()
    keras3.unlink()
    with pytest.raises(UnreadableError, match="No such file"):
        entry.read()


def test_a_tensor_that_changed_since_the_file_was_opened_is_refused(tmp_path):
    path = save(checkpoint_of({"w": np.ones(3, "i4")}), tmp_path / "a.h5")
    entry = load(path)["w"]
    save(checkpoint_of({"w": np.ones(3, "u4")}), path)
    with pytest.raises(DamagedError, match="'w' has changed"):
        entry.read()


def test_the_same_content_gives_the_same_bytes_at_any_time(keras2, keras3, tmp_path):
    for number, path in enumerate((keras2, keras3)):
        first = save(load(path), tmp_path / f"a{number}.h5").read_bytes()
        time.sleep(1.1)  # HDF5 would store seconds
        assert save(load(path), tmp_path / f"b{number}.h5").read_bytes() == first
    assert load(keras2).attachments == load(keras2).attachments


@pytest.mark.parametrize(
    ("names", "paths"),
    [
        (["a", "a/b"], ["a_1", "a/b"]),
        (["a/b/c", "a/b", "a"], ["a/b/c", "a/b_1", "a_1"]),
        (["/x/y", "x/y", "x//y"], ["x/y_1", "x/y", "x/y_2"]),
        (["a", "a_1", "a/b"], ["a_2", "a_1", "a/b"]),
        (["", "/", ".", "a/./b", "a/../b"], ["_", "__1", "__2", "a/_/b", "a/../b"]),
        (["nul\0", "lone\ud800"], ["nul_", "lone?"]),
    ],
)
def test_names_that_are_no_paths_of_their_own_are_changed_with_a_notice(names, paths, tmp_path):
    arrays = {name: np.full(2, number) for number, name in enumerate(names)}
    notices = []
    checkpoint = load(save(checkpoint_of(arrays), tmp_path / "a.h5", notices))
    values = {entry.name: int(entry.read()[0]) for entry in checkpoint}
    assert values == {path: number for number, path in enumerate(paths)}
    assert len(notices) == 1
    assert notices[0].startswith("tensor names that cannot be HDF5 paths, changed: ")


def test_attachments_and_metadata_of_other_formats_are_said_to_be_lost(tmp_path):
    notices = []
    source = checkpoint_of(
        {"w": np.ones(1)}, attachments={"onnx/skeleton.onnx": b""}, metadata={"author": "x"}
    )
    save(source, tmp_path / "a.h5", notices)
    assert notices == ["left out, as an HDF5 file has no place for it: metadata 'author', the ONNX graph"]


def test_a_checkpoint_reduced_to_some_tensors_can_be_written(keras2, tmp_path):
    checkpoint = load(keras2)
    some = Checkpoint(checkpoint.entries[:1], "hdf5", checkpoint.attachments)
    assert [entry.name for entry in load(save(some, tmp_path / "some.h5"))] == [checkpoint.entries[0].name]


# What is broken or hostile.


def test_a_heap_on_which_hdf5_would_loop_for_ever_is_damaged(keras2):
    data = bytearray(keras2.read_bytes())
    heap = data.index(b"GCOL")
    for size in (0, 1 << 62, (1 << 64) - 16):
        data[heap + 16 : heap + 32] = struct.pack("<H6xQ", 0 if size == 0 else 1, size)
        keras2.write_bytes(data)
        with pytest.raises(DamagedError, match="impossible size in the global heap"):
            load(keras2)


def test_broken_trees_on_which_hdf5_would_crash_give_errors(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("w", data=np.ones((7, 5), "f4"), chunks=(7, 5), fletcher32=True)
    data = (tmp_path / "a.h5").read_bytes()
    chunk = struct.pack("<II", 7 * 5 * 4 + 4, 0)  # length and filter mask in the tree of chunks
    assert data.count(chunk) == 1
    (tmp_path / "a.h5").write_bytes(data.replace(chunk, bytes(8)))
    with pytest.raises(DamagedError, match="'w' has a chunk shorter than its checksum"):
        load(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w", libver="latest") as file:
        many = file.create_group("many")
        for number in range(30):
            many.attrs[f"a{number}"] = 1
            many.create_group(f"g{number}")
    data = bytearray((tmp_path / "b.h5").read_bytes())
    trees = [at for at in range(len(data)) if data[at : at + 4] == b"BTHD"]
    assert trees
    for tree in trees:
        data[tree + 16 : tree + 34] = b"\x7f" * 18  # address of the root, numbers of records
    (tmp_path / "b.h5").write_bytes(data)
    with pytest.raises(DamagedError):
        load(tmp_path / "b.h5")


def test_missing_empty_and_foreign_files_are_unreadable(tmp_path):
    with pytest.raises(UnreadableError, match="No such file"):
        load(tmp_path / "none.h5")
    for content_ in (b"", b"PK garbage" * 100):
        (tmp_path / "x.h5").write_bytes(content_)
        with pytest.raises(UnreadableError, match="not an HDF5 file"):
            load(tmp_path / "x.h5")


def test_truncated_files_are_damaged(keras2):
    data = keras2.read_bytes()
    for length in (9, 50, 96, 800, 3000, len(data) // 2, len(data) - 1):
        keras2.write_bytes(data[:length])
        with pytest.raises(DamagedError) as caught:
            load(keras2).numpy()
        assert "\n" not in str(caught.value)
        assert str(keras2) in str(caught.value)


def test_overwritten_bytes_give_values_or_one_line_errors(keras3):
    data = keras3.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(60):
        begin = int(rng.integers(0, len(data) - 16))
        keras3.write_bytes(data[:begin] + b"\xff" * 16 + data[begin + 16 :])
        with suppress(FrqError):  # anything else fails the test
            load(keras3).numpy()


@pytest.mark.parametrize("dataset", ["unwritten", "chunk", "contiguous"])
def test_a_small_file_that_declares_terabytes_is_refused_before_anything_is_read(dataset, tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        if dataset == "unwritten":
            file.create_dataset("w", (10**12,), "f4", chunks=(1 << 10,), compression="gzip", fillvalue=1)
        elif dataset == "chunk":
            file.create_dataset("w", (1,), "f4", maxshape=(None,), chunks=(1 << 29,), compression="gzip")
        else:
            file.create_dataset("w", (10**12,), "f4")
    with pytest.raises(DamagedError, match=r"up to 'w' it declares .* refused as a bomb"):
        load(path)


def test_many_small_bombs_are_one(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number in range(5):
            file.create_dataset(f"w{number}", (1 << 24,), "f4")
    with pytest.raises(DamagedError, match="up to 'w4' it declares"):
        load(tmp_path / "a.h5")


def test_compressed_tensors_of_a_sound_file_are_read(tmp_path):
    array = np.zeros((500, 500), "f4")
    array[3, 4] = 1
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("gzip", "lzf"):
            file.create_dataset(name, data=array, compression=name, shuffle=True, fletcher32=True)
        file.create_dataset("unwritten", (3,), "f4", fillvalue=2)
    values = load(tmp_path / "a.h5").numpy()
    assert same_bits(values["gzip"], array)
    assert same_bits(values["lzf"], array)
    assert values["unwritten"].tolist() == [2, 2, 2]


def test_data_in_other_files_are_refused(tmp_path):
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.ones(4, "f4")
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "x", shape=(4,))
    makers = {
        "link": lambda file: file.__setitem__("w", h5py.ExternalLink(str(tmp_path / "secret.h5"), "/x")),
        "raw": lambda file: file.create_dataset(
            "w", (4,), "f4", external=[(str(tmp_path / "secret.bin"), 0, 16)]
        ),
        "virtual": lambda file: file.create_virtual_dataset("w", layout),
    }
    for name, make in makers.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            make(file)
        with pytest.raises(UnsupportedError, match=r"'w' (links to|takes its data from) (an)?other file"):
            load(tmp_path / f"{name}.h5")


def test_a_filter_that_needs_a_plugin_is_refused_without_looking_for_one(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4,))
        plist.set_filter(h5py.h5z.FILTER_DEFLATE, h5py.h5z.FLAG_OPTIONAL, (4,))
        space = h5py.h5s.create_simple((4,))
        h5py.h5d.create(file.id, b"w", h5py.h5t.IEEE_F32LE, space, plist)
    data = (tmp_path / "a.h5").read_bytes()
    deflate = b"\x01\x00\x08\x00\x01\x00\x01\x00deflate\0"  # filter 1 in the pipeline message
    assert data.count(deflate) == 1
    (tmp_path / "a.h5").write_bytes(data.replace(deflate, b"\x01\x7d" + deflate[2:]))
    with pytest.raises(UnsupportedError, match=r"HDF5 filter 32001 \(deflate\), which needs a plugin"):
        load(tmp_path / "a.h5")


def test_a_link_name_with_a_slash_is_refused(tmp_path):
    path = save(checkpoint_of({"a/b": np.ones(2), "weight": np.ones(2)}), tmp_path / "a.h5")
    data = path.read_bytes()
    assert data.count(b"weight\0") == 1
    path.write_bytes(data.replace(b"weight\0", b"a/bght\0"))
    with pytest.raises(DamagedError, match="impossible name 'a/bght'"):
        load(path)


def test_groups_nested_too_deep_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["/".join("g" * 150)] = np.ones(1)
    with pytest.raises(UnsupportedError, match="nest deeper than 100"):
        load(tmp_path / "a.h5")


def test_extended_floats_are_refused_rather_than_left_out(tmp_path):
    if np.dtype("longdouble").itemsize == 8:
        pytest.skip("long double is float64 here")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["w"] = np.ones(2, "longdouble")
    with pytest.raises(UnsupportedError, match="'w' has element type float128"):
        load(tmp_path / "a.h5")


def _nodes(*nodes):
    return json.dumps({"version": 1, "nodes": nodes}).encode()


@pytest.mark.parametrize(
    "skeleton",
    [
        b"", b"\xff", b"[" * 100_000, b"[]", b"{}", b'{"version":1}', b'{"version":1,"nodes":[7]}',
        _nodes({}), _nodes({"group": "a", "link": "b"}), _nodes({"group": "a//b"}), _nodes({"group": "/a"}),
        _nodes({"group": "a/./b"}), _nodes({"group": 0}), _nodes({"dataset": ""}), _nodes({"link": "a"}),
        _nodes({"group": "a\0"}), _nodes({"group": "\ud800"}), _nodes({"group": "", "attrs": {"": 1}}),
        *(
            _nodes({"group": "", "attrs": {"x": value}})
            for value in (
                None, [], ["<f4", [1]], ["<f4", [1], "AA=="], ["<f4", [1], "!!!"], ["O", [1], "AAAAAAAAAAA="],
                ["<f16", [0], ""], ["V0", [9], ""], ["|V0", [9], ""], ["<f4", [-1], ""],
                ["<f4", [0] * 33, ""],
                ["<f4", [1 << 60, 0], ""], ["<f4", [True], "AAAAAA=="], ["utf-8", [1], ["a\0b"]],
                ["utf-8", [1 << 40], ["a"]], ["utf-8:3", [1], ["abcd"]], ["utf-8:999999999", [1], ["a"]],
                ["utf-8", [1], [7]], [{"enum": "<f4", "members": {"a": 1}}, [0], ""],
                [{"fields": [], "size": 4}, [0], ""], [{"fields": [["a", "<f4", 9]], "size": 4}, [0], ""],
                [{"fields": [["a", "utf-8", 0]], "size": 8}, [0], ""], [{"fields": 3, "size": 4}, [0], ""],
                [{"fields": [["a", "<f4", 0], ["a", "<f4", 4]], "size": 8}, [0], ""],
            )
        ),
        _nodes({"dataset": "w", "value": ["<f4", [], "AAAAAA=="]}, {"group": "w/x"}),
        _nodes({"link": "v", "to": ""}, {"link": "v", "to": ""}),
    ],
)  # fmt: skip
def test_a_hostile_skeleton_is_damaged_in_one_line(skeleton, tmp_path):
    source = checkpoint_of({"t": np.ones(2, "f4")}, attachments={HDF5_SKELETON: skeleton})
    with pytest.raises(DamagedError) as caught:
        save(source, tmp_path / "a.h5")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_skeleton_of_a_later_version_is_unsupported(tmp_path):
    source = checkpoint_of({}, attachments={HDF5_SKELETON: b'{"version":2}'})
    with pytest.raises(UnsupportedError, match="has version 2"):
        save(source, tmp_path / "a.h5")


def test_a_skeleton_whose_types_do_not_fit_the_tensors_gives_way(tmp_path):
    skeleton = _nodes({"dataset": "w", "type": ">f8"}, {"dataset": "b", "type": "|V4"}, {"group": "v"})
    arrays = {"w": np.ones(2, "f4"), "b": np.ones(2, ml_dtypes.bfloat16), "v": np.ones(2)}
    notices = []
    path = save(checkpoint_of(arrays, attachments={HDF5_SKELETON: skeleton}), tmp_path / "a.h5", notices)
    with h5py.File(path) as file:
        assert {name: file[name].dtype.str for name in ("w", "b", "v_1")} == {
            "w": "<f4",
            "b": "<f4",
            "v_1": "<f8",
        }
    assert len(notices) == 2
