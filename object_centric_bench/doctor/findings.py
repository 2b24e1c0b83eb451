"""What a check found: facts, warnings and faults, told as they come."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tqdm import tqdm

from ..datum.record import DataError
from ..learn.checkpoint import CheckpointError
from ..learn.run import TrainingStopped
from ..model.weights import WeightsError
from ..registry import ConfigError

ERRORS = (ConfigError, DataError, CheckpointError, WeightsError, TrainingStopped, ValueError)


@dataclass
class Findings:
    """What was found; every line is printed as it comes, above the bar of a terminal.

    Attributes:
        progress: a bar over the sections; one that never shows if none is given.
        section: the title of the one in progress.
        faults: what keeps the run from working, or makes its results wrong.
        warnings: what the user should know.
    """

    progress: tqdm = field(default_factory=lambda: tqdm(disable=True))
    section: str = ""
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def expect(self, sections: int) -> None:
        """Tell the bar that so many more sections will come."""
        self.progress.total = (self.progress.total or 0) + sections

    def head(self, title: str) -> None:
        """Begin a section; the one before is done."""
        if self.section:
            self.progress.update()
        self.section = title
        self.progress.set_postfix_str(title)
        tqdm.write(f"\n{title}")

    def say(self, text: str) -> None:
        """Tell a fact."""
        tqdm.write(f"  {text}")

    def warn(self, text: str) -> None:
        """Tell something to know."""
        self.warnings.append(text)
        tqdm.write(f"  WARNING  {text}")

    def fault(self, text: str) -> None:
        """Tell something to set right, once: what several sections stumble over is one fault."""
        if text in self.faults:
            return
        self.faults.append(text)
        tqdm.write(f"  FAULT    {text}")

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Turn the errors that a run would end with into faults, and go on after the block."""
        try:
            yield
        except ERRORS as error:
            self.fault(one_line(str(error)))


def one_line(text: str) -> str:
    """Return a message of several lines as one."""
    first, *rest = (line.strip() for line in text.splitlines())
    return f"{first}{' ' if first.endswith(':') else '; '}{'; '.join(rest)}" if rest else first
