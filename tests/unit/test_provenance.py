"""What a .frq says of its making, user metadata, and attached files."""

import hashlib
import json
import os

import pytest

import frconvert
from frconvert.attach import is_safe, read_files, restore_files
from frconvert.container.reader import open_reader
from frconvert.encode import Options
from frconvert.errors import UnreadableError, UnsupportedError, UsageError
from frconvert.provenance import option_words
from frconvert.target import Target


def metadata_of(path):
    return open_reader(path).head.metadata


def test_a_file_says_what_it_was_made_of_and_how(npz, tmp_path):
    frconvert.convert(npz, tmp_path / "m.frq", snr=30, exclude=["b*"])
    assert metadata_of(tmp_path / "m.frq") == {
        "frconvert.options": "--snr 30 --exclude 'b*'",
        "frconvert.sha256": hashlib.sha256(npz.read_bytes()).hexdigest(),
        "frconvert.size": str(npz.stat().st_size),
        "frconvert.source": "source.npz",
        "frconvert.version": frconvert.__version__,
    }


def test_neither_folder_nor_time_nor_jobs_go_into_a_file(npz, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / npz.name).write_bytes(npz.read_bytes())
    os.utime(other / npz.name, (0, 0))
    frconvert.convert(npz, tmp_path / "a.frq", jobs=1)
    frconvert.convert(other / npz.name, tmp_path / "b.frq", jobs=2)
    assert (tmp_path / "a.frq").read_bytes() == (tmp_path / "b.frq").read_bytes()


def test_provenance_can_be_left_out_and_takes_less_than_120_bytes(npz, tmp_path, run):
    run("convert", npz, tmp_path / "with.frq", "--lossless")
    run("convert", npz, tmp_path / "without.frq", "--lossless", "--no-provenance")
    assert metadata_of(tmp_path / "without.frq") == {}
    sizes = [(tmp_path / f"{name}.frq").stat().st_size for name in ("with", "without")]
    assert 0 < sizes[0] - sizes[1] < 120


def test_a_copy_keeps_the_provenance_and_another_compression_names_its_own_source(npz, tmp_path):
    frconvert.convert(npz, tmp_path / "a.frq")
    frconvert.convert(tmp_path / "a.frq", tmp_path / "b.frq")
    assert (tmp_path / "a.frq").read_bytes() == (tmp_path / "b.frq").read_bytes()
    frconvert.convert(tmp_path / "a.frq", tmp_path / "c.frq", snr=10)
    assert metadata_of(tmp_path / "c.frq")["frconvert.source"] == "a.frq"


def test_provenance_does_not_leak_into_other_formats(npz, tmp_path):
    frconvert.convert(npz, tmp_path / "a.frq")
    assert frconvert.load(tmp_path / "a.frq").metadata == {}
    assert frconvert.convert(tmp_path / "a.frq", tmp_path / "b.npz").notices == ()


def test_a_checkpoint_made_in_memory_has_no_source(tmp_path, checkpoint_of, model):
    frconvert.save(checkpoint_of(model), tmp_path / "m.frq", bits=4)
    keys = set(metadata_of(tmp_path / "m.frq"))
    assert keys == {"frconvert.version", "frconvert.options"}


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_source_whose_name_is_no_unicode_is_converted(npz, tmp_path):
    odd = tmp_path / os.fsdecode(b"m\xff.npz")
    odd.write_bytes(npz.read_bytes())
    frconvert.convert(odd, tmp_path / "m.frq")
    assert metadata_of(tmp_path / "m.frq")["frconvert.source"] == "m\N{REPLACEMENT CHARACTER}.npz"


def test_options_are_written_as_on_the_command_line():
    assert option_words(Target(), Options()) == []
    assert option_words(Target("lossless"), Options(jobs=9)) == ["--lossless"]
    assert option_words(Target("size", 12_345_678), Options("mse", ("a", "b"))) == [
        "--size", "12345678", "--importance", "mse", "--include", "a", "--include", "b",
    ]  # fmt: skip
    assert option_words(Target("max_error", 1e-3), Options()) == ["--max-error", "0.001"]


