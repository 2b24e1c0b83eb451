"""MOVi files that several tests share."""

import shutil
import tarfile

import pytest

from object_centric_bench.datum.lmdb import Reader
from object_centric_bench.datum.movi import convert
from tests.conftest import require

from .examples import SOURCES, later
from .stores import published


@pytest.fixture(scope="session")
def movi_sources(raw, tmp_path_factory):
    """Folder with all official files, unpacked."""
    folder = tmp_path_factory.mktemp("movi_raw")
    for archive in sorted((raw / "movi").glob("*.tar.xz")):
        with tarfile.open(archive, "r:xz") as opened:
            opened.extractall(folder, filter="data")
    shutil.copytree(raw / "movi/movi_d/32x32", folder / "movi_d/32x32", copy_function=shutil.copyfile)
    return folder


@pytest.fixture(scope="session")
def movi_converted(movi_sources, tmp_path_factory):
    """Folder with the LMDB files of each source."""
    folder = tmp_path_factory.mktemp("movi")
    for name in SOURCES:
        convert(movi_sources / name, folder / name)
    return folder


@pytest.fixture
def movi_broken(movi_sources, tmp_path):
    """A copy of the smallest source that a test may damage."""
    return shutil.copytree(movi_sources / "movi_d/32x32/1.0.0", tmp_path / "raw", copy_function=shutil.copyfile)


@pytest.fixture(scope="session")
def movi_stores(golden, movi_converted, tmp_path_factory):
    """Folders with a train.lmdb of ours, and of each published generation."""
    folder = require(golden / "lmdb/movi")
    reader = Reader(folder / "train.lmdb")
    target = tmp_path_factory.mktemp("later")
    published(target / "train.lmdb", [later(reader.read(index)) for index in range(len(reader))])
    return {"ours": movi_converted / "movi_d/64x64", "2025": folder, "2026": target}
