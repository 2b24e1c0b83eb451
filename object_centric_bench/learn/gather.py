"""The processes of one run, one per device: what each of them knows is brought together here and nowhere else."""

from typing import Any

import torch
import torch.distributed as dist


class Processes:
    """The processes of a run; by default there is only this one, and nothing below communicates.

    Numbers travel as Python objects over a group of CPUs (gloo), so that no call waits for a GPU.

    Args:
        rank: number of this process; 0 is the main one, which writes all files.
        count: number of processes.
        group: the group over which they talk; None with one process.
    """

    def __init__(self, rank: int = 0, count: int = 1, group: Any = None):
        self.rank, self.count, self.group = rank, count, group

    @classmethod
    def started(cls) -> "Processes":
        """Return the processes that a launcher started and Accelerate connected; all of them call this together."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo"))

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return the values that all processes give, by rank, to each of them; all must call it."""
        if self.count == 1:
            return [value]
        values = [None] * self.count
        dist.all_gather_object(values, value, group=self.group)
        return values

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.count > 1:
            dist.barrier(group=self.group)


class Agreement:
    """Lets processes act together upon what one of them alone has noticed: a signal, a clock.

    With one process the answer is its own. Else each call hands over the present wish and returns what was wished at
    the call before by any process: the message travels while a step is computed, so no step waits for it.
    """

    def __init__(self, processes: Processes):
        self.processes = processes
        self.sent: tuple[torch.Tensor, Any] | None = None

    def __call__(self, wish: bool) -> bool:
        """Return whether to act now; all processes must call it equally often and get the same answer."""
        if self.processes.count == 1:
            return wish
        agreed = False
        if self.sent is not None:
            flag, work = self.sent
            work.wait()
            agreed = bool(flag)
        flag = torch.tensor(int(wish), dtype=torch.uint8)
        self.sent = flag, dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.processes.group, async_op=True)
        return agreed
