"""Keras archives in and out: weights and other members, compressed or not, and what is hostile."""

import gc
import io
import json
import time
import zipfile
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest

from frconvert.checkpoint import HDF5_SKELETON, KERAS_FILES, Checkpoint
from frconvert.errors import DamagedError, UnreadableError, UnsupportedError, UsageError
from frconvert.exporters import save as save_as
from frconvert.importers import load as load_any
from frconvert.importers.keras import load

FILES = {
    "metadata.json": b'{"keras_version": "3.15.1", "date_saved": "2026-01-01@00:00:00"}',
    "config.json": json.dumps({"class_name": "Sequential"}).encode(),
    "assets/layers/text_vectorization/vocabulary.txt": b"a\nb\n" * 5,
}


def save(checkpoint, path, notices=None):
    save_as(checkpoint, Path(path), "keras", [].append if notices is None else notices.append)
    return path


def weights():
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        group = file.create_group("layers/dense/vars")
        group.attrs["name"] = "dense"
        group["0"] = np.random.default_rng(0).normal(size=(64, 32)).astype("f4")
        group.create_dataset("1", data=np.arange(32).astype(ml_dtypes.bfloat16)).attrs["dtype"] = "bfloat16"
        file["optimizer/vars/0"] = np.int64(1)
    return buffer.getvalue()


def archive(path, files, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as target:
        for name, data in files.items():
            target.writestr(name, data)
    return path


@pytest.fixture(params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def keras(request, tmp_path):
    return archive(tmp_path / "m.keras", {**FILES, "model.weights.h5": weights()}, request.param)


def test_an_archive_has_the_weights_and_all_other_members(keras):
    checkpoint = load_any(keras)
    assert checkpoint.format == "keras"
    assert [(entry.name, entry.shape, entry.dtype) for entry in checkpoint] == [
        ("layers/dense/vars/0", (64, 32), "float32"),
        ("layers/dense/vars/1", (32,), "bfloat16"),
    ]
    attachments = dict(checkpoint.attachments)
    assert attachments.pop(HDF5_SKELETON)
    assert attachments == {KERAS_FILES + name: data for name, data in FILES.items()}
    assert checkpoint.notices == ("optimizer tensors left out: 1 (first 'optimizer/vars/0')",)
    with h5py.File(io.BytesIO(weights()), "r") as file:
        np.testing.assert_array_equal(
            checkpoint["layers/dense/vars/0"].read(), file["layers/dense/vars/0"][()]
        )
    assert checkpoint["layers/dense/vars/1"].read().astype(int).tolist() == list(range(32))


def test_an_archive_comes_back_with_the_same_members_in_the_same_bytes_at_any_time(keras, tmp_path):
    notices = []
    first = save(load(keras), tmp_path / "a.keras", notices)
    assert notices == []
    with zipfile.ZipFile(first) as back:
        assert back.testzip() is None
        assert sorted(back.namelist()) == sorted([*FILES, "model.weights.h5"])
        assert {name: back.read(name) for name in FILES} == FILES
        inner = h5py.File(io.BytesIO(back.read("model.weights.h5")), "r")
    with inner, h5py.File(io.BytesIO(weights()), "r") as source:
        assert inner["layers/dense/vars"].attrs["name"] == "dense"
        for name in ("layers/dense/vars/0", "layers/dense/vars/1"):
            assert inner[name].dtype == source[name].dtype
            assert inner[name][()].tobytes() == source[name][()].tobytes()
        assert dict(inner["layers/dense/vars/1"].attrs) == {"dtype": "bfloat16"}
        assert "optimizer" not in inner
    time.sleep(2.1)  # zip archives count in steps of two seconds
    again = save(load(first), tmp_path / "b.keras")
    assert again.read_bytes() == first.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_order_of_attachments_does_not_matter(keras, tmp_path):
    checkpoint = load(keras)
    turned = dict(reversed(checkpoint.attachments.items()))
    other = Checkpoint(checkpoint.entries, "frq", turned)
    first, second = save(checkpoint, tmp_path / "a.keras"), save(other, tmp_path / "b.keras")
    assert first.read_bytes() == second.read_bytes()


def test_tensors_outlive_the_checkpoint_and_leave_nothing_open(keras):
    entry = load(keras).entries[0]
    gc.collect()
    assert entry.read().shape == (64, 32)
    assert entry.read().shape == (64, 32)
    del entry
    gc.collect()  # a file left to the collector would warn, and a warning fails the test


def test_the_weights_alone_can_go_to_hdf5_with_a_notice(keras, tmp_path):
    notices = []
    save_as(load(keras), tmp_path / "a.h5", "hdf5", notices.append)
    assert len(notices) == 1
    assert notices[0] == "left out, as an HDF5 file has no place for it: the Keras configuration"
    assert load_any(tmp_path / "a.h5").entries[0].name == "layers/dense/vars/0"


def test_a_source_without_a_configuration_cannot_become_an_archive(tmp_path):
    with pytest.raises(UsageError, match=r"needs the model's config\.json"):
        save(Checkpoint((), "npz"), tmp_path / "a.keras")
    assert list(tmp_path.iterdir()) == []


def test_what_an_archive_cannot_keep_is_said(keras, tmp_path):
    checkpoint = load(keras)
    attachments = {**checkpoint.attachments, "note.txt": b""}
    notices = []
    save(Checkpoint(checkpoint.entries, "frq", attachments, {"author": "x"}), tmp_path / "a.keras", notices)
    assert notices == ["left out, as a Keras archive has no place for it: metadata 'author', 'note.txt'"]


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "a//b", "a\\b", "C:x", "", "model.weights.h5", "\ud800"]
)
def test_an_attachment_with_an_unsafe_name_is_never_written(name, tmp_path):
    attachments = {KERAS_FILES + "config.json": b"{}", KERAS_FILES + name: b""}
    with pytest.raises(DamagedError, match="has a name that no Keras archive can have"):
        save(Checkpoint((), "frq", attachments), tmp_path / "a.keras")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a\\b"])
