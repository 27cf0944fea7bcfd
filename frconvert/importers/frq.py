"""`.frq` files as checkpoints: indices are read at once, tensors and attachments when asked for."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from frconvert.checkpoint import Checkpoint, StoredChunk, TensorEntry
from frconvert.container import RESERVED
from frconvert.container.reader import Reader, open_reader
from frconvert.container.salvage import Examination, examine
from frconvert.container.sources import Location, open_source


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


def load(location: Location) -> Checkpoint:
    """Opens a `.frq` file by path, URL or as an open file."""
    return checkpoint_of(open_reader(location))


def checkpoint_of(reader: Reader) -> Checkpoint:
    """The checkpoint that an open file holds."""
    head = reader.head
    chunks = [
        StoredChunk(group.kind, tuple(reader.chunk_names(number)), partial(reader.payload, number))
        for number, group in enumerate(head.groups)
    ]
    entries = tuple(
        TensorEntry(
            name,
            layout.shape,
            layout.dtype,
            read=partial(reader.read, name),
            tied_to=head.ties.get(name),
            read_encoded=partial(reader.record, name),
            encoded_layout=layout,
            chunk=None if (place := reader.chunk_of(name)) is None else chunks[place],
        )
        for name, layout in zip(head.names, head.layouts, strict=True)
    )
    attachments = Attachments(reader, tuple(head.attachments))
    ours = {key: value for key, value in head.metadata.items() if key.startswith(RESERVED)}
    theirs = {key: value for key, value in head.metadata.items() if key not in ours}
    provenance = {key.removeprefix(RESERVED): value for key, value in ours.items()}
    return Checkpoint(entries, "frq", attachments, theirs, provenance=provenance)


def salvage(location: Location) -> tuple[Checkpoint, Examination]:
    """What of a damaged file is intact or could be repaired, and what is to be said of it."""
    found = examine(open_source(location))
    whole = checkpoint_of(found.reader)
    kept = tuple(name for name in whole.attachments if name not in found.lost_attachments)
    entries = tuple(entry for entry in whole if entry.name not in found.lost_tensors)
    return replace(whole, entries=entries, attachments=Attachments(found.reader, kept)), found
