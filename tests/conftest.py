"""What all tests share: where the reference numbers and the raw sample data lie."""

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # workers that each start a thread per core wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

# how long an example takes depends on what else the machine does; `settings` of a test start from these
settings.register_profile("any_machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any_machine")

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
GOLDEN = Path(os.environ.get("OCL_GOLDEN_DIR", SHARED / "golden"))


def require(path: Path) -> Path:
    """Return the path; skip the test where it is missing, or fail it where it must be there.

    That is in CI (OCL_REQUIRE_DATA=1), and for the reference numbers if OCL_GOLDEN_DIR names their folder.
    """
    if path.exists():
        return path
    message = f"{path} is missing: reference numbers and raw samples are kept beside the repository"
    if os.environ.get("OCL_REQUIRE_DATA") == "1" or (path == GOLDEN and "OCL_GOLDEN_DIR" in os.environ):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the reference numbers."""
    return require(GOLDEN)


@pytest.fixture(scope="session")
def raw() -> Path:
    """Folder of the small raw datasets in their official layouts."""
    return require(SHARED / "data" / "raw")
