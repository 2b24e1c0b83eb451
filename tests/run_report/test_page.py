"""The report of a run: what it says, and that a browser without network draws it."""

import html
import html.parser
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from object_centric_bench.registry import ConfigError
from object_centric_bench.run_report import curves, examples, files, page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CONFIG = {
    "model": {"type": "DINOSAUR"},
    "dataset": {"eval": {"file": "shapes/val.lmdb"}},
    "total_steps": 200,
    "loss": {"recon": {"type": "MSE"}},
    "optimizer": {"lr": 0.001},
}


@pytest.fixture
def folder(tmp_path):
    """What a run of 200 steps leaves behind."""
    run = tmp_path / "save" / "dinosaur-shapes" / "42"
    (run / "eval").mkdir(parents=True)
    rows = []
    for step in range(10, 201, 10):
        health = {"slots/effective": 5.0, "slots/dead": 1.0, "slots/attention_entropy": 0.5}
        rows.append(
            {"split": "train", "step": step, "loss/recon": 1 / step, "lr": 1e-3, "grad_norm/decoder": 0.1, **health}
        )
        if step % 50 == 0:
            rows.append({"split": "eval", "step": step, "recon": 0.9 / step, "mbo": step / 400, "excluded": {"mbo": 1}})
    rows[3]["loss/recon"] = None
    (run / "log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows) + '{"cut')
    timing = [
        {"step": 100, "seconds_per_step": 0.25, "seconds": {"training steps": 60, "evaluation": 12}},
        {"step": 200, "seconds": {"training steps": 30, "evaluation": 18}},
    ]
    (run / "timing.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in timing))
    (run / "config.json").write_text(json.dumps(CONFIG))
    (run / "env.json").write_text(
        json.dumps({"seed": 42, "command": ["train.py", "</script><b>x"], "git_commit": 10 * "0123456789"})
    )
    images = [{"index": k, "id": f"scene-{k}", "mbo": k / 30 if k != 7 else None} for k in range(30)]
    result = {"step": 150, "num_images": 30, "scores": {"ari": 0.5, "mbo": 0.432, "recon": 0.1}, "excluded": {"mbo": 1}}
    (run / "eval" / "eval.json").write_text(json.dumps({**result, "images": images, "config": CONFIG}))
    return run


def some_examples(count=6):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (count, 48, 64, 3)).astype(np.uint8)
    cells = [(f"slot {k}", examples.url(picture)) for k, picture in enumerate(pictures)]
    return [examples.Example("best", "scene-29: mBO 96.7", cells), examples.Example("worst", "scene-0", cells, 3)]


class Structure(html.parser.HTMLParser):
    """Checks that tags are closed in order, and collects what would be fetched."""

    def __init__(self):
        super().__init__()
        self.open, self.links = [], []

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset")]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(folder):
    text = page.page(files.read(folder), some_examples(), "", None)
    structure = Structure()
    structure.feed(text)
    assert not structure.open
    assert structure.links and all(link.startswith("data:") for link in structure.links)
    assert not re.search(r"(https?:)?//(?!www\.w3\.org/2000/svg)[a-z]", text.replace("data:image", "")), "no address"
    assert text.count("</script>") == 2, "text of the run ends no script"
    assert "<b>43.2</b>mBO" in text and "best checkpoint (step 150), 30 samples" in text
    assert "0.250 s per step" in text and "&lt;b&gt;x" in text


def test_the_time_of_a_run_is_divided(folder):
    text = page.seconds(files.read(folder))
    rows = re.findall(r"<tr><td>(.*?)</td><td.*?>(.*?)</td><td.*?>(.*?)</td></tr>", text)
    assert rows == [("training steps", "1.5", "75 %"), ("evaluation", "0.5", "25 %")]
    assert "--profile 50" in text
    (folder.parent / "42-profile").mkdir()
    (folder.parent / "42-profile" / "profile.txt").write_text("backward <b> 10 ms")
    assert "backward &lt;b&gt; 10 ms" in page.seconds(files.read(folder))


def test_curves_leave_out_what_is_no_number_and_keep_the_last_point(folder):
    drawn = curves.panels(files.read(folder))
    loss = {line["name"]: line for line in drawn["Loss"]}
    assert len(loss["loss/recon"]["x"]) == 19 and loss["eval:loss/recon"]["x"] == [50, 100, 150, 200]
    assert [line["name"] for line in drawn["Scores"]] == ["eval:mbo"]
    assert {line["name"] for line in drawn["Slots"]} == {"slots/effective", "slots/dead"}
    assert set(drawn) == {
        "Loss", "Scores", "Slots", "Attention's entropy", "Gradient norms", "Schedules", "Seconds per step",
    }  # fmt: skip
    long = curves.line("loss", list(range(10_001)), [0.5] * 10_001)
    assert len(long["x"]) <= curves.MOST + 1 and long["x"][-1] == 10_000


def test_best_middle_and_worst_are_chosen_by_score_and_none_twice(folder):
    groups = examples.choose(files.read(folder).result["images"], "mbo", count=2)
    assert {name: [row["index"] for row in rows] for name, rows in groups.items()} == {
        "best": [29, 28], "middle": [16, 15], "worst": [1, 0],
    }  # fmt: skip
    few = examples.choose([{"index": 0, "mbo": 0.5}, {"index": 1, "mbo": 0.2}], "mbo")
    assert sorted(row["index"] for rows in few.values() for row in rows) == [0, 1]


def under(headline, **scores):
    return {"card": {"protocol": "name"}, "headline": headline, "scores": scores, "excluded": {}}


def test_protocols_that_were_scored_after_training_are_shown_side_by_side(folder):
    own = json.loads((folder / "eval" / "eval.json").read_text())
    own |= {"checkpoint_sha256": "abc", "protocols": {"vvo": under("attention", attention={"ari": 0.5, "mbo": 0.25})}}
    (folder / "eval" / "eval.json").write_text(json.dumps(own))
    later = own | {"protocols": {"spot": under("mask", attention={"mbo_i": 0.125}, mask={"mbo_i": 0.75})}}
    file = folder / "best" / "eval" / "eval.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(later))
    text = page.scores(files.read(folder))
    assert "<th>score</th><th class=number>slot attention</th><th class=number>decoder masks (to quote)</th>" in text
    rows = re.findall("<tr>(<td>.*?)</tr>", text.partition("Under all protocols")[2].partition("</table>")[0])
    cells = [re.findall("<td.*?>(.*?)</td>", row) for row in rows]
    assert cells == [["vvo", "0.5000", "0.2500", ""], ["spot", "", "", "0.7500"]]
    file.write_text(json.dumps(later | {"checkpoint_sha256": "of other weights"}))
    assert list(files.read(folder).result["protocols"]) == ["vvo"]
    (folder / "eval" / "eval.json").unlink()
    assert list(files.read(folder).result["protocols"]) == ["spot"]


def test_difference_to_a_parent_is_shown(folder):
    parent = {**CONFIG, "optimizer": {"lr": 0.5}}
    text = page.page(files.read(folder), [], "no data here", ("base.py", parent))
    assert "2 lines differ against base.py" in text and "+ optimizer.lr = 0.001" in text
    assert "no data here" in text


def test_what_is_no_run_folder_or_damaged_is_named(folder, tmp_path):
    with pytest.raises(ConfigError, match="no run folder"):
        files.read(tmp_path)
    (folder / "env.json").write_text("{")
    with pytest.raises(ConfigError, match=r"env\.json is no valid JSON"):
        files.read(folder)


@pytest.mark.slow
@pytest.mark.parametrize("width, dark", [(390, False), (1280, True)], ids=["phone", "desktop"])
def test_a_browser_without_network_draws_pictures_and_curves(folder, tmp_path, width, dark):
    if CHROMIUM is None:
        if os.environ.get("OCL_REQUIRE_DATA") == "1":
            pytest.fail("no Chromium in CI: .ci/run installs Debian's chromium")
        pytest.skip("no Chromium is installed")
    probe = """<script>window.addEventListener("load", () => setTimeout(() => {
      const drawn = [...document.querySelectorAll(".chart")].map((box) => box.querySelectorAll("path.line").length);
      const pictures = [...document.images].filter((image) => image.complete && image.naturalWidth > 0).length;
      const svg = document.querySelector(".chart svg"), bounds = svg.getBoundingClientRect();
      const at = {clientX: bounds.left + bounds.width / 2, clientY: bounds.top + 9};
      svg.dispatchEvent(new PointerEvent("pointermove", at));
      const hovered = [...svg.querySelectorAll(".value")].map((text) => text.textContent);
      const colours = [...document.querySelectorAll(".chart")].slice(0, 1).flatMap((box) =>
        [...box.querySelectorAll("path.line")].map((line) =>
          ["stroke", "stroke-dasharray"].map((name) => line.getAttribute(name))));
      const clipped = [...document.querySelectorAll(".wide")].filter((box) => box.scrollWidth > box.clientWidth).length;
      const rows = [...document.querySelectorAll(".strip")].map((strip) =>
        [...strip.children].map((cell) => cell.getBoundingClientRect().top));
      const behind = svg.querySelector(".behind").getBoundingClientRect();
      const covered = [...svg.querySelectorAll(".value")].every((text) => {
        const own = text.getBoundingClientRect();
        const inside = behind.left <= own.left && own.right <= behind.right;
        return inside && behind.top <= own.top + 1 && own.bottom <= behind.bottom + 1;
      });
      const overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
      const found = {drawn, pictures, hovered, overflow, colours, covered, rows, clipped};
      document.body.dataset.found = JSON.stringify(found);
    }, 300));</script></body>"""
    file = tmp_path / "report.html"
    text = page.page(files.read(folder), some_examples(), "", None).replace('loading="lazy"', "")
    file.write_text(text.replace("</body>", probe))
    shot = tmp_path / "shot.png"
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=4000", f"--window-size={width},1400",
        f"--user-data-dir={tmp_path / 'profile'}", *(["--force-dark-mode"] if dark else []),
    ]  # fmt: skip
    dumped = subprocess.run(
        [*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', dumped.stdout)[1]))
    assert len(found["drawn"]) == 7 and all(found["drawn"]), "every panel has a line"
    assert found["pictures"] == 12
    assert found["hovered"][0].startswith("step ") and len(found["hovered"]) == 3
    assert found["covered"], "values are read before the lines, not among them"
    assert found["clipped"] == 0, "long texts are broken, no table of few columns is cut off"
    tops = found["rows"][1]
    assert tops[0] == tops[2] < tops[3] == tops[5], "three frames of a video stand side by side, the next below"
    (colour, line), (same, dashes) = found["colours"]
    assert colour == same and line == "none" and dashes != "none", "an evaluation is the dashed twin of training"
    assert found["overflow"] <= 0, "nothing is wider than the page"
    assert "CONSOLE" not in dumped.stderr, dumped.stderr
    subprocess.run([*command, f"--screenshot={shot}", file.as_uri()], capture_output=True, timeout=120, check=True)
    assert np.asarray(Image.open(shot).convert("L")).std() > 5
