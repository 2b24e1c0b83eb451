"""Scores of many runs: read them, take mean and deviation over seeds, write the table that a paper has."""

import csv
import io
import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..registry import ConfigError
from .plan import Job
from .published import SCORES, source

METRICS = {"ari": "ARI", "ari_fg": "ARI_fg", "mbo": "mBO", "miou": "mIoU"}
PERCENT = 100  # papers print scores in per cent


@dataclass(frozen=True)
class Cell:
    """A score over seeds, in per cent.

    Attributes:
        mean: over the seeds.
        deviation: sample standard deviation over the seeds, None of a single one.
        count: number of seeds.
    """

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: list[float]) -> "Cell":
        """Return the cell of one score per seed, 0..1 each."""
        values = [PERCENT * value for value in values]
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    def text(self, sign: str) -> str:
        """Return mean and deviation with one decimal, `sign` between them."""
        return f"{self.mean:.1f}" + ("" if self.deviation is None else f"{sign}{self.deviation:.1f}")


@dataclass(frozen=True)
class Table:
    """Rows of methods, columns of dataset and metric.

    Attributes:
        columns: (dataset, metric).
        rows: name of a method -> its cells; those it lacks are missing.
        notes: lines to stand below.
    """

    columns: list[tuple[str, str]]
    rows: dict[str, dict[tuple[str, str], Cell]]
    notes: list[str]

    def is_best(self, column: tuple[str, str], cell: Cell) -> bool:
        """Tell whether no other cell of the column is larger, at the one decimal that is printed."""
        means = [row[column].mean for row in self.rows.values() if column in row]
        return len(means) > 1 and f"{cell.mean:.1f}" == f"{max(means):.1f}"


def read(job: Job, save_dir: Path) -> dict:
    """Return the `eval.json` of a run.

    Raises:
        ConfigError: it is missing or damaged.
    """
    file = job.folder(save_dir) / "eval" / "eval.json"
    try:
        return json.loads(file.read_text())
    except OSError as error:
        raise ConfigError(f"{file}: no scores of {job} ({error.strerror}); train and score it first") from error
    except ValueError as error:
        raise ConfigError(f"{file} is no valid JSON ({error}); score the run again") from error


def table(jobs: Iterable[Job], save_dir: Path, published: bool = False) -> Table:
    """Return the table of all scored runs.

    Args:
        jobs: those without scores yet are left out, and a note says so.
        save_dir: folder of the runs.
        published: put the authors' scores beside ours, where there are some.
    """
    values: dict[str, dict[tuple[str, str], list[float]]] = {}
    notes: list[str] = []
    datasets: list[str] = []
    stems: dict = {}
    for job in jobs:
        if not job.scored:
            continue
        if not (job.folder(save_dir) / "eval" / "eval.json").is_file():
            notes.append(f"{job}: no scores yet")
            continue
        result = read(job, save_dir)
        dataset = dataset_of(result["config"])
        datasets.append(dataset)
        name = method_of(job.name, dataset)
        stems.setdefault((name, dataset), job.name)
        row = values.setdefault(name, {})
        for metric in METRICS:
            if result["scores"].get(metric) is not None:
                row.setdefault((dataset, metric), []).append(result["scores"][metric])
    columns = [(dataset, metric) for dataset in dict.fromkeys(datasets) for metric in METRICS]
    rows: dict[str, dict[tuple[str, str], Cell]] = {}
    for name, row in values.items():
        rows[name] = {column: Cell.of(numbers) for column, numbers in row.items()}
        if published:
            known = {
                (dataset, metric): Cell(score, None, 0)
                for (method, dataset), stem in stems.items()
                if method == name and stem in SCORES
                for metric, score in zip(METRICS, SCORES[stem], strict=True)
            }
            if known:
                rows[f"{name}, published"] = known
    counts = sorted({cell.count for row in rows.values() for cell in row.values() if cell.count})
    if counts:
        seeds = " or ".join(map(str, counts))
        notes.insert(0, f"Per cent; mean ± standard deviation over {seeds} seeds; the best of a column in bold.")
    shown = [stem for stem in stems.values() if published and stem in SCORES]
    notes += [f"Published: {text}" for text in dict.fromkeys(map(source, shown))]
    if published and not shown:
        notes.append("Published: none are known here for these configs.")
    return Table(columns, rows, notes)


def dataset_of(cfg: dict) -> str:
    """Return the name of the dataset that a config is scored on: the folder of its file."""
    return Path(cfg["dataset"]["eval"]["file"]).parent.name


def method_of(name: str, dataset: str) -> str:
    """Return a config's name without the dataset: runs of one method on several datasets share a row."""
    return name.replace(f"-{dataset}", "", 1)


def markdown(table: Table) -> str:
    """Return the table as Markdown."""
    head = ["method", *(f"{dataset} {METRICS[metric]}" for dataset, metric in table.columns)]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * len(table.columns)}"]
    for name, row in table.rows.items():
        cells = []
        for column in table.columns:
            text = row[column].text(" ± ") if column in row else "-"
            cells.append(f"**{text}**" if column in row and table.is_best(column, row[column]) else text)
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join([*lines, "", *table.notes]) + "\n"


def latex(table: Table) -> str:
    """Return the table as LaTeX (package booktabs)."""
    datasets = list(dict.fromkeys(dataset for dataset, _ in table.columns))
    width = len(METRICS)
    heads = [f"\\multicolumn{{{width}}}{{c}}{{{escape(dataset)}}}" for dataset in datasets]
    rules = [f"\\cmidrule(lr){{{2 + width * k}-{1 + width * (k + 1)}}}" for k in range(len(datasets))]
    lines = [
        f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        "\\toprule",
        f" & {' & '.join(heads)} \\\\",
        " ".join(rules),
        f"method & {' & '.join(escape(METRICS[metric]) for _, metric in table.columns)} \\\\",
        "\\midrule",
    ]
    for name, row in table.rows.items():
        cells = []
        for column in table.columns:
            text = row[column].text("$\\pm$") if column in row else "--"
            cells.append(f"\\textbf{{{text}}}" if column in row and table.is_best(column, row[column]) else text)
        lines.append(f"{escape(name)} & {' & '.join(cells)} \\\\")
    notes = [f"% {line}" for note in table.notes for line in note.splitlines()]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *notes]) + "\n"


def escape(text: str) -> str:
    """Return text for LaTeX, its special characters escaped."""
    return "".join(f"\\{character}" if character in "_%&#$" else character for character in text)


def comma_separated(table: Table) -> str:
    """Return the table as CSV, one line per method, dataset and metric, with all digits."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["method", "dataset", "metric", "mean", "standard_deviation", "seeds"])
    for name, row in table.rows.items():
        for dataset, metric in table.columns:
            if (dataset, metric) in row:
                cell = row[dataset, metric]
                deviation = "" if cell.deviation is None else repr(cell.deviation)
                writer.writerow([name, dataset, metric, repr(cell.mean), deviation, cell.count])
    return file.getvalue()
