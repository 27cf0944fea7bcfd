from typing_extensions import Buffer

def search(
    values: Buffer,
    depths: Buffer,
    pulls: Buffer,
    weights: Buffer,
    entries: Buffer,
    prices: Buffer,
    worth: float,
    most: int,
    states: int,
    always: int,
    chosen: int,
    symbols: Buffer,
    errors: Buffer,
    /,
) -> None: ...
