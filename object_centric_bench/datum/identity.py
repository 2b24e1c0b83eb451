"""What a file's samples are, whatever the file is called and wherever it lies."""

import hashlib

from .environment import environment
from .lmdb import Reader


def identity(reader: Reader) -> str:
    """Return a hash of all records of a file; two files share it exactly when they hold the same.

    Records of ours begin with a checksum, so only the first page of each is read; that of a sample's main value covers
    the checksums of its decoded pictures, which begin with pixels. Published records are read whole.
    """
    found = hashlib.sha256()
    with environment(reader.file, reader.command).begin(buffers=True) as transaction:
        for key, value in transaction.cursor():
            found.update(key)
            found.update(len(value).to_bytes(8, "little"))
            found.update(value if reader.published else value[:4])
    return found.hexdigest()
