"""Networks: the parts (backbone, slot attention, decoders, ...) and the methods composed of them.

Importing this package imports every file in it, and so registers every class that a config may name: a new method is
one new file.
"""

import importlib
import pkgutil

for _found in pkgutil.iter_modules(__path__):
    if not _found.name.startswith("published"):  # reads others' checkpoints, registers nothing
        importlib.import_module(f"{__name__}.{_found.name}")
