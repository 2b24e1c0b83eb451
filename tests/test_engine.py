"""Memory of a process: commands keep what was freed, the library leaves that of others alone."""

import subprocess
import sys
from argparse import Namespace

import pytest

from object_centric_bench import job

LINES = ("", "make_accelerator('cpu', 'no')", "keep_freed_memory('cpu')")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is adjusted on Linux only")
def test_freed_memory_is_used_again_where_a_command_asks_for_it():
    code = """
import resource, torch
from object_centric_bench.engine import keep_freed_memory, make_accelerator
{}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(8 << 20)  # 32 MiB, 8,192 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(); print(faults())
"""
    commands = [[sys.executable, "-c", code.format(line)] for line in LINES]
    outputs = [subprocess.run(each, capture_output=True, check=True, text=True).stdout for each in commands]
    usual, library, command = (int(output) for output in outputs)
    assert usual > 10 * command
    assert library > 10 * command


@pytest.mark.parametrize("command", [job.train_command, job.eval_command])
def test_commands_ask_for_it_first(command, monkeypatch):
    class Asked(Exception):
        pass

    def ask(device):
        assert device == "cpu"
        raise Asked

    monkeypatch.setattr(job, "keep_freed_memory", ask)
    with pytest.raises(Asked):
        command(Namespace(device="cpu"))
