"""From a config and names to scores under protocols: which labels are read, what is refused, what is written."""

import json

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import adjusted_rand_score

import eval as eval_script
from object_centric_bench import config
from object_centric_bench.datum import moving_shapes, shapes
from object_centric_bench.datum.labels import WithLabels
from object_centric_bench.datum.lmdb import Reader
from object_centric_bench.evaluation import build_labelled, choose, labelled
from object_centric_bench.experiment import Settings, build_run, complete
from object_centric_bench.learn.protocol import PROTOCOLS
from object_centric_bench.learn.report import evaluate_and_report
from object_centric_bench.registry import ConfigError

from .conftest import REPOSITORY
from .datum.stores import published


def cfg_of(name, *overrides):
    return complete(config.load(REPOSITORY / f"{name}.py", list(overrides)))


COCO, VOC = "config-spot/spot_r-coco", "config-vqdino/vqdino_tfd_r-voc"
MOVI, SHAPES = "config-videosaur/videosaur_r-movi_c", "config-demo/dinosaur-shapes"


def test_vvo_is_what_a_config_without_a_section_is_scored_by():
    (plan,) = choose(cfg_of(SHAPES))
    assert plan.protocol is PROTOCOLS["vvo"]
    assert (plan.segment, plan.semantic, plan.ignored) == ("segment", None, ())
    assert labelled(cfg_of(SHAPES)["dataset"]["eval"], [plan]) == (cfg_of(SHAPES)["dataset"]["eval"], [])


def test_stage_1_has_no_protocol():
    cfg = cfg_of("config-vqdino/vqdino-coco-c256")
    assert choose(cfg) == []
    with pytest.raises(ConfigError, match="--protocol: this config scores no segmentations"):
        choose(cfg, ["vvo"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (COCO, ["vvo", "legacy_int64", "msf", "savi", "spot", "videosaur", "videosaur_frames", "strict"]),
        (VOC, ["vvo", "legacy_int64", "msf", "savi", "spot", "videosaur", "videosaur_frames", "strict"]),
        (MOVI, ["vvo", "legacy_int64", "savi", "spot", "videosaur", "videosaur_frames", "davis", "strict"]),
        (SHAPES, ["vvo", "legacy_int64", "savi", "spot", "videosaur", "videosaur_frames", "strict"]),
    ],
)
def test_all_are_those_that_the_dataset_allows(name, expected):
    assert [plan.protocol.name for plan in choose(cfg_of(name), ["all"])] == expected


def test_labels_of_coco():
    evaluated = cfg_of(COCO)["dataset"]["eval"]
    spot, strict, msf = choose(cfg_of(COCO), ["spot", "strict", "msf"])
    assert (spot.segment, spot.semantic, spot.ignored) == ("segment@320", "semantic@320", ())
    assert spot.scores == ("ari_fg", "mbo_i", "mbo_c", "miou_fg")
    assert spot.facts["overlap"] == "none: panoptic segments do not overlap"
    assert strict.ignored == ("crowd", "unlabelled")
    assert (msf.segment, msf.ignored, msf.unclaimed) == ("segment", (), ("unlabelled",))
    section, further = labelled(evaluated, [spot, strict, msf])
    assert further == ["segment@320", "semantic@320"]
    assert section["keys"] == [*evaluated["keys"], "semantic", "crowd", "unlabelled"]
    assert section["transforms"] == evaluated["transforms"]  # the new maps are made of the segments
    assert evaluated == cfg_of(COCO)["dataset"]["eval"]


def test_labels_of_voc_are_cropped_and_resized_like_the_segments():
    evaluated = cfg_of(VOC)["dataset"]["eval"]
    (strict,) = choose(cfg_of(VOC), ["strict"])
    assert strict.ignored == ("ignore",)
    section, further = labelled(evaluated, [strict])
    assert not further
    assert set(section["keys"]) == {"image", "segment", "ignore", "semantic"}
    for before, after in zip(evaluated["transforms"], section["transforms"], strict=True):
        assert {"ignore", "semantic"} <= set(after["keys"]) or "segment" not in before["keys"]


def test_labels_of_the_wanted_size_are_not_read_twice():
    (plan,) = choose(cfg_of("config-spot/spot_r-coco-paper"), ["spot"])
    assert (plan.segment, plan.semantic) == ("segment", "semantic")


def test_videos_have_sizes_of_their_own():
    spot, davis = choose(cfg_of(MOVI), ["spot", "davis"])
    assert spot.segment == "segment@128"
    assert spot.scores == ("ari_fg", "mbo_i", "miou_fg")  # without classes
    assert davis.segment == "segment"


@pytest.mark.parametrize(
    ("name", "protocols", "message"),
    [
        (SHAPES, ["vvo", "spott"], r"--protocol: no 'spott'; did you mean 'spot'\?"),
        (SHAPES, ["davis"], "--protocol davis: it scores videos, the dataset has images"),
        (SHAPES, ["msf", "davis"], r"(?s)msf: Shapes has no unlabelled pixels \(none: rendered.*davis: it scores"),
    ],
)
def test_protocols_that_cannot_be_used_are_all_named(name, protocols, message):
    with pytest.raises(ConfigError, match=message):
        choose(cfg_of(name), protocols)


