"""The optional compiled twins of the innermost loops, or None.

Whatever they do numpy does too, with the same result to the bit; see `_native.c`. The environment variable
FRCONVERT_NATIVE=0 turns them off.
"""

import os
from types import ModuleType

_INTERFACE = 1
native: ModuleType | None = None
if os.environ.get("FRCONVERT_NATIVE") != "0":
    try:
        from frconvert.coding import _native

        if getattr(_native, "INTERFACE", 0) == _INTERFACE:  # not one of an earlier build
            native = _native
    except ImportError:  # no compiler was there when the package was installed
        pass
