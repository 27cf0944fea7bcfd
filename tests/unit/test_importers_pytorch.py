"""PyTorch checkpoints in, PyTorch checkpoints out."""

import argparse
import io
import pickle
import re
import subprocess
import sys
import tarfile
import warnings
import weakref
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frconvert import exporters, importers
from frconvert.checkpoint import PYTORCH_LAYOUT, Checkpoint, TensorEntry
from frconvert.dtypes import DTYPE_NAMES, numpy_dtype
from frconvert.errors import DamagedError, FrqError, UnsupportedError, UsageError

torch = pytest.importorskip("torch")

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
RESNET = SHARED / "data" / "resnet20-12fca82f.th"
UNET = SHARED / "paper" / "unet_fr.tar.xz"


def saved(tmp_path, obj, name="model.pt", **options):
    path = tmp_path / name
    torch.save(obj, path, **options)
    return path


def exported(checkpoint, path):
    notices = []
    exporters.save(checkpoint, path, "pytorch", notices.append)
    return notices


def round_trip(tmp_path, obj):
    """What torch.load gives for `obj` after an import and an export."""
    checkpoint = importers.load(saved(tmp_path, obj))
    path = tmp_path / "again.pt"
    exported(checkpoint, path)
    again = torch.load(path, weights_only=True)
    torch.load(path, weights_only=True, mmap=True)
    return again


def same(one, other):
    """Equality of nested plain containers of tensors, dtypes and bits included."""
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and (one.dtype, one.shape) == (other.dtype, other.shape)
            and one.contiguous().reshape(-1).view(torch.uint8).equal(other.reshape(-1).view(torch.uint8))
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return one == other


def state_dict():
    return OrderedDict([("conv.weight", torch.randn(4, 3, 2, 2)), ("conv.bias", torch.arange(4.0))])


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


@pytest.mark.parametrize("zipped", [True, False])
def test_a_bare_state_dict_keeps_names_order_and_bits(tmp_path, zipped):
    tensors = state_dict()
    checkpoint = importers.load(saved(tmp_path, tensors, _use_new_zipfile_serialization=zipped))
    assert checkpoint.format == "pytorch"
    assert [entry.name for entry in checkpoint] == ["conv.weight", "conv.bias"]
    for name, tensor in tensors.items():
        assert checkpoint[name].read().tobytes() == tensor.numpy().tobytes()
    assert not checkpoint.attachments
    assert not checkpoint.notices


def test_every_torch_element_type_comes_and_goes_bit_by_bit(tmp_path):
    tensors = {}
    for name in DTYPE_NAMES:
        dtype = getattr(torch, name)
        bits = torch.arange(48, dtype=torch.uint8) % (2 if name == "bool" else 251)
        tensors[name] = bits.view(dtype)
        tensors[name + ".empty"] = torch.empty((0, 3), dtype=dtype)
        tensors[name + ".scalar"] = bits[: dtype.itemsize].view(dtype)[0]
    checkpoint = importers.load(saved(tmp_path, tensors))
    for name in DTYPE_NAMES:
        entry = checkpoint[name]
        assert entry.dtype == name
        assert entry.read().dtype == numpy_dtype(name)
        assert entry.read().tobytes() == tensors[name].view(torch.uint8).numpy().tobytes()
        assert checkpoint[name + ".scalar"].read().shape == ()
        assert checkpoint[name + ".empty"].read().shape == (0, 3)
    assert same(round_trip(tmp_path, tensors), tensors)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.text(max_size=8), max_size=4, unique=True),
    shape=st.lists(st.integers(0, 3), max_size=6),
    dtype=st.sampled_from(DTYPE_NAMES),
    seed=st.binary(min_size=1, max_size=9),
)
def test_any_shape_type_and_name_survives_export_and_import(tmp_path, names, shape, dtype, seed):
    def filled():
        array = np.zeros(shape, numpy_dtype(dtype))
        content = np.resize(np.frombuffer(seed, np.uint8), array.nbytes)
        return (content & 1 if dtype == "bool" else content).view(array.dtype).reshape(shape)

    entries = tuple(TensorEntry(name, tuple(shape), dtype, filled) for name in names)
    path = tmp_path / "model.pt"
    exported(Checkpoint(entries, "test"), path)
    again = importers.load(path)
    assert again.entries == entries
    assert all(entry.read().tobytes() == filled().tobytes() for entry in again)


