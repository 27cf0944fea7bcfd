"""Where a `.frq` came from: metadata under a reserved prefix, without clocks and folders.

Keys: `source` (name of the file without its folder), `size` (its bytes), `sha256` (of the file, hexadecimal;
not of a URL), `options` (as on the command line), `base` (name of the file to which tensors are differences),
`version` (of frconvert). A copy keeps those of the
original; what is compressed anew from a `.frq` names that one.
"""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path, PurePosixPath

from frconvert.checkpoint import Origin
from frconvert.container import RESERVED
from frconvert.container.sources import is_url, open_source
from frconvert.encode import Options
from frconvert.errors import UnreadableError, UsageError, one_line
from frconvert.target import Target
from frconvert.version import __version__

_NOT_LISTED = ("jobs", "rules", "base")  # options that change no byte, or are told otherwise


def describe(origin: Origin | None, target: Target, options: Options) -> dict[str, str]:
    """The provenance of what is made now; without what is not known or empty.

    Raises:
        UnreadableError: the source cannot be read any more.
    """
    facts = {"version": __version__}
    words = ["--from", origin.format] if origin and origin.format else []
    words += option_words(target, options)
    if words:
        facts["options"] = " ".join(map(shlex.quote, words))
    if origin:
        facts["source"] = _file_name(origin)
        if is_url(origin.location):
            facts["size"] = str(open_source(origin.location).size_bytes)
        else:
            facts["size"], facts["sha256"] = _digest(Path(origin.location))
    if options.base is not None and options.base.origin:
        facts["base"] = _file_name(options.base.origin)
    return facts


def _file_name(origin: Origin) -> str:
    name = (PurePosixPath if is_url(origin.location) else Path)(origin.location).name
    # File names of other days may be no Unicode; metadata is.
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def option_words(target: Target, options: Options) -> list[str]:
    """Target and options as words of the command line; what has its default is left out."""
    words = []
    if target.kind != "default":
        words.append("--" + target.kind.replace("_", "-"))
        words += [_number(target.value)] if target.value else []
    for field in fields(options):
        value = getattr(options, field.name)
        if value == field.default or field.name in _NOT_LISTED:
            continue
        for item in value if isinstance(value, tuple) else (value,):
            text = Path(str(item)).name if field.name == "calib" else str(item)  # without folders
            words += [
                "--" + field.name.replace("_", "-"),
                _number(item) if isinstance(item, float) else text,
            ]
    return [*words, "--config"] if options.rules else words


def reserved(provenance: Mapping[str, str]) -> dict[str, str]:
    """The metadata that stands for a provenance, in an order that does not depend on how it was made."""
    return {RESERVED + key: provenance[key] for key in sorted(provenance)}


def parse_metadata(pairs: Sequence[str]) -> dict[str, str]:
    """Metadata from texts such as "licence=MIT".

    Raises:
        UsageError: a text without "=", or a key that occurs twice.
    """
    metadata: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key in metadata:
            fault = "the key occurs twice" if equals else "write it as KEY=VALUE"
            raise UsageError(f"--meta {pair!r}: {fault}")
        metadata[key] = value
    return metadata


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Refuses keys that are empty or reserved.

    Raises:
        UsageError: naming the key.
    """
    for key in metadata:
        if not key or key.startswith(RESERVED):
            raise UsageError(f"metadata key {key!r}: keys are not empty and do not begin with {RESERVED!r}")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _digest(path: Path) -> tuple[str, str]:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return str(file.tell()), digest
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror or one_line(error)}") from error
