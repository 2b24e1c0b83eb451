"""A demo config of every method family, trained by train.py: the loss falls, and what is segmented gets scored."""

import json
import math
from statistics import mean

import pytest

from object_centric_bench import config
from object_centric_bench.datum import moving_shapes, shapes

from .conftest import REPOSITORY
from .test_end_to_end import succeed

DEMO = REPOSITORY / "config-demo"
STEPS = 200
BATCH = {"image": "batch_size=4", "video": "batch_size=2"}
FALLS = {  # what is left of the loss at the start, at most; tokens' entropies and similarities cannot reach zero
    "dinosaur-shapes": 0.8,
    "spot-shapes": 0.8,
    "vvo_mlp-shapes": 0.8,
    "vvo_tfd-shapes": 0.8,
    "vvo_tfd9-shapes": 0.8,
    "vvo_dfz-shapes": 0.5,
    "videosaur-shapes": 0.8,
    "vvo_smdt-shapes": 0.8,
    "vvo_tfdt-shapes": 0.8,
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Forty scenes and ten videos to train on, a few of each to score, in half the demo's resolution."""
    folder = tmp_path_factory.mktemp("data")
    shapes.convert(folder / "shapes", num_train=40, num_val=4, size=64)
    moving_shapes.convert(folder / "moving_shapes", num_train=10, num_val=2, size=64, frames=3)
    return folder


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    """The folder of all runs, so that first stages serve several methods."""
    return tmp_path_factory.mktemp("save")


def losses(folder):
    """Return the sums of all loss terms in a run's log: of its training lines, and of its evaluations."""
    terms = json.loads((folder / "config.json").read_text())["loss"]
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    trained = [row["loss"] for row in rows if row["split"] == "train"]
    return trained, [sum(row[name] for name in terms) for row in rows if row["split"] == "eval"]


def run(name, data, save, *options):
    """Train a demo config for some steps, its first stage before it; return its folder."""
    cfg = config.load(DEMO / f"{name}.py")
    stage = (cfg["pretrain"] or {}).get("config")
    folder = save / name / "42"
    if (folder / "eval" / "eval.json").exists() or (not cfg["metric"] and (folder / "last").exists()):
        return folder
    arguments = ["--cfg_file", f"config-demo/{name}.py", "--data_dir", data, "--save_dir", save, "--device=cpu"]
    if stage:
        arguments += ["--ckpt_file", run(stage.removesuffix(".py"), data, save) / "best"]
    kind = cfg["dataset"]["train"]["keys"][0]
    log = [each["type"] for each in cfg["callback"]].index("Log")
    steps = [f"total_steps={STEPS}", f"eval_every={STEPS // 2}", f"callback.{log}.every=10"]
    succeed("train.py", *arguments, "--viz=0", BATCH[kind], "grid=8", *steps, *options)
    return folder


@pytest.mark.parametrize("name", FALLS)
def test_every_family_learns(name, data, save):
    folder = run(name, data, save)
    trained, evaluated = losses(folder)
    assert len(trained) == STEPS // 10
    assert mean(trained[-3:]) < FALLS[name] * trained[0]
    assert len(evaluated) == 2
    assert evaluated[-1] < trained[0]
    written = json.loads((folder / "eval" / "eval.json").read_text())
    assert written["num_images"] == len({row["id"] for row in written["images"]}) > 1
    assert all(math.isfinite(written["scores"][score]) for score in ("ari", "ari_fg", "mbo"))


@pytest.mark.parametrize("name", ["vqshapes", "vqshapes-k16", "vqshapes-c4", "vqshapes-video"])
def test_first_stages_learn(name, data, save):
    trained, _ = losses(run(name, data, save))
    assert mean(trained[-3:]) < 0.8 * trained[0]


def test_self_training_learns_from_its_first_stage(data, save):
    trained, _ = losses(run("spot-shapes-distill", data, save))
    assert mean(trained[-3:]) < trained[0]


def test_every_demo_config_is_trained_here():
    stages = {"vqshapes", "vqshapes-k16", "vqshapes-c4", "vqshapes-video", "spot-shapes-distill"}
    assert {file.stem for file in DEMO.glob("*.py")} - {"_parts"} == FALLS.keys() | stages