def test_a_config_names_and_describes_protocols():
    own = dict(type="Protocol", name="half", scores=["mbo"], size=64)
    cfg = complete(config.load(REPOSITORY / f"{SHAPES}.py") | {"protocol": ["savi", own]})
    savi, half = choose(cfg)
    assert savi.protocol is PROTOCOLS["savi"]
    assert (half.protocol.scores, half.segment) == (("mbo",), "segment@64")
    assert [plan.protocol.name for plan in choose(cfg, ["half", "vvo", "half"])] == ["half", "vvo"]
    wrong = config.load(REPOSITORY / f"{SHAPES}.py") | {"protocol": ["vov", own | dict(scores=1), dict(type="Adam")]}
    with pytest.raises(ConfigError) as caught:
        complete(wrong)
    for message in (
        "protocol.0: no protocol 'vov'; did you mean 'vvo'?",
        "protocol.1.scores: Protocol wants",
        "protocol.2.type: 'Protocol' is wanted",
    ):
        assert message in str(caught.value)
    with pytest.raises(ConfigError, match=r"protocol: a list of names such as \['vvo'\], not 'vvo'"):
        complete(config.load(REPOSITORY / f"{SHAPES}.py") | {"protocol": "vvo"})


@pytest.mark.parametrize("after", [True, False])
def test_overrides_may_stand_before_and_after_names(after):
    fixed = ["--ckpt_file", "x", "--data_dir", "d"]
    names = ["--protocol", "vvo", "spot"]
    options = eval_script.parse([*fixed, *names, "a.b=1"] if after else ["a.b=1", *names, *fixed])
    assert (options.protocol, options.overrides) == (["vvo", "spot"], ["a.b=1"])
    assert eval_script.parse(fixed).protocol is None


def test_names_must_follow(capsys):
    with pytest.raises(SystemExit):
        eval_script.parse(["--ckpt_file", "x", "--data_dir", "d", "--protocol", "a.b=1"])
    assert "--protocol wants a name" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- one evaluation


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    shapes.convert(folder / "shapes", num_train=4, num_val=7, size=64)
    moving_shapes.convert(folder / "moving_shapes", num_train=2, num_val=3)
    return Settings(folder, folder / "save", seed=1, device="cpu")


def evaluated(cfg, settings, folder, names):
    """Return what `eval.json` holds, and the run."""
    plans = choose(cfg, names)
    run = build_run(cfg, settings, None, plans=plans)
    evaluate_and_report(run, folder, 0, {}, plans)
    return json.loads((folder / "eval.json").read_text()), run


@pytest.fixture(scope="module")
def scored(settings, tmp_path_factory):
    cfg = cfg_of(SHAPES, "batch_size=3") | {"cache_feature": False}
    folder = tmp_path_factory.mktemp("eval")
    plain, _ = evaluated(cfg, settings, folder, [])
    names = ["vvo", "legacy_int64", "spot", "videosaur", "strict"]
    return plain, *evaluated(cfg, settings, folder, names)


def test_scores_of_the_config_do_not_depend_on_protocols(scored):
    plain, written, run = scored
    assert written["scores"] == plain["scores"] and written["excluded"] == plain["excluded"]
    assert set(plain["scores"]) == {"recon", "ari", "ari_fg", "mbo", "miou", "mbo_fg", "miou_fg"}
    assert run.result == written["scores"]
    assert plain["protocols"] == {}
    for before, after in zip(plain["images"], written["images"], strict=True):
        assert {**before} == {key: value for key, value in after.items() if key != "protocols"}
    vvo = written["protocols"]["vvo"]
    assert vvo["scores"][vvo["headline"]] == pytest.approx(
        {name: plain["scores"][name] for name in vvo["scores"]["mask"]}
    )


def test_every_result_has_its_card_and_all_masks(scored):
    _, written, _ = scored
    assert written["card"]["rules of"] == "the config's `metric` section"
    assert written["card"]["size"].startswith("128 x 128")
    for name, result in written["protocols"].items():
        assert result["card"]["protocol"] == name
        assert list(result["scores"]) == list(result["excluded"]) == ["attention", "mask"]
        wanted = [score for score in PROTOCOLS[name].scores if score != "mbo_c"]  # the demo has no classes
        assert all(list(scores) == wanted for scores in (*result["scores"].values(), *result["excluded"].values()))
        assert result["headline"] == "mask"
    assert written["protocols"]["spot"]["card"]["size"].startswith("320 x 320")
    spot = [row["protocols"]["spot"]["mask"]["mbo_i"] for row in written["images"]]
    assert np.mean(spot) == pytest.approx(written["protocols"]["spot"]["scores"]["mask"]["mbo_i"])


