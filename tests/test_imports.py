"""Dependencies point one way, as docs/design.md draws them."""

import ast

from .conftest import REPOSITORY

PACKAGE = REPOSITORY / "object_centric_bench"
BASE = {"registry", "config", "recipe", "commandline"}
ALLOWED = {
    "registry": set(),
    "recipe": {"recipe"},
    "config": {"registry"},
    "commandline": set(),
    "console": set(),
    "files": set(),
    "picture": {"files"},
    "datum": {"datum", "registry", "picture", "console"},
    "model": {"model", "registry", "files"},
    "learn": {"learn", "registry", "picture", "console", "files"},
    "engine": {"registry"},
    "drive": {"learn", "registry"},
    "evaluation": {"datum", "learn", "registry"},
    "cached": {"console", "datum", "learn", "model", "registry", "config"},
    "experiment": {"cached", "evaluation", "datum", "drive", "engine", "model", "learn", "registry", "config"},
    "restore": {"console", "model", "learn", "registry", "config"},
    "interruption": {"learn"},
    "provenance": {"learn", "files", "config"},
    "occupied": {"registry"},
    "training": {
        *("console", "experiment", "interruption", "occupied", "provenance", "restore", "files", "model", "learn"),
        "registry",
    },
    "reproduce": {"console", "experiment", "provenance", "restore", "files", "learn", "registry", "config"},
    "prediction": {"experiment", "restore", "datum", "learn", "registry", "config"},
    "predict_files": {"console", "prediction", "files", "picture", "datum", "learn", "registry"},
    "grid": {"grid", "commandline", "console", "files", "config", "registry"},
    "run_report": {
        *("run_report", "console", "experiment", "restore", "files", "picture", "datum", "learn", "registry", "config"),
    },
    "profiling": {"experiment", "engine", "files", "datum", "learn", "model", "registry"},
    "job": {
        *(
            "console",
            "engine",
            "run_report",
            "profiling",
            "experiment",
            "evaluation",
            "training",
            "interruption",
            "reproduce",
            "restore",
            "files",
            "datum",
            "model",
        ),
        *("learn", "registry", "config"),
    },
    "doctor": {
        *("doctor", "console", "job", "experiment", "restore", "datum", "learn", "model", "picture", "registry"),
        "config",
    },
}
ROOTS = {
    "config-": BASE - {"commandline"},
    "train.py": BASE | {"job", "doctor"},
    "eval.py": BASE | {"job", "predict_files", "run_report"},
    "convert.py": BASE | {"datum"},
}


def edges(path):
    """Yield the names of this project's modules that a file imports: `datum`, `learn`, `registry` ..."""
    inside = path.relative_to(REPOSITORY).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.level and inside[0] == PACKAGE.name:
                parts = [*inside[:-1]][: len(inside) - node.level] + (node.module or "").split(".")
            else:
                parts = (node.module or "").split(".")
            parts = [part for part in parts if part]
            if parts[:1] == [PACKAGE.name]:
                yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith(f"{PACKAGE.name}."):
                    yield alias.name.split(".")[1]


def test_imports_point_one_way():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        owner = parts[0].removesuffix(".py")
        if owner != "__init__":
            wrong += [f"{'/'.join(parts)} imports {name}" for name in edges(path) if name not in ALLOWED[owner]]
    scripts = [*REPOSITORY.glob("*.py"), *REPOSITORY.glob("config-*/*.py")]
    for path in scripts:
        name = str(path.relative_to(REPOSITORY))
        allowed = next(value for key, value in ROOTS.items() if name.startswith(key))
        wrong += [f"{name} imports {edge}" for edge in edges(path) if edge not in allowed]
    assert not wrong
    assert any(True for path in scripts for _ in edges(path)), "the walk found no import at all"


def test_base_layer_is_standard_library_only():
    import sys

    files = [
        PACKAGE / "registry.py",
        PACKAGE / "config.py",
        PACKAGE / "commandline.py",
        *(PACKAGE / "recipe").glob("*.py"),
    ]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            foreign = [n for n in names if n.split(".")[0] not in sys.stdlib_module_names | {PACKAGE.name}]
            assert not foreign, f"{path.name} imports {foreign}"


def test_package_root_imports_nothing_until_called_and_scripts_stay_short():
    body = ast.parse((PACKAGE / "__init__.py").read_text()).body
    imports = [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert [node.module for node in imports] == ["typing"]
    for name in ("convert.py", "train.py", "eval.py"):
        assert len((REPOSITORY / name).read_text().splitlines()) <= 100, name
