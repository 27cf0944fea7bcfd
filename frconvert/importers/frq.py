"""`.frq` files as checkpoints: indices are read at once, tensors and attachments when asked for.

A file whose tensors are differences to another one's, its base, is opened without it too: what stands by
itself can be read then, and all can be copied.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.checkpoint import Checkpoint, StoredChunk, TensorEntry
from frconvert.coding.difference import OWN
from frconvert.container import BASE_NAME, RESERVED
from frconvert.container.reader import Reader, open_reader
from frconvert.container.salvage import Examination, examine
from frconvert.container.sources import Location, open_source
from frconvert.errors import DamagedError, UnreadableError, printable, quoted


class Attachments(Mapping[str, bytes]):
    """The attachments of a file; each is read when it is asked for."""

    def __init__(self, reader: Reader, names: tuple[str, ...]) -> None:
        self._reader, self._names = reader, names

    def __getitem__(self, name: str) -> bytes:
        if name not in self._names:
            raise KeyError(name)
        return self._reader.attachment(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def load(location: Location, bases: Sequence[Location | Checkpoint] = ()) -> Checkpoint:
    """Opens a `.frq` file by path, URL or as an open file; see `checkpoint_of`."""
    return checkpoint_of(open_reader(location), bases)


def checkpoint_of(reader: Reader, bases: Sequence[Location | Checkpoint] = ()) -> Checkpoint:
    """The checkpoint that an open file holds.

    Args:
        reader: of the file.
        bases: files one of which is its base if it has one; others may be the base of that one, and so on.

    Raises:
        UnreadableError: none of the bases is the one that it needs.
    """
    head = reader.head
    base = _base(reader, bases)
    others = {entry.name: entry for entry in base or ()}
    chunks = [
        StoredChunk(group.kind, tuple(reader.chunk_names(number)), partial(reader.payload, number))
        for number, group in enumerate(head.groups)
    ]
    entries = tuple(
        TensorEntry(
            name,
            layout.shape,
            layout.dtype,
            read=partial(_read, reader, name, None if base is None else others),
            tied_to=head.ties.get(name),
            # An alias that becomes a tensor with data of its own is no difference: the base knows it not.
            **({} if name in head.ties and layout.relation != OWN else _stored(reader, name, chunks)),
            base=None if layout.relation == OWN else others.get(name),
        )
        for name, layout in zip(head.names, head.layouts, strict=True)
    )
    attachments = Attachments(reader, tuple(head.attachments))
    ours = {key: value for key, value in head.metadata.items() if key.startswith(RESERVED)}
    theirs = {key: value for key, value in head.metadata.items() if key not in ours}
    provenance = {key.removeprefix(RESERVED): value for key, value in ours.items()}
    return Checkpoint(
        entries, "frq", attachments, theirs, provenance=provenance, sha256=reader.sha256, base=head.base
    )


def _stored(reader: Reader, name: str, chunks: Sequence[StoredChunk]) -> dict[str, Any]:
    """What copying needs of a tensor."""
    place = reader.chunk_of(name)
    return {
        "read_encoded": partial(reader.record, name),
        "encoded_layout": reader.layout(name),
        "chunk": None if place is None else chunks[place],
    }


def _read(reader: Reader, name: str, others: Mapping[str, TensorEntry] | None) -> NDArray[np.generic]:
    """A tensor, with that of the base where it needs one; `others` is None where the base is not there."""
    layout = reader.layout(name)
    if layout.relation == OWN:
        return reader.read(name)
    if others is None:
        raise UnreadableError(
            f"{reader.name}: tensor {quoted(name)} is stored as the difference to {base_words(reader)}; "
            "give that file with --base"
        )
    other = others.get(reader.head.ties.get(name, name))
    if other is None or (other.shape, other.dtype) != (layout.shape, layout.dtype):
        raise DamagedError(f"{reader.name}: tensor {quoted(name)} is not in the base, or not with that shape")
    return reader.read(name, other.read())


def base_words(reader: Reader) -> str:
    """What is known of the base of a file that has one."""
    name = printable(reader.head.metadata.get(BASE_NAME, "a file"))
    return f"{name} with SHA-256 {(reader.head.base or b'').hex()}"


def _base(reader: Reader, bases: Sequence[Location | Checkpoint]) -> Checkpoint | None:
    wanted = reader.head.base
    if wanted is None or not bases:
        return None
    for number, item in enumerate(bases):
        # One that was tried is not tried again, so that files that claim to be each other's base end.
        rest = [*bases[:number], *bases[number + 1 :]]
        if isinstance(item, Checkpoint):
            if item.sha256 == wanted:
                return item
        elif (found := open_reader(item)).sha256 == wanted:
            return checkpoint_of(found, rest)
    raise UnreadableError(
        f"{reader.name}: its base is {base_words(reader)}, which is none of the given files"
    )


def salvage(
    location: Location, bases: Sequence[Location | Checkpoint] = ()
) -> tuple[Checkpoint, Examination]:
    """What of a damaged file is intact or could be repaired, and what is to be said of it."""
    found = examine(open_source(location))
    whole = checkpoint_of(found.reader, bases)
    kept = tuple(name for name in whole.attachments if name not in found.lost_attachments)
    entries = tuple(entry for entry in whole if entry.name not in found.lost_tensors)
    return replace(whole, entries=entries, attachments=Attachments(found.reader, kept)), found