def test_parameters_views_and_conjugates_are_read_as_plain_values(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "parameter": torch.nn.Parameter(base.clone()),
        "transposed": base.t(),
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
        "slice": base[1:, ::2],
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "negative": torch.tensor([1 + 2j]).conj().imag,
    }
    checkpoint = importers.load(saved(tmp_path, tensors))
    for name, tensor in tensors.items():
        array = checkpoint[name].read()
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, tensor.detach().resolve_conj().resolve_neg().numpy())


def test_a_read_array_is_fresh_each_time(tmp_path):
    entry = importers.load(saved(tmp_path, {"w": torch.ones(3)}))["w"]
    entry.read()[:] = 7
    assert entry.read().tolist() == [1, 1, 1]


@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "bsr", "bsc"])
def test_sparse_tensors_are_read_dense_and_said(tmp_path, layout):
    dense = torch.zeros(4, 6)
    dense[1, 2], dense[3, 5] = 3.0, -1.0
    block = (2, 3) if layout in ("bsr", "bsc") else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        convert = {"coo": dense.to_sparse}.get(layout, getattr(dense, f"to_sparse_{layout}", None))
        sparse = convert(block) if block else convert()
    checkpoint = importers.load(saved(tmp_path, {"w": sparse}))
    np.testing.assert_array_equal(checkpoint["w"].read(), dense.numpy())
    assert checkpoint.notices == ("1 sparse tensors are read as dense ones: w",)


