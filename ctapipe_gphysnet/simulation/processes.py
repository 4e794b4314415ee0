"""Runs of a simulation in several processes."""

import itertools
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from ctapipe.core import Provenance, ToolConfigurationError

from .runs import RunSimulator

__all__ = ["simulate_runs"]

REFRESH = 0.5  # s, between looks at how far the processes are
GRACE = 10.0  # s, for a process to stop by itself, which it does between two events


def simulate_runs(simulator, parts, n_events, find_last, processes, advance):
    """Simulate runs until there are enough.

    The runs that are used follow from their own numbers of events, so they do not depend
    on which was finished first.

    Parameters
    ----------
    simulator : RunSimulator
        For one process. Others make their own, from the card in the folder.
    parts : PartsFolder
    n_events : dict of int: int
        Events of the runs that are there, by their numbers. New ones are added.
    find_last : callable
        Number of the last run that is needed, None if there are not enough.
    processes : int
    advance : callable
        Called with the number of new events.

    Returns
    -------
    last : int
        Number of the last run that is needed.

    Raises
    ------
    ctapipe.core.ToolConfigurationError
        If a process dies.
    """
    numbers = itertools.count(simulator.source.run_number)
    missing = (number for number in numbers if number not in n_events)
    if processes == 1:
        while (last := find_last()) is None:
            number = next(missing)
            n_events[number] = simulator(
                number, parts.run_path(number), lambda: advance(1)
            )
        return last
    if (last := find_last()) is not None:
        return last
    simulator.warm_up()  # the processes find the machine code in numba's cache
    with _Pool(simulator, parts, processes) as pool:
        while (last := find_last()) is None:
            while pool.has_room():
                pool.submit(next(missing))
            n_events.update(pool.finished())
            advance(pool.n_new_events())
    return last


class _Pool:
    """Processes that simulate runs; stops them when it is left.

    What they share has no locks: a process that is killed would keep them.
    """

    def __init__(self, simulator, parts, processes):
        context = multiprocessing.get_context("spawn")
        self._stop = context.RawValue("b", 0)
        # events so far; a run counts in a place that no other has at the same time
        self._counters = context.RawArray("q", processes)
        self._places = list(range(processes))
        self._counted = 0
        self._parts = parts
        self._runs = {}
        self._executor = ProcessPoolExecutor(
            processes,
            mp_context=context,
            initializer=_start_process,
            initargs=(parts.card, simulator.processing, self._stop, self._counters),
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._stop.value = 1
        self._executor.shutdown(wait=True, cancel_futures=True)

    def has_room(self):
        """Whether a process would be idle without another run."""
        return bool(self._places)

    def submit(self, number):
        """Have a run simulated."""
        place, path = self._places.pop(), self._parts.run_path(number)
        future = self._executor.submit(_simulate, number, path, place)
        self._runs[future] = number, place

    def finished(self):
        """Events of the runs that were finished meanwhile, by their numbers."""
        done, _ = wait(self._runs, timeout=REFRESH, return_when=FIRST_COMPLETED)
        n_events = {}
        for future in done:
            number, place = self._runs.pop(future)
            self._places.append(place)
            try:
                n_events[number] = future.result()
            except BrokenProcessPool as error:
                raise ToolConfigurationError(
                    "a process that simulates has died: it was killed, perhaps because"
                    " memory ran out (see --processes)"
                ) from error
        return n_events

    def n_new_events(self):
        """How many events there are since the last call."""
        before, self._counted = self._counted, sum(self._counters)
        return self._counted - before


class _Stopped(Exception):
    """The other process wants no more."""


# What follows happens in the processes.

_process = None


class _Process:
    def __init__(self, card, config, stop, counters):
        self._stop = stop
        self._counters = counters
        self._simulator = RunSimulator(card, config=config)

    def simulate(self, number, path, place):
        def advance():
            self._counters[place] += 1
            if self._stop.value:
                raise _Stopped

        return self._simulator(number, path, advance)


def _start_process(card, config, stop, counters):
    global _process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at Ctrl-C the other process says stop
    threading.Thread(target=_watch, args=(stop,), daemon=True).start()
    Provenance().start_activity("gphysnet-simulate")
    _process = _Process(card, config, stop, counters)


def _watch(stop):
    """Leave if the process that started this one is gone, or this one does not stop."""
    parent = multiprocessing.parent_process()
    while parent.is_alive() and not stop.value:
        time.sleep(REFRESH)
    if parent.is_alive():
        time.sleep(GRACE)
    os._exit(1)


def _simulate(number, path, place):
    return _process.simulate(number, path, place)
