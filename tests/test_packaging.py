"""What `pip install .` needs to know agrees with the files that people install from."""

import tomllib
from importlib.resources import files

from .conftest import REPOSITORY


def listed(name):
    lines = (REPOSITORY / name).read_text().splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.partition("#")[0].strip()]


def test_the_extra_dev_is_requirements_dev():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["dev"] == listed("requirements-dev.txt")
    assert "dependencies" in project["dynamic"]


def test_every_requirement_has_a_lower_bound_and_no_pin():
    for line in [*listed("requirements.txt"), *listed("requirements-dev.txt")]:
        assert ">=" in line and "==" not in line, line


def test_files_beside_the_code_are_packaged():
    tool = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    here = files("object_centric_bench.run_report")
    assert here.joinpath("style.css").is_file() and here.joinpath("chart.js").is_file()
    assert tool["package-data"]["object_centric_bench.run_report"] == ["*.css", "*.js"]
