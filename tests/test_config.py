"""Config files: loading, overrides, showing, comparing; every file of the project."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from object_centric_bench import config
from object_centric_bench.registry import ConfigError

from .conftest import REPOSITORY

FILES = sorted(file for file in REPOSITORY.glob("config-*/*.py") if not file.name.startswith("_"))

EXAMPLE = """
def config(resolution=256, name="a", lr=1e-4, flag=False):
    return dict(
        model=dict(type="Model", grid=[resolution // 16] * 2, layers=[dict(type="Layer", width=4)], weights=None),
        optimizer=dict(lr=lr), name=name, flag=flag,
    )
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "example.py"
    path.write_text(EXAMPLE)
    return path


def test_there_are_configs():
    assert len(FILES) >= 8


def without_scale(node):
    """Return a part's config without the temperature of its draws, which differs between the stages."""
    return {key: value for key, value in node.items() if key != "logit_scale"} if isinstance(node, dict) else node


def weights_of(node):
    """Return a part's config without what may differ between two that share their weights."""
    free = {"trainable", "bilevel", "eval_order"}
    if isinstance(node, dict):
        return {key: weights_of(child) for key, child in node.items() if key not in free}
    return node


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_loads_survives_json_and_has_no_faults(path):
    from object_centric_bench import experiment

    cfg = config.load(path)
    assert json.loads(json.dumps(cfg)) == cfg
    complete = experiment.complete(cfg)
    if complete["pretrain"] is not None:
        stage1 = config.load(path.parent / complete["pretrain"]["config"], **complete["pretrain"].get("knobs", {}))
        if isinstance(complete["pretrain"]["modules"], dict):  # parts by the parts that they start from
            for target, origin in complete["pretrain"]["modules"].items():
                theirs = stage1["model"][origin] if origin else stage1["model"]
                assert weights_of(cfg["model"][target]) == weights_of(theirs)
            return
        ours, theirs = cfg["model"]["tokenizer"], stage1["model"]["tokenizer"]
        for module in complete["pretrain"]["modules"]:  # what stage 2 takes over must be made alike
            part = module.removeprefix("tokenizer.")
            assert without_scale(ours[part]) == without_scale(theirs[part])
        assert stage1["model"].get("backbone") in (None, cfg["model"]["backbone"])


def test_loading_and_printing_configs_imports_no_torch():
    code = "import sys, train; train.main(['--print_cfg']); sys.exit(bool({'torch', 'cv2'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "model.type = " in done.stdout


def test_a_knob_reaches_every_number_that_follows_from_it(file):
    cfg = config.load(file, ["resolution=384", "model.layers.0.width=8", "optimizer.lr=1", "name=b", "flag=True"])
    assert cfg["model"]["grid"] == [24, 24]
    assert cfg["model"]["layers"][0]["width"] == 8
    assert (cfg["optimizer"]["lr"], cfg["name"], cfg["flag"]) == (1, "b", True)


def test_a_leaf_that_is_a_list_and_an_item_of_it_can_be_set(file):
    assert config.load(file, ["model.grid=[2,3]"])["model"]["grid"] == [2, 3]
    assert config.load(file, ["model.grid.1=3"])["model"]["grid"] == [16, 3]
    assert config.load(file, ["model.weights=here.pth"])["model"]["weights"] == "here.pth"


def test_all_faulty_overrides_are_named_at_once(file):
    with pytest.raises(ConfigError) as caught:
        config.load(file, ["model.layers.0.widht=1", "resolutoin=1", "model.layers=3", "optimizer.lr=fast"])
    text = str(caught.value)
    assert "model.layers.0.widht: neither a knob nor a leaf" in text
    assert "did you mean 'model.layers.0.width'?" in text
    assert "did you mean 'resolution'?" in text
    assert "model.layers: neither" in text
    assert "optimizer.lr: 'fast' is no Python literal" in text


@pytest.mark.parametrize("override", ["resolution=big", "flag=1", "novalue", "=3", "resolution=1.5"])
def test_a_value_that_does_not_fit_is_refused(file, override):
    with pytest.raises(ConfigError):
        config.load(file, [override])


def test_errors_of_a_config_file_name_file_and_line(tmp_path):
    for name, text, expected in [
        ("broken", "def config(:", "line 1"),
        ("raising", "def config():\n    return dict(a=1 // 0)", "line 2"),
        ("empty", "a = 1", "has none"),
        ("list", "def config():\n    return []", "not a dict"),
        ("object", "def config():\n    return dict(a=dict(b=object()))", "a.b: a object cannot stand in a config"),
        ("tuple", "def config():\n    return dict(a=(1, 2))", "a: a tuple cannot"),
    ]:
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        with pytest.raises(ConfigError, match=expected) as caught:
            config.load(path)
        assert name in str(caught.value)


def test_a_missing_file_suggests_its_neighbours(file):
    with pytest.raises(ConfigError, match=r"did you mean .*example\.py"):
        config.load(file.with_name("exampel.py"))


def test_files_of_one_stem_stay_apart_and_share_parts_with_their_own_folder(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "_parts.py").write_text(f"NAME = {name!r}\n")
        (tmp_path / name / "same-stem.py").write_text(
            "from ._parts import NAME\n\ndef config():\n    return dict(name=NAME)\n"
        )
    assert [config.load(tmp_path / name / "same-stem.py")["name"] for name in ("one", "two")] == ["one", "two"]


def test_show_prints_a_leaf_per_line_and_diff_only_what_differs(file):
    assert "model.grid = [16, 16]" in config.show(config.load(file))
    assert "model.layers.0.width = 4" in config.show(config.load(file))
    assert config.diff(config.load(file), config.load(file, ["resolution=384"])) == [
        "- model.grid = [16, 16]",
        "+ model.grid = [24, 24]",
    ]


def test_the_command_shows_and_compares(file, capsys):
    assert config.main(["show", str(file), "resolution=32"]) == 0
    assert "model.grid = [2, 2]" in capsys.readouterr().out
    assert config.main(["diff", str(file), str(file), "name=b"]) == 0
    assert capsys.readouterr().out.splitlines() == ["- name = 'a'", "+ name = 'b'"]
    assert config.main(["show", str(file), "nam=1"]) == 2
    assert "did you mean 'name'?" in capsys.readouterr().err


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(plain, plain)
def test_two_configs_have_no_difference_exactly_when_their_leaves_agree(left, right):
    left, right = {"x": left}, {"x": right}
    assert (config.diff(left, right) == []) == (dict(config.leaves(left)) == dict(config.leaves(right)))
    assert config.diff(left, left) == []


@given(st.text(max_size=30), st.sampled_from([None, "a", 1, 0.5, True, [1]]))
def test_any_override_text_parses_or_is_refused_with_value_error(text, present):
    try:
        value = config.parse(text, present)
    except ValueError:
        return
    if isinstance(present, bool):
        assert isinstance(value, bool) or value is None
    elif isinstance(present, float):
        assert value is None or isinstance(value, (int, float))


def test_only_configs_are_proposed_for_one_that_is_not_there(tmp_path):
    """In the root of the project stand scripts, which are none."""
    with pytest.raises(ConfigError, match=r"no config file '.*nope\.py', and no config files in"):
        config.load(REPOSITORY / "nope.py")
    with pytest.raises(ConfigError, match=r"did you mean '.*spot-shapes\.py'"):
        config.load(REPOSITORY / "config-demo" / "spot-shape.py")