def test_quantised_tensors_are_read_as_what_they_stand_for_and_said(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(torch.tensor([0.5, -1.0]), 0.5, 0, torch.qint8)
        path = saved(tmp_path, {"w": quantised})
    checkpoint = importers.load(path)
    assert checkpoint["w"].dtype == "float32"
    assert checkpoint["w"].read().tolist() == [0.5, -1.0]
    assert "1 quantised tensors are read as the float32 values" in checkpoint.notices[0]


@pytest.mark.parametrize(
    "nest",
    [
        lambda d: {"state_dict": d},
        lambda d: {"model": {"ema": d}},
        lambda d: [d],
        lambda d: (None, {"x": [None, d]}),
        lambda d: {7: d},
        lambda d: {"généré": d},
    ],
)
def test_a_nested_state_dict_keeps_its_names_and_comes_back_nested(tmp_path, nest):
    tensors = dict(state_dict())
    checkpoint = importers.load(saved(tmp_path, nest(tensors)))
    assert [entry.name for entry in checkpoint] == list(tensors)
    assert same(round_trip(tmp_path, nest(tensors)), nest(tensors))


@pytest.mark.parametrize(
    ("obj", "names"),
    [
        ({"gen": {"w": 1}, "disc": {"w": 2, "b": 3}}, ["gen.w", "disc.w", "disc.b"]),
        ({"nets": {"g": {"w": 1}, "d": [2, 3]}}, ["g.w", "d.0", "d.1"]),
        ({"enc": {"l0": {"w": 1}, "l1": {"w": 2}}, "scale": 3}, ["enc.l0.w", "enc.l1.w", "scale"]),
        ({"a": {"b.c": 1, "b": {"c": 2}}}, ["0/b.c", "1/c"]),
        ({"a": {"1": 1, 1: 2}}, ["0/1", "1/1"]),
        ([1, 2], ["0", "1"]),
        ((1, (2, 3)), ["0", "1.0", "1.1"]),
        ({0: 1, 1: 2}, ["0", "1"]),
        ({"": 1}, [""]),
        (1, ["model"]),
        ({}, []),
    ],
)
def test_groups_of_tensors_get_prefixes_and_are_put_back(tmp_path, obj, names):
    def with_tensors(node):
        if isinstance(node, dict):
            return {key: with_tensors(child) for key, child in node.items()}
        if isinstance(node, list | tuple):
            return type(node)(map(with_tensors, node))
        return torch.full((2,), float(node))

    obj = with_tensors(obj)
    checkpoint = importers.load(saved(tmp_path, obj))
    assert [entry.name for entry in checkpoint] == names
    assert same(round_trip(tmp_path, obj), obj)


def test_training_state_and_plain_values_are_left_out_and_said(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    obj = {
        "epoch": 3,
        "arch": "linear",
        "state_dict": model.state_dict(),
        "best_acc1": torch.tensor(76.0),
        "optimizer": optimizer.state_dict(),
        "sgd": torch.optim.SGD(model.parameters()).state_dict(),
        "lr_scheduler": {"last_epoch": 3},
        "rng_state": torch.get_rng_state(),
        "args": {"lr": 0.1},
    }
    checkpoint = importers.load(saved(tmp_path, obj))
    assert [entry.name for entry in checkpoint] == ["weight", "bias"]
    assert checkpoint.notices == (
        "left out 'optimizer': training state, 6 tensors",
        "left out 'sgd': training state, 0 tensors",
        "left out 'lr_scheduler': training state, 0 tensors",
        "left out 'rng_state': training state, 1 tensors",
        "left out 4 values that are no tensors: epoch, arch, best_acc1, args.lr",
    )
    assert list(round_trip(tmp_path, obj)) == ["state_dict"]


def test_scalar_parameters_beside_groups_are_kept(tmp_path):
    obj = {"encoder": {"w": torch.ones(2)}, "logit_scale": torch.tensor(2.0)}
    names = [entry.name for entry in importers.load(saved(tmp_path, obj))]
    assert names == ["encoder.w", "logit_scale"]


def test_a_file_without_weights_is_refused_and_says_what_it_holds(tmp_path):
    for obj in ({"epoch": 1}, 5, {"optimizer": {"state": {0: torch.ones(2)}, "param_groups": []}}):
        with pytest.raises(UnsupportedError, match=r"holds no weights; left out"):
            importers.load(saved(tmp_path, obj))


def test_tied_tensors_stay_tied_through_export(tmp_path):
    weight = torch.randn(5, 4)
    sparse = torch.eye(3).to_sparse()
    tensors = {"in": weight, "half": weight[:2], "out": weight, "s": sparse, "t": sparse}
    path = saved(tmp_path, tensors)
    for mode in ("zip", "legacy"):
        torch.save(tensors, path, _use_new_zipfile_serialization=mode == "zip")
        checkpoint = importers.load(path)
        ties = {entry.name: entry.tied_to for entry in checkpoint}
        assert ties == {"in": None, "half": None, "out": "in", "s": None, "t": "s"}
    again = round_trip(tmp_path, tensors)
    assert again["in"].data_ptr() == again["out"].data_ptr()
    assert again["s"].data_ptr() == again["t"].data_ptr()
    assert again["in"].data_ptr() != again["half"].data_ptr()


def test_export_is_deterministic_aligned_and_reads_one_tensor_at_a_time(tmp_path):
    live = []

    def read():
        assert all(earlier() is None for earlier in live)
        array = np.ones((3, 5), np.float32)
        live.append(weakref.ref(array))
        return array

    tensors = tuple(TensorEntry(name, (3, 5), "float32", read) for name in ("a", "b", "c"))
    exported(Checkpoint(tensors, "test"), tmp_path / "one.pt")
    exported(Checkpoint(tensors, "test"), tmp_path / "two.pt")
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "two.pt").read_bytes()
    mapped = torch.load(tmp_path / "one.pt", weights_only=True, mmap=True)
    first = mapped["a"].untyped_storage().data_ptr()
    assert all((tensor.untyped_storage().data_ptr() - first) % 64 == 0 for tensor in mapped.values())
    with zipfile.ZipFile(tmp_path / "one.pt") as archive:
        assert archive.testzip() is None


def test_export_says_what_a_pytorch_file_cannot_hold(tmp_path):
    checkpoint = Checkpoint((), "onnx", attachments={"onnx/skeleton.onnx": b""}, metadata={"author": "x"})
    assert exported(checkpoint, tmp_path / "x.pt") == [
        "left out, as a PyTorch file has no place for it: metadata 'author', the ONNX graph"
    ]


def test_a_filtered_list_keeps_its_positions(tmp_path):
    checkpoint = importers.load(saved(tmp_path, [torch.zeros(1), torch.ones(1)]))
    kept = Checkpoint(checkpoint.entries[1:], "pytorch", attachments=checkpoint.attachments)
    exported(kept, tmp_path / "kept.pt")
    assert same(torch.load(tmp_path / "kept.pt", weights_only=True), [None, torch.ones(1)])


@pytest.mark.parametrize(
    "layout",
    [
        b"",
        b"nonsense",
        b"[1]",
        b"{}",
        b"[]",
        b"[[5,[]]]",
        b'[["",[],"set"]]',
        b'[["",[1.5]]]',
        b'[["",[["list",-1]]]]',
        b'[["",[["list",1000000000000]]]]',
        b'[["",[],"ints"]]',
        b'[["",[],"list"]]',
        b'[["a",["x"]],["b",[["list",0]]]]',
        b'[["",[],"tensor"]]',
        b'[["other.",[]]]',
        b'[["a",["x"]],["b",["x",""]]]',
        b'[["",' + b"[" * 100_000,
        b'[["",[' + b'"x",' * 5000 + b'"x"]]]',
    ],
)
def test_a_hostile_layout_is_named_as_damage(tmp_path, layout):
    entries = tuple(TensorEntry(name, (), "float32", lambda: np.zeros((), np.float32)) for name in ("a", "b"))
    checkpoint = Checkpoint(entries, "frq", attachments={PYTORCH_LAYOUT: layout})
    with pytest.raises(DamagedError, match=PYTORCH_LAYOUT) as error:
        exported(checkpoint, tmp_path / "x.pt")
    one_line(error)


def test_what_only_code_can_load_is_refused_by_name(tmp_path):
    path = saved(tmp_path, {"args": argparse.Namespace(lr=1), "state_dict": state_dict()})
    with pytest.raises(UnsupportedError, match=r"argparse\.Namespace.*torch\.save") as error:
        importers.load(path)
    one_line(error)
    with pytest.raises(UnsupportedError, match=r"torch\.nn\.modules\.linear\.Linear"):
        importers.load(saved(tmp_path, torch.nn.Linear(2, 2)))


def test_code_in_a_pickle_is_not_run(tmp_path):
    victim = tmp_path / "victim"

    class Attack:
        def __reduce__(self):
            return Path.touch, (victim,)

    for zipped in (True, False):
        path = saved(tmp_path, {"w": Attack()}, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UnsupportedError):
            importers.load(path)
    (tmp_path / "plain.pt").write_bytes(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00trueR.")
    with pytest.raises(UnsupportedError, match=r"posix\.system"):
        importers.load(tmp_path / "plain.pt")
    assert not victim.exists()


def test_torchscript_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"script/{name}", b"")
    with pytest.raises(UnsupportedError, match=r"TorchScript.*state_dict\(\)"):
        importers.load(path)


def test_tar_files_are_refused(tmp_path):
    path = tmp_path / "model.pth.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(UnsupportedError, match="tar archive"):
        importers.load(path)


def test_plain_pickles_of_newer_protocols_are_refused(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps({"w": [1.0]}, protocol=4))
    with pytest.raises(UnsupportedError, match="pickle of protocol 4"):
        importers.load(path)


def test_a_pytorch_file_named_safetensors_is_still_read(tmp_path):
    path = saved(tmp_path, {"w": torch.ones(2)}, name="model.safetensors")
    assert importers.load(path)["w"].read().tolist() == [1, 1]


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_or_altered_files_give_one_line_and_never_a_traceback(tmp_path, zipped):
    obj = {"a": torch.arange(40.0), "s": torch.eye(4).to_sparse(), "n": {"b": torch.ones(3, 3)}}
    path = saved(tmp_path, obj, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    messages = []
    for trial in range(150):
        content = bytearray(whole)
        if trial % 3 == 0:
            content = content[: rng.integers(1, len(whole))]
        else:
            for position in rng.integers(0, min(len(whole), 900), size=1 + trial % 4):
                content[position] = rng.integers(256)
        path.write_bytes(content)
        try:
            importers.load(path, "pytorch").numpy()
        except FrqError as error:
            messages.append(str(error))
    assert len(messages) > 40
    assert not [text for text in messages if "\n" in text or len(text) > 1000]


@pytest.mark.parametrize(
    "forged",
    [
        lambda: torch.tensor([1.0]).expand(1 << 40),
        lambda: torch.sparse_coo_tensor(
            torch.tensor([[0], [0]]), torch.ones(1), (1 << 20, 1 << 20), check_invariants=True
        ),
        lambda: [torch.ones(1).expand(1 << 26, length) for length in (1, 2, 3)],
        lambda: torch.sparse_coo_tensor(
            torch.tensor([[0]]).expand(1, 1 << 40),
            torch.ones(1).expand(1 << 40),
            (4,),
            check_invariants=False,
        ),
    ],
)
def test_tensors_that_claim_absurd_sizes_are_refused_before_memory_is_used(tmp_path, forged):
    with pytest.raises(DamagedError, match=r"claim [\d,]+ bytes in a file of"):
        importers.load(saved(tmp_path, {"w": forged()}))


def test_sparse_indices_out_of_range_are_refused_when_read(tmp_path):
    bad = torch.sparse_coo_tensor(
        torch.tensor([[10**6], [0]]), torch.ones(1), (4, 4), check_invariants=False, is_coalesced=True
    )
    checkpoint = importers.load(saved(tmp_path, {"w": bad}))
    with pytest.raises(DamagedError, match="'w' cannot be read"):
        checkpoint["w"].read()


def test_containers_without_end_are_refused(tmp_path):
    loop = {}
    loop["self"] = loop
    with pytest.raises(DamagedError, match="nested more than"):
        importers.load(saved(tmp_path, loop))
    laughs = [torch.ones(1)]
    for _ in range(25):
        laughs = [laughs] * 10
    with pytest.raises(DamagedError, match="unfolds"):
        importers.load(saved(tmp_path, laughs))


def test_compressed_members_are_refused_instead_of_misread(tmp_path):
    path = saved(tmp_path, state_dict())
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(UnsupportedError, match="is compressed"):
        importers.load(packed)


def test_tensors_without_data_are_refused_by_name(tmp_path):
    with pytest.raises(UnsupportedError, match="'w' has no plain data"):
        importers.load(saved(tmp_path, {"w": torch.empty(2, device="meta")}))


def test_a_key_that_is_no_string_or_integer_is_refused_by_name(tmp_path):
    with pytest.raises(UnsupportedError, match=r"1\.5"):
        importers.load(saved(tmp_path, {1.5: torch.ones(1)}))


def test_cuda_storages_are_read_on_the_cpu(tmp_path):
    path = saved(tmp_path, {"w": torch.ones(2)}, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"X\x03\x00\x00\x00cpu" in content
    path.write_bytes(content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
    assert importers.load(path)["w"].read().tolist() == [1, 1]


def test_without_torch_the_message_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from frconvert import errors, exporters, importers\n"
        "from frconvert.checkpoint import Checkpoint\n"
        "for act in (lambda: importers.load('x.pt', 'pytorch'),\n"
        "            lambda: exporters.save(Checkpoint((), ''), 'x.pt', 'pytorch', print)):\n"
        "    try:\n"
        "        act()\n"
        "    except errors.UsageError as error:\n"
        "        print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [
        "reading PyTorch files needs torch: pip install 'frconvert[torch]'",
        "writing PyTorch files needs torch: pip install 'frconvert[torch]'",
    ]


@pytest.mark.skipif(not RESNET.exists(), reason="the shared ResNet-20 checkpoint is not there")
def test_the_resnet_checkpoint_keeps_its_nesting_and_prefix(tmp_path):
    original = torch.load(RESNET, weights_only=True, map_location="cpu")["state_dict"]
    checkpoint = importers.load(RESNET)
    assert [entry.name for entry in checkpoint] == list(original)
    assert checkpoint.notices == ("left out 1 values that are no tensors: best_prec1",)
    assert checkpoint.attachments == {PYTORCH_LAYOUT: b'[["",["state_dict"]]]'}
    exported(checkpoint, tmp_path / "again.th")
    again = torch.load(tmp_path / "again.th", weights_only=True)
    assert same(again["state_dict"], dict(original))


@pytest.mark.skipif(not UNET.exists(), reason="the shared sparse UNet is not there")
def test_the_published_sparse_unet_is_read_dense(tmp_path):
    with tarfile.open(UNET) as archive:
        (tmp_path / "unet_fr.pt").write_bytes(archive.extractfile("unet_fr.pt").read())
    checkpoint = importers.load(tmp_path / "unet_fr.pt")
    assert len(checkpoint) == 23
    assert checkpoint.tensor_bytes > 100e6
    assert checkpoint.notices[0].startswith("23 sparse tensors are read as dense ones")
    assert not checkpoint.attachments
    assert np.count_nonzero(checkpoint["inc.double_conv.0.weight"].read()) <= 33


@pytest.mark.parametrize(
    "version", ["2.9.1", "2.3.0+cu118", "1.13", "2.10.0a0+gitabc", "2.10.0.dev2025", "local"]
)
def test_a_torch_that_hostile_files_can_exploit_is_refused(tmp_path, monkeypatch, version):
    torch.save({"w": torch.zeros(2)}, tmp_path / "m.pt")
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(UsageError, match=rf"torch {re.escape(version)} is installed.* 2\.10 or later"):
        importers.load(tmp_path / "m.pt")


@pytest.mark.parametrize("version", ["2.10.0", "2.10.1+cpu", "2.11.0a0", "2.13.0+cpu", "3.0"])
def test_a_torch_that_keeps_its_promise_is_used(tmp_path, monkeypatch, version):
    torch.save({"w": torch.zeros(2)}, tmp_path / "m.pt")
    monkeypatch.setattr(torch, "__version__", version)
    assert len(importers.load(tmp_path / "m.pt")) == 1
