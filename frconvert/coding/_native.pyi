from typing_extensions import Buffer

def search(
    targets: Buffer,
    values: Buffer,
    entries: Buffer,
    prices: Buffer,
    steps: int,
    lanes: int,
    state_bits: int,
    always: int,
    chosen: int,
    symbols: Buffer,
    quantisers: Buffer,
    /,
) -> None: ...
def encode(
    index: Buffer, frequency: Buffer, start: Buffer, state: Buffer, steps: int, words: Buffer, /
) -> int: ...
def decode(
    words: Buffer,
    state: Buffer,
    rows: Buffer,
    table: Buffer,
    two_rows: Buffer,
    raw_parity: Buffer,
    moves: Buffer,
    drained_from: int,
    symbols: Buffer,
    quantisers: Buffer,
    /,
) -> int: ...
def decode_running(
    words: Buffer,
    state: Buffer,
    table: Buffer,
    pull: Buffer,
    row_of: Buffer,
    down: int,
    rate: int,
    start: int,
    symbols: Buffer,
    /,
) -> int: ...