@torch.no_grad()
def test_spot_equals_a_calculation_from_the_stored_labels(scored, settings):
    """Labels from the file, resized by their centres; masks by PyTorch; scores by sets of pixels and scikit-learn."""
    _, written, run = scored
    reader = Reader(settings.data_dir / "shapes/val.lmdb")
    place = ((np.arange(320) + 0.5) * 64 / 320).astype(int)
    position = 0
    run.model.eval()
    for batch in run.eval_batches():
        for transform in run.batch_transforms:
            batch = transform(batch)
        torch.manual_seed(0)
        with run.accelerator.autocast():
            output = run.model(batch["image"])
        for kind in ("attention", "mask"):
            found = F.interpolate(output[kind].float(), size=(320, 320), mode="bilinear").argmax(1).numpy()
            for offset, prediction in enumerate(found):
                truth = reader.read(position + offset)["segment"][np.ix_(place, place)]
                ours = written["images"][position + offset]["protocols"]["spot"][kind]
                front = truth > 0
                assert ours["ari_fg"] == pytest.approx(adjusted_rand_score(truth[front], prediction[front]), abs=1e-9)
                best = [
                    max(
                        ((truth == each) & (prediction == slot)).sum() / ((truth == each) | (prediction == slot)).sum()
                        for slot in np.unique(prediction)
                    )
                    for each in np.unique(truth[front])
                ]
                assert ours["mbo_i"] == pytest.approx(np.mean(best), abs=1e-9)
        position += len(batch["index"])
    assert position == 7


def test_legacy_int64_is_the_mean_of_batches_means(scored):
    """At 128 x 128 nothing overflows; images in batches of 3, 3 and 1."""
    _, written, _ = scored
    for kind in ("attention", "mask"):
        values = [row["protocols"]["legacy_int64"][kind]["mbo"] for row in written["images"]]
        means = [np.mean(values[start : start + 3]) for start in (0, 3, 6)]
        assert written["protocols"]["legacy_int64"]["scores"][kind]["mbo"] == pytest.approx(np.mean(means))
        assert written["protocols"]["vvo"]["scores"][kind]["mbo"] == pytest.approx(np.mean(values))


def test_videos_have_all_protocols(settings, tmp_path, capsys):
    cfg = cfg_of("config-demo/videosaur-shapes", "batch_size=2") | {"cache_feature": False}
    written, _ = evaluated(cfg, settings, tmp_path, ["all"])
    assert set(written["protocols"]) == {
        "vvo", "legacy_int64", "savi", "spot", "videosaur", "videosaur_frames", "davis", "strict"
    }  # fmt: skip
    davis = written["protocols"]["davis"]
    for kind, scores in davis["scores"].items():
        rows = [row["protocols"]["davis"][kind] for row in written["images"]]
        assert scores["jf"] == pytest.approx((scores["j"] + scores["f"]) / 2)
        assert all(0 < row["jf"] < 1 for row in rows)
    assert davis["card"]["mean over"] == "objects" and davis["card"]["unit"] == "each video"
    frames, video = (written["protocols"][name]["scores"]["mask"] for name in ("videosaur_frames", "videosaur"))
    assert frames["mbo_fg"] > video["mbo_fg"]  # slots need not keep their object
    shown = capsys.readouterr().out
    assert "protocol davis" in shown and "J&F" in shown and "CorLoc: each frame" in shown
    lines = shown[shown.index("masks to quote, under all protocols") :].splitlines()
    place = lines[1].split().index("J&F") - len(lines[1].split())
    row = next(line for line in lines if line.startswith("davis "))
    assert row.split()[place] == f"{davis['scores'][davis['headline']]['jf']:.4f}"


def test_further_labels_are_read_only_where_a_protocol_wants_them(settings):
    cfg = cfg_of(SHAPES)
    plain = build_labelled(cfg["dataset"]["eval"], choose(cfg), settings.data_dir)
    assert not isinstance(plain, WithLabels)
    more = build_labelled(cfg["dataset"]["eval"], choose(cfg, ["vvo", "spot"]), settings.data_dir)
    rng = np.random.default_rng(0)
    assert set(more.sample(0, rng)) - set(plain.sample(0, rng)) == {"segment@320"}


def test_a_protocol_that_the_file_cannot_serve_says_how_to_make_it(tmp_path):
    """A published VOC file has no classes."""
    label = np.zeros((20, 20), np.uint8)
    encoded = cv2.imencode(".png", np.zeros((20, 20, 3), np.uint8))[1].tobytes()
    (tmp_path / "voc").mkdir()
    for split in ("train", "val"):
        record = {"image": encoded, "segment": cv2.imencode(".png", label)[1].tobytes()}
        published(tmp_path / "voc" / f"{split}.lmdb", [record])
    cfg = cfg_of(VOC, "dataset.eval.labels='border0'")
    with pytest.raises(ConfigError) as caught:
        build_labelled(cfg["dataset"]["eval"], choose(cfg, ["spot"]), tmp_path)
    assert "val.lmdb is a published file without 'semantic'" in str(caught.value)
    assert "python convert.py voc" in str(caught.value)
