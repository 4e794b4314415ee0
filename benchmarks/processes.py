"""Training in several processes of one thread each, as by gphysnet-train --devices."""

import os
import socket
from contextlib import contextmanager

import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def training_in_processes(make_step, number):
    """A function that takes a step of the optimizer in several processes.

    Parameters
    ----------
    make_step : callable
        A module's function, for it is called in each process, with a function that wraps
        the network; returns the images of a step and a function that takes it.
    number : int

    Yields
    ------
    call : callable
        Returns when all processes have taken the step.
    """
    context = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes, processes = [], []
    for rank in range(number):
        here, there = context.Pipe()
        process = context.Process(
            target=_work, args=(there, make_step, rank, number, port), daemon=True
        )
        process.start()
        there.close()  # so that the end of the process is the end of the pipe
        pipes.append(here)
        processes.append(process)

    def call():
        for pipe in pipes:
            pipe.send(None)
        for pipe in pipes:
            pipe.recv()

    try:
        yield call
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _work(pipe, make_step, rank, number, port):
    """Take a step whenever asked to."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=number)
    _, step = make_step(DistributedDataParallel)
    while True:
        pipe.recv()
        step()
        pipe.send(None)
