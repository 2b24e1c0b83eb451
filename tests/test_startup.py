"""What is imported when: commands that compute nothing import nothing heavy, and libraries come where they are used."""

import subprocess
import sys

import pytest

from .conftest import REPOSITORY

HEAVY = ["torch", "numpy", "cv2", "lmdb", "tqdm", "scipy"]
OPTIONAL = ["diffusers", "transformers", "timm", "tensorboard", "av", "tensorflow"]
COMMANDS = [
    ["train.py", "--help"],
    ["train.py", "--print_cfg"],
    ["train.py", "--cfg_file", "config-vqdino/vqdino_tfd_r-coco.py", "--print_cfg", "resolution=384"],
    ["eval.py", "--help"],
    ["convert.py", "--help"],
]


def imported(code, names):
    """Return which of the modules a program has imported at its end."""
    after = f"import sys; print('IMPORTED', *[name for name in {names!r} if name in sys.modules])"
    command = [sys.executable, "-c", f"{code}\n{after}"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("IMPORTED")]
    return line.split()[1:]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))
def test_help_and_config_import_nothing_heavy(command):
    code = (
        f"import runpy, sys\nsys.argv = {command!r}\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code"
    )
    assert imported(code, HEAVY) == []


def test_libraries_of_single_parts_are_imported_where_these_are_built():
    """The demo's first stage needs timm; diffusers and transformers would add seconds to its start."""
    before = "import object_centric_bench.job"
    assert imported(before, OPTIONAL) == []
    build = (
        "from object_centric_bench import config, experiment\nfrom object_centric_bench.registry import build\n"
        "build(experiment.complete(config.load('config-demo/vqshapes.py'))['model'], 'model')"
    )
    assert imported(build, OPTIONAL) == ["timm"]