def test_an_archive_with_an_unsafe_member_is_refused(name, tmp_path):
    path = archive(tmp_path / "m.keras", {name: b"", "model.weights.h5": weights()})
    with pytest.raises(DamagedError, match="unsafe name"):
        load(path)


def test_missing_and_foreign_archives_are_unreadable(tmp_path):
    with pytest.raises(UnreadableError, match="No such file"):
        load(tmp_path / "none.keras")
    with pytest.raises(UnreadableError, match=r"it has no model\.weights\.h5"):
        load(archive(tmp_path / "m.keras", FILES))
    with pytest.raises(UnreadableError, match=r"model\.weights\.h5: not an HDF5 file"):
        load(archive(tmp_path / "m.keras", {"model.weights.h5": b"junk" * 9}))


def test_a_truncated_archive_is_damaged(keras):
    data = keras.read_bytes()
    for length in (0, 10, len(data) // 2, len(data) - 1):
        keras.write_bytes(data[:length])
        with pytest.raises(DamagedError, match="broken zip archive"):
            load(keras)


def test_a_flipped_bit_in_the_weights_is_found_on_opening(keras):
    data = bytearray(keras.read_bytes())
    with zipfile.ZipFile(keras) as source:
        member = source.getinfo("model.weights.h5")
    data[member.header_offset + member.compress_size // 2] ^= 1
    keras.write_bytes(data)
    with pytest.raises(DamagedError, match="broken zip archive"):
        load(keras)


def test_truncated_weights_within_a_sound_archive_are_damaged(tmp_path):
    path = archive(tmp_path / "m.keras", {"model.weights.h5": weights()[:-900]})
    with pytest.raises(DamagedError, match=r"model\.weights\.h5: broken HDF5 file: .*truncated"):
        load(path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("config.json", b"{}")
        with target.open("model.weights.h5", "w") as file:
            for _ in range(300):
                file.write(bytes(1 << 20))
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    with pytest.raises(DamagedError, match="refused as a bomb"):
        load(path)


def test_two_members_of_one_name_are_refused(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("config.json", b"{}")
        with pytest.warns(UserWarning, match="Duplicate name"):
            target.writestr("config.json", b"{}")
    with pytest.raises(DamagedError, match=r"two members 'config\.json'"):
        load(path)


@pytest.mark.parametrize(
    ("offset", "value", "message"), [(8, 1, "encrypted"), (10, 99, "compression method")]
)
def test_encrypted_and_unknown_members_are_unsupported(offset, value, message, tmp_path):
    path = archive(tmp_path / "m.keras", {"model.weights.h5": weights()})
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\1\2") + offset] = value  # in the central directory,
    data[offset - 2] = value  # and in the member's own header
    path.write_bytes(data)
    with pytest.raises(UnsupportedError, match=message):
        load(path)