def test_metadata_and_files_of_the_user_are_stored_and_shown(npz, tmp_path, run):
    (tmp_path / "config.json").write_bytes(b'{"a": 1}')
    path = tmp_path / "m.frq"
    extras = ("--meta", "licence=Apache-2.0", "--meta", "note=a=b", "--attach", tmp_path / "config.json")
    assert run("convert", npz, path, *extras)[0] == 0
    _, out, _ = run("inspect", path)
    assert "licence: Apache-2.0\n" in out
    assert "note: a=b\n" in out
    assert "attachment config.json: 8 bytes" in out
    facts = json.loads(run("inspect", path, "--json")[1])
    assert facts["metadata"]["licence"] == "Apache-2.0"
    assert frconvert.load(path).metadata == {"licence": "Apache-2.0", "note": "a=b"}
    assert frconvert.load(path).attachments == {"config.json": b'{"a": 1}'}
    frconvert.convert(path, tmp_path / "n.frq", metadata={"note": "c"}, attachments={"x": b"y"})
    again = frconvert.load(tmp_path / "n.frq")
    assert again.metadata == {"licence": "Apache-2.0", "note": "c"}
    assert set(again.attachments) == {"config.json", "x"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--meta", "novalue"], "write it as KEY=VALUE"),
        (["--meta", "=x"], "not empty"),
        (["--meta", "frconvert.source=x"], "do not begin with 'frconvert.'"),
        (["--meta", "a=1", "--meta", "a=2"], "occurs twice"),
        (["--attach", "a/x.json", "--attach", "b/x.json"], "same name"),
    ],
)
def test_metadata_and_files_that_make_no_sense_are_refused(
    npz, tmp_path, fails, monkeypatch, arguments, message
):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.json").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert message in fails(2, "convert", npz, "m.frq", *arguments)
    assert not (tmp_path / "m.frq").exists()


def test_files_that_cannot_be_attached_are_refused(npz, tmp_path, fails):
    assert "missing.json" in fails(
        3, "convert", npz, tmp_path / "m.frq", "--attach", tmp_path / "missing.json"
    )
    (tmp_path / "x.json").write_bytes(b"1")
    assert "need a .frq" in fails(2, "convert", npz, tmp_path / "m.npz", "--attach", tmp_path / "x.json")
    frconvert.convert(npz, tmp_path / "m.frq", attachments={"x.json": b"0"})
    arguments = (tmp_path / "m.frq", tmp_path / "n.frq", "--attach", tmp_path / "x.json")
    assert "already has an attachment 'x.json'" in fails(2, "convert", *arguments)
    with pytest.raises(UnreadableError):
        read_files([tmp_path])


HOSTILE = [
    "../x", "/x", "a/../../x", "..", ".", "", "a//b", "a/", "C:\\x", "a\\..\\x", "C:x", "x\0", "x\n", "nul",
    "COM1.txt", "a/aux", "x.", "x ", "x" * 300, "\u202ex", "a/./b", "x:stream", "~/../x", "a*b",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_an_attachment_never_leaves_its_folder(tmp_path, checkpoint_of, name, fails):
    path = tmp_path / "m.frq"
    frconvert.save(checkpoint_of({}, None, {"good": b"1", name: b"evil"}), path)
    inside = tmp_path / "in" / "side"
    assert "not a name to restore a file by" in fails(3, "extract", path, "--attachments", inside)
    assert not (tmp_path / "in").exists()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["m.frq"]


@pytest.mark.parametrize(
    "name", ["a", "a/b/c.json", ".hidden", "é/空.txt", "config (1).json", "console", "a..b"]
)
def test_usual_names_are_restored(tmp_path, name):
    assert is_safe(name)
    (path,) = restore_files({name: b"x"}, tmp_path / "f", overwrite=False)
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize("names", [("a", "A"), ("a", "a/b"), ("A/b", "a")])
def test_names_that_get_in_each_others_way_are_refused(tmp_path, names):
    with pytest.raises(UnsupportedError, match="side by side"):
        restore_files(dict.fromkeys(names, b""), tmp_path / "f", overwrite=False)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_do_not_lead_an_attachment_out_of_its_folder(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    (outside / "file").write_bytes(b"old")
    (inside / "file").symlink_to(outside / "file")
    with pytest.raises(UsageError, match="a link leads out"):
        restore_files({"link/x": b"evil"}, inside, overwrite=True)
    restore_files({"file": b"new"}, inside, overwrite=True)
    assert (outside / "file").read_bytes() == b"old"
    assert (inside / "file").read_bytes() == b"new"
    assert [item.name for item in outside.iterdir()] == ["file"]
