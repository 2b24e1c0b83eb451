"""What the engine does to the memory of its process."""

import subprocess
import sys

import pytest


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is adjusted on Linux only")
def test_freed_memory_is_used_again():
    code = """
import resource, torch
from object_centric_bench.engine import make_accelerator
{}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(8 << 20)  # 32 MiB, 8,192 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(); print(faults())
"""
    commands = [[sys.executable, "-c", code.format(line)] for line in ("", "make_accelerator('cpu', 'no')")]
    outputs = [subprocess.run(each, capture_output=True, check=True, text=True).stdout for each in commands]
    found = [int(output) for output in outputs]
    assert found[0] > 10 * found[1]
