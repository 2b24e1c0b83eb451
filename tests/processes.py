"""Runs command lines in one or more processes each, as torchrun does, but forked from this one: imports cost once.

    python -m tests.processes '[[2, "train", ["--cfg_file", ...]], ...]'

A fourth entry is the step in which the last process sends itself SIGUSR1. Prints a line of JSON per command: its
processes' exit codes, and what they wrote to stdout and stderr.
"""

import json
import os
import signal
import socket
import sys
import tempfile
import traceback
from pathlib import Path

import torch

import eval
import train
from object_centric_bench import job  # noqa: F401, so that no process has to import it
from object_centric_bench.learn import loop

SCRIPTS = {"train": train.main, "eval": eval.main}


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def send_signal_in(step):
    take_step = loop.take_step

    def signalled(run, *rest):
        if run.step == step:
            os.kill(os.getpid(), signal.SIGUSR1)
        take_step(run, *rest)

    loop.take_step = signalled


def child(script, arguments, environment, output, stop_at):
    """Run in the forked process; never return."""
    code = 1
    try:
        if stop_at is not None:
            send_signal_in(stop_at)
        file = os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ.update(environment)
        code = SCRIPTS[script](arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def run(folder, count, script, arguments, stop_at=None):
    port, processes = free_port(), []
    for rank in range(count):
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        process = os.fork()
        if process == 0:
            environment = {key: str(value) for key, value in environment.items()} if count > 1 else {}
            child(script, arguments, environment, folder / str(rank), stop_at if rank == count - 1 else None)
        processes.append(process)
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    return {"codes": codes, "output": [(folder / str(rank)).read_text() for rank in range(count)]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for command in json.loads(sys.argv[1]):
        with tempfile.TemporaryDirectory() as temporary:
            print(json.dumps(run(Path(temporary), *command)), flush=True)
