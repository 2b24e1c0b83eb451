"""Small stores for tests."""

import pickle

import lmdb

from object_centric_bench.datum import conversion


def write(file, dataset, samples, attributes=None, **options):
    """Write packed samples as a file of ours."""
    samples = list(samples)
    job = conversion.Job(range(len(samples)), samples.__getitem__, attributes=attributes or {})
    return conversion.write(file, dataset, job, **options)


def raw(file, pairs):
    """Write an LMDB file with exactly these entries."""
    environment = lmdb.open(str(file), subdir=False, lock=False, map_size=1 << 26)
    with environment, environment.begin(write=True) as transaction:
        for key, value in pairs.items():
            transaction.put(key, value)


def published(file, records, keys=None):
    """Write records as a published file: a pickled dict per sample, and a pickled list of keys (or what `keys` is)."""
    stored = [b"%06d" % index for index in range(len(records))]
    pairs = {key: pickle.dumps(value, 4) for key, value in zip(stored, records, strict=True)}
    raw(file, {b"__keys__": pickle.dumps(stored if keys is None else keys, 4), **pairs})
