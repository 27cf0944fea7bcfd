"""`.frq` files as checkpoints: index read at once, tensors decoded when asked for."""

from functools import partial
from pathlib import Path

from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.container.reader import Reader


def load(path: Path) -> Checkpoint:
    """Opens a `.frq` file; attachments are restored, tensors wait."""
    reader = Reader(path)
    index = reader.index
    entries = tuple(
        TensorEntry(
            name,
            layout.shape,
            layout.dtype,
            read=partial(reader.read, name),
            tied_to=index.ties.get(name),
            read_encoded=partial(reader.record, name),
            encoded_layout=layout,
        )
        for name, layout in zip(index.names, index.layouts, strict=True)
    )
    attachments = {item.name: reader.attachment(item) for item in index.attachments}
    return Checkpoint(entries, "frq", attachments, index.metadata)
