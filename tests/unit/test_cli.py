"""The command line contract: statuses, one line of error, JSON, nothing left behind."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import frconvert
from frconvert import __version__, cli

MAIN = "from frconvert.cli import main; main()"
FIELDS = {
    "source_bytes", "destination_bytes", "ratio", "parameters", "bits_per_weight", "sqnr_db", "seconds",
    "peak_rss_bytes", "tensors",
}  # fmt: skip
TENSOR_FIELDS = {
    "name", "shape", "dtype", "method", "axes", "keep", "step", "bytes", "bits_per_weight", "sqnr_db",
}  # fmt: skip


@pytest.fixture
def frq(npz):
    frconvert.convert(npz, npz.with_name("model.frq"))
    return npz.with_name("model.frq")


def process(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        stderr=subprocess.PIPE, text=True, check=False, timeout=60, **{"stdout": subprocess.PIPE} | options,
    )  # fmt: skip


def listing(folder):
    return sorted(item.name for item in folder.iterdir())


# convert


def test_converting_says_in_one_line_what_was_made(run, npz, tmp_path):
    status, out, err = run("convert", npz, tmp_path / "m.frq")
    size = (tmp_path / "m.frq").stat().st_size
    assert (status, err) == (0, "")
    assert out.count("\n") == 1
    assert f"{size:,} bytes" in out
    assert "dB" in out
    assert list(frconvert.load(tmp_path / "m.frq").numpy()) == ["weight", "bias", "steps"]


def test_json_is_one_object_with_the_fields_of_the_contract(run, npz, tmp_path):
    status, out, err = run("convert", npz, tmp_path / "m.frq", "--json", "--snr", "30")
    assert (status, err) == (0, "")
    facts = json.loads(out)
    assert set(facts) == FIELDS | {"notices"}
    assert [set(tensor) for tensor in facts["tensors"]] == [TENSOR_FIELDS] * 3
    assert facts["destination_bytes"] == (tmp_path / "m.frq").stat().st_size
    assert facts["source_bytes"] == 4 * (48 * 64 + 48) + 8
    assert facts["sqnr_db"] >= 30
    weight, bias, steps = facts["tensors"]
    assert (weight["method"], weight["shape"], weight["dtype"]) == ("trellis", [48, 64], "float32")
    assert weight["step"] > 0
    assert (bias["method"], bias["step"], bias["keep"], bias["axes"]) == ("rounded", None, None, [])
    assert (steps["method"], steps["shape"], steps["sqnr_db"]) == ("exact", [], None)


def test_json_of_something_exact_has_null_for_infinity(run, npz, tmp_path):
    _, out, _ = run("convert", npz, tmp_path / "m.frq", "--json", "--lossless")
    facts = json.loads(out)
    assert facts["sqnr_db"] is None
    assert all(tensor["sqnr_db"] is None for tensor in facts["tensors"])


@pytest.mark.parametrize("destination", ["m.frq", "m.npz", "m.pt"])
def test_a_dry_run_writes_nothing(run, npz, tmp_path, destination):
    status, out, _ = run("convert", npz, tmp_path / destination, "--dry-run", "--json")
    assert status == 0
    assert json.loads(out)["destination_bytes"] > 0
    assert listing(tmp_path) == ["source.npz"]
    _, out, _ = run("convert", npz, tmp_path / destination, "--dry-run")
    assert "would be" in out


def test_quiet_prints_nothing_but_errors(run, fails, npz, tmp_path):
    assert run("convert", npz, tmp_path / "m.frq", "--quiet", "--keep", "0.01") == (0, "", "")
    assert run("verify", tmp_path / "m.frq", "--quiet") == (0, "", "")
    fails(2, "convert", npz, tmp_path / "m.frq", "--quiet")


def test_notices_go_to_stderr(run, npz, tmp_path):
    status, _, err = run("convert", npz, tmp_path / "m.frq", "--keep", "0.001")
    assert status == 0
    assert err.startswith("frconvert: note: ")


@pytest.mark.parametrize(
    "target",
    [["--lossless"], ["--keep", "0.5"], ["--bits", "6"], ["--ratio", "3"], ["--size", "4.5kB"],
     ["--snr", "20"], ["--max-error", "0.01"], []],
    ids=str,
)  # fmt: skip
def test_every_target_is_an_option(run, npz, tmp_path, target):
    status, out, _ = run("convert", npz, tmp_path / "m.frq", *target, "--jobs", "2", "--json")
    assert status == 0
    facts = json.loads(out)
    checks = {
        "--lossless": lambda _: facts["sqnr_db"] is None,
        "--keep": lambda value: facts["tensors"][0]["keep"] == value * 48 * 64,
        "--bits": lambda value: facts["bits_per_weight"] <= value,
        "--ratio": lambda value: facts["ratio"] >= value,
        "--size": lambda _: facts["destination_bytes"] <= 4500,
        "--snr": lambda value: facts["sqnr_db"] >= value,
        "--max-error": lambda _: True,
    }
    if target:
        value = float(target[1].removesuffix("kB")) if len(target) > 1 else None
        assert checks[target[0]](value)


def test_globs_choose_what_is_quantised(run, npz, tmp_path):
    methods = {}
    for option in (["--include", "w*"], ["--exclude", "b*"], ["--exclude", "*"]):
        _, out, _ = run("convert", npz, tmp_path / "m.frq", "--overwrite", "--json", *option)
        methods[tuple(option)] = [tensor["method"] for tensor in json.loads(out)["tensors"]]
    assert list(methods.values()) == [["trellis", "exact", "exact"]] * 2 + [["exact"] * 3]


def test_an_existing_destination_is_replaced_only_on_request(run, fails, npz, frq):
    before = frq.read_bytes()
    assert "--overwrite" in fails(2, "convert", npz, frq, "--keep", "0.1")
    assert frq.read_bytes() == before
    assert run("convert", npz, frq, "--keep", "0.1", "--overwrite")[0] == 0
    assert frq.read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{npz}", "{dir}/m.xyz"], "unknown suffix '.xyz'; a destination ends in .frq"),
        (["{npz}", "{dir}/m"], "unknown suffix ''"),
        (["{npz}", "{dir}/no/m.frq"], "there is no folder"),
        (["{npz}", "{npz}/m.frq"], "there is no folder"),
        (["{npz}", "{dir}/m.frq", "--keep", "0.1", "--snr", "3"], "contradict"),
        (["{npz}", "{dir}/m.frq", "--keep", "1.5"], "--keep 1.5 is out of range"),
        (["{npz}", "{dir}/m.frq", "--snr", "nan"], "--snr nan is out of range"),
        (["{npz}", "{dir}/m.frq", "--size", "big"], "not understood"),
        (["{npz}", "{dir}/m.frq", "--ratio", "x"], "not a valid float"),
        (["{npz}", "{dir}/m.frq", "--include", "layer*"], "matches no tensor"),
        (["{npz}", "{dir}/m.frq", "--include", "w*", "--exclude", "zz"], "matches no tensor"),
        (["{npz}", "{dir}/m.frq", "--from", "gguf"], "is not one of"),
        (["{npz}", "{dir}/m.frq", "--jobs", "0"], "--jobs"),
        (["{npz}", "{dir}/m.frq", "--bogus"], "No such option"),
        (["{npz}", "{dir}/m.frq", "--importance", "size"], "is not one of"),
        (["{npz}", "{dir}/m.pt", "--snr", "30"], "a target needs a .frq destination"),
        (["{npz}"], "Missing argument 'DST'"),
        ([], "Missing argument"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_usage_is_status_2_and_leaves_nothing(fails, npz, tmp_path, arguments, message):
    filled = [argument.format(npz=npz, dir=tmp_path) for argument in arguments]
    assert message in fails(2, "convert", *filled)
    assert listing(tmp_path) == ["source.npz"]


@pytest.mark.parametrize("target", [["--size", "20B"], ["--ratio", "100000"], ["--bits", "0.0001"]], ids=str)
def test_a_target_that_cannot_be_met_is_status_1_and_leaves_nothing(fails, npz, tmp_path, target):
    assert "cannot be made" in fails(1, "convert", npz, tmp_path / "m.frq", *target)
    assert listing(tmp_path) == ["source.npz"]


def broken_sources(npz, tmp_path):
    content = npz.read_bytes()
    frconvert.convert(npz, tmp_path / "whole.frq")
    whole = (tmp_path / "whole.frq").read_bytes()
    (tmp_path / "whole.frq").unlink()
    return {
        "empty.npz": b"",
        "garbage.bin2": bytes(range(7, 107)),
        "text.txt": b"hello world, this is no model",
        "cut.npz": content[: len(content) // 2],
        "cut.frq": whole[: len(whole) // 2],
        "tail.frq": whole[:-1],
        "zip.pt": b"PK\3\4" + bytes(50),
        "cut.safetensors": b"\x40\0\0\0\0\0\0\0{" + bytes(80),
        "cut.h5": b"\x89HDF\r\n\x1a\n" + bytes(40),
    }


@pytest.mark.parametrize("name", [
    "empty.npz", "garbage.bin2", "text.txt", "cut.npz", "cut.frq", "tail.frq", "zip.pt",
    "cut.safetensors", "cut.h5",
])  # fmt: skip
def test_a_source_that_cannot_be_read_is_status_3_and_leaves_nothing(fails, npz, tmp_path, name):
    source = tmp_path / name
    source.write_bytes(broken_sources(npz, tmp_path)[name])
    assert name in fails(3, "convert", source, tmp_path / "m.frq")
    assert listing(tmp_path) == sorted([name, "source.npz"])


def test_a_source_that_is_not_there_or_a_folder_is_status_3(fails, tmp_path):
    assert "No such file" in fails(3, "convert", tmp_path / "missing.pt", tmp_path / "m.frq")
    fails(3, "convert", tmp_path, tmp_path / "m.frq")
    assert listing(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_status_3(fails, npz, tmp_path):
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o555)
    assert "Permission denied" in fails(3, "convert", npz, folder / "m.frq")


def test_no_space_is_status_3_and_leaves_nothing(npz, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = process("convert", npz, tmp_path / "m.frq", preexec_fn=limit)
    assert done.returncode == 3
    assert done.stderr == f"frconvert: {tmp_path}/m.frq: cannot be written: {os.strerror(errno.EFBIG)}\n"
    assert listing(tmp_path) == ["source.npz"]


# inspect, verify, compare, analyze


def test_inspect_tells_the_index(run, frq):
    status, out, err = run("inspect", frq)
    assert (status, err) == (0, "")
    for text in ("weight", "48x64", "float32", "scalar", "int64", "SHA-256"):
        assert text in out
    _, out, _ = run("inspect", frq, "--json")
    facts = json.loads(out)
    assert facts["file_bytes"] == frq.stat().st_size
    assert [tensor["name"] for tensor in facts["tensors"]] == ["weight", "bias", "steps"]
    assert sum(len(chunk["tensors"]) for chunk in facts["chunks"]) == 3


def test_inspect_shows_names_as_they_are(run, tmp_path, checkpoint_of):
    arrays = {"[bold]x[/bold]": np.ones(2, np.float32), "é/空": np.ones(3, np.int8), "l" * 300: np.ones(1)}
    frconvert.save(checkpoint_of(arrays), tmp_path / "m.frq")
    _, out, _ = run("inspect", tmp_path / "m.frq")
    assert all(name in out for name in arrays)


def test_inspect_decodes_nothing_and_loads_no_framework(frq):
    from frconvert.container.reader import open_reader

    content = bytearray(frq.read_bytes())
    content[open_reader(frq).contents.frames[0].offset] ^= 0xFF
    frq.write_bytes(content)
    heavy = ("torch", "onnx", "scipy", "h5py", "ml_dtypes")
    code = (
        "import sys; from frconvert.cli import main\n"
        "try: main()\n"
        f"finally: print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", str(frq)], capture_output=True, text=True, check=False
    )
    assert time.monotonic() - began < 5
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_verify_passes_what_is_intact(run, frq):
    status, out, err = run("verify", frq)
    assert (status, err) == (0, "")
    assert "3 tensors, all intact" in out


def test_verify_says_when_nothing_is_lost(run, frq):
    content = bytearray(frq.read_bytes())
    content[-60] ^= 4
    frq.write_bytes(content)
    status, out, err = run("verify", frq)
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 2
    assert "nothing is lost; `frconvert convert --salvage` restores it" in err


def test_verify_names_every_damage_and_is_status_1(run, frq):
    from frconvert.container.reader import open_reader

    content = bytearray(frq.read_bytes())
    for frame in open_reader(frq).contents.frames[:2]:
        content[frame.offset] ^= 1
        content[frame.offset + 1] ^= 1
    content[-40] ^= 1
    frq.write_bytes(content)
    status, out, err = run("verify", frq)
    assert (status, out) == (1, "")
    lines = err.splitlines()
    assert len(lines) == 3
    assert "the footer" in lines[0]
    assert "'weight'" in lines[1]
    assert "'bias'" in lines[2]


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_what_is_no_frq_is_status_3(fails, npz, tmp_path, command):
    assert "not a .frq file" in fails(3, command, npz)
    assert "No such file" in fails(3, command, tmp_path / "missing.frq")
    fails(3, command, tmp_path)


def test_a_truncated_file_is_status_1_to_verify_and_3_to_others(run, fails, frq):
    frq.write_bytes(frq.read_bytes()[:-9])
    assert run("verify", frq)[0] == 1
    fails(3, "inspect", frq)
    fails(3, "convert", frq, frq.with_name("x.pt"))


def test_compare_tells_how_near_two_files_are(run, npz, frq):
    status, out, err = run("compare", npz, frq)
    assert (status, err) == (0, "")
    assert "total SQNR 3" in out
    _, out, _ = run("compare", npz, frq, "--json")
    facts = json.loads(out)
    assert 35 < facts["sqnr_db"] < 37
    assert facts["identical"] is False
    _, out, _ = run("compare", npz, npz, "--json")
    assert json.loads(out)["identical"] is True


def test_compare_of_different_models_is_status_1(run, npz, tmp_path):
    np.savez(tmp_path / "other.npz", weight=np.ones((3, 3)), extra=np.ones(2))
    status, out, _ = run("compare", npz, tmp_path / "other.npz")
    assert status == 1
    for text in ("only in", "of another shape: weight"):
        assert text in out


def test_analyze_tells_axes_energy_and_costs(run, npz):
    status, out, err = run("analyze", npz)
    assert (status, err) == (0, "")
    assert "--snr 30: about" in out
    _, out, _ = run("analyze", npz, "--json")
    facts = json.loads(out)
    assert facts["source_bytes"] == 4 * (48 * 64 + 48) + 8
    (weight,) = facts["weights"]
    assert len(weight["subsets"]) == 4
    assert weight["estimated_bytes"]["20 dB"] < weight["estimated_bytes"]["40 dB"]


def test_what_analyze_estimates_is_about_what_convert_makes(run, npz, tmp_path):
    _, out, _ = run("analyze", npz, "--json")
    estimated = json.loads(out)["weights"][0]["estimated_bytes"]["30 dB"]
    _, out, _ = run("convert", npz, tmp_path / "m.frq", "--snr", "30", "--json")
    assert json.loads(out)["tensors"][0]["bytes"] == pytest.approx(estimated, rel=0.1)


def test_analyze_of_a_model_without_weights_passes(run, tmp_path):
    np.savez(tmp_path / "v.npz", b=np.ones(3))
    status, _, err = run("analyze", tmp_path / "v.npz")
    assert (status, err) == (0, "")


def test_a_plot_is_drawn_and_nothing_but_it(run, npz, tmp_path):
    pytest.importorskip("matplotlib")
    status, _, err = run("analyze", npz, "--plot", tmp_path / "p.svg", "--json")
    assert (status, err) == (0, "")
    assert b"<svg" in (tmp_path / "p.svg").read_bytes()
    assert listing(tmp_path) == ["p.svg", "source.npz"]


# the rest


@pytest.mark.parametrize(
    "arguments", [["--help"], ["-h"], *([c, "--help"] for c in cli.cli.commands)], ids=str
)
def test_help_is_status_0_on_stdout(run, arguments):
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    assert "Usage:" in out


def test_help_states_what_no_target_means(run):
    _, out, _ = run("convert", "--help")
    assert "36 dB" in " ".join(out.split())


def test_the_version_is_told(run):
    assert run("--version") == (0, f"frconvert {__version__}\n", "")


def test_an_unknown_command_is_status_2(fails):
    assert "No such command" in fails(2, "compress")


def test_a_defect_is_one_line_and_status_3(run, npz, tmp_path, monkeypatch):
    from frconvert import pipeline

    def fail(*_, **__):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(pipeline, "convert", fail)
    status, out, err = run("convert", npz, tmp_path / "m.frq")
    assert (status, out) == (3, "")
    assert err.count("\n") == 1
    assert "unexpected RuntimeError: two lines; this is a defect" in err


def test_no_memory_is_one_line_and_status_3(fails, npz, tmp_path, monkeypatch):
    from frconvert import pipeline

    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(pipeline, "convert", fail)
    assert "not enough memory" in fails(3, "convert", npz, tmp_path / "m.frq")


def test_a_reader_that_goes_away_ends_the_command_without_a_word(frq):
    read, write = os.pipe()
    os.close(read)
    done = process("inspect", frq, stdout=write)
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == ""


def test_a_process_of_its_own_ends_with_the_same_status(npz, tmp_path):
    done = process("convert", npz, tmp_path / "m.frq")
    assert (done.returncode, done.stderr) == (0, "")
    done = process("convert", npz, tmp_path / "m.frq")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def interrupted(folder, number):
    """Sends a signal while a file is being written; gives status, stderr and what is in the folder then."""
    source = folder / "big.npz"
    rng = np.random.default_rng(0)
    np.savez(source, **{f"w{n}": rng.standard_normal((1024, 1024)).astype(np.float32) for n in range(6)})
    (folder / "out").mkdir()
    arguments = ["convert", source, folder / "out" / "m.frq", "--size", "3MB", "--jobs", "2"]
    child = subprocess.Popen(
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while not listing(folder / "out") and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert child.poll() is None, "it was done before it could be interrupted"
        child.send_signal(number)
        _, err = child.communicate(timeout=30)
    finally:
        child.kill()
        child.wait()
    return child.returncode, err, listing(folder / "out")


def test_an_interrupt_leaves_nothing_behind(tmp_path):
    status, err, left = interrupted(tmp_path, signal.SIGINT)
    assert left == []
    assert status == 130
    assert err.split() == ["frconvert:", "interrupted"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_termination_leaves_nothing_behind(tmp_path, number):
    _, err, left = interrupted(tmp_path, number)
    assert left == []
    assert "Traceback" not in err


# Defects.


def test_no_arguments_are_answered_with_the_help_or_a_short_line(run):
    status, out, err = run()
    assert status in (0, 2)
    assert "\nUsage:" in "\n" + out + err or len(err) < 200
    assert max(map(len, (out + err).splitlines())) < 200


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_full_device_on_stdout_is_not_called_a_defect(frq, command):
    with Path("/dev/full").open("w") as full:
        done = process(command, frq, stdout=full)
    assert done.returncode == 3
    assert "No space left" in done.stderr
    assert "defect" not in done.stderr


def test_a_destination_with_too_long_a_name_is_refused(fails, npz, tmp_path):
    fails(3, "convert", npz, tmp_path / ("x" * 300 + ".frq"))


def test_a_size_beyond_all_numbers_is_wrong_usage(fails, npz, tmp_path):
    fails(2, "convert", npz, tmp_path / "m.frq", "--size", "9" * 400)


def test_analyze_of_a_single_weight_passes(run, tmp_path):
    np.savez(tmp_path / "one.npz", w=np.ones((1, 1), np.float32))
    assert run("analyze", tmp_path / "one.npz")[0] == 0


@pytest.mark.parametrize("options", [[], ["--json"]], ids=str)
def test_analyze_of_enormous_values_passes(run, tmp_path, options):
    np.savez(tmp_path / "huge.npz", w=np.full((64, 64), 1e38, np.float32))
    status, _, err = run("analyze", tmp_path / "huge.npz", *options)
    assert (status, err) == (0, "")


def test_converting_enormous_values_prints_no_warning(tmp_path):
    np.savez(tmp_path / "huge.npz", w=np.full((64, 64), 1e38, np.float32))
    done = process("convert", tmp_path / "huge.npz", tmp_path / "m.frq")
    assert (done.returncode, done.stderr) == (0, "")
