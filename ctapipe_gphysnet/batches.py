"""Batches of events to train on: their order, random changes, and preparation.

All that is random about a batch follows from the seed, the epoch and the batch's place
in it, so that a training that is resumed sees the same images.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from .tasks import TASKS

__all__ = ["Augmentation", "Batches", "OrderedBatches", "Share", "ShuffledBatches"]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of images, as of a telescope in another state.

    Attributes
    ----------
    turn : bool
        Show every image in a random one of the orientations that map the camera onto
        itself, its direction and impact point turned along.
    night_sky : float
        Most photo-electrons of night sky to add, as expected in a pixel. For every
        event the number is drawn between 0 and this, and for every pixel a number
        around it from Poisson's distribution, less the expectation, as by ctapipe's
        `ImageModifier`. Peak times stay.
    dead_pixels : float
        Greatest probability of a pixel to be dead. For every event it is drawn between
        0 and this.
    charge_error : float
        Greatest relative error of the scale of the charge, up or down.
    """

    turn: bool = True
    night_sky: float = 0.0
    dead_pixels: float = 0.0
    charge_error: float = 0.0

    def __post_init__(self):
        for name in ("night_sky", "dead_pixels", "charge_error"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        for name in ("dead_pixels", "charge_error"):
            if not getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be below 1")

    def change(self, charge, rng):
        """Charges with more night sky, an error of their scale, and dead pixels.

        Parameters
        ----------
        charge : ndarray of float32, shape (N, P)
            Photo-electrons; changed in place.
        rng : numpy.random.Generator

        Returns
        -------
        dead : ndarray of bool, shape (N, P), or None
            The dead pixels.
        """
        n_events, n_pixels = charge.shape
        if self.night_sky > 0:
            expected = rng.uniform(0, self.night_sky, (n_events, 1)).astype(np.float32)
            charge += rng.poisson(expected, charge.shape) - expected
        if self.charge_error > 0:
            error = rng.uniform(-self.charge_error, self.charge_error, (n_events, 1))
            charge *= (1 + error).astype(np.float32)
        if self.dead_pixels > 0:
            probability = rng.uniform(0, self.dead_pixels, (n_events, 1))
            return rng.random((n_events, n_pixels), dtype=np.float32) < probability
        return None


class Batches(Dataset):
    """Events of a sample in batches, as dicts of tensors.

    Parameters
    ----------
    sample : ctapipe_gphysnet.events.EventSample
    events : ndarray of int
        Which of its events.
    preprocessing : ctapipe_gphysnet.preprocessing.Preprocessing
    augmentation : Augmentation, optional
        Without it the images are as they are.
    """

    def __init__(self, sample, events, preprocessing, augmentation=None):
        self._sample = sample
        self._events = events
        self._preprocessing = preprocessing
        self._augmentation = augmentation
        self._is_signal = sample.is_signal
        if augmentation is not None and augmentation.turn:
            symmetries = sample.camera.lattice.symmetries()
            self._permutations = np.stack([s.permutation for s in symmetries])
            # the turn of a unit matrix is what turns a target from the right
            self._turns = {
                task: np.stack(
                    [TASKS[task].turn(np.eye(2), s.matrix) for s in symmetries]
                )
                for task in sample.targets
                if TASKS[task].loss == "l1" and TASKS[task].n_outputs == 2
            }

    def __len__(self):
        return len(self._events)

    def __getitem__(self, batch):
        """A batch.

        Parameters
        ----------
        batch : tuple of (int or tuple of int, ndarray of int)
            Seed, and places among the events.

        Returns
        -------
        dict of str to Tensor
            ``images`` (N, 2, P), ``is_signal``, ``classified``, and the targets.
        """
        seed, places = batch
        events, sample = self._events[places], self._sample
        charge = sample.charge[events].astype(np.float32)
        time = sample.peak_time[events].astype(np.float32)
        values = {task: target[events] for task, target in sample.targets.items()}
        dead = None
        if self._augmentation is not None:
            rng = np.random.default_rng(seed)
            if self._augmentation.turn:
                charge, time = self._turned(charge, time, values, rng)
            dead = self._augmentation.change(charge, rng)
        lattice = sample.camera.lattice
        values["images"] = self._preprocessing(charge, time, lattice, dead)
        values["is_signal"] = self._is_signal[events]
        values["classified"] = sample.classified[events]
        return {name: torch.from_numpy(value) for name, value in values.items()}

    def _turned(self, charge, time, targets, rng):
        choice = rng.integers(len(self._permutations), size=len(charge))
        order = self._permutations[choice]
        for task, turns in self._turns.items():
            turned = targets[task][:, None, :] @ turns[choice]
            targets[task] = turned[:, 0].astype(np.float32)
        return [np.take_along_axis(image, order, axis=1) for image in (charge, time)]


@dataclass(frozen=True)
class Share:
    """What one of several processes that train together has of every batch.

    Attributes
    ----------
    rank : int
        Of the process, from 0.
    world_size : int
        Number of processes.
    """

    rank: int = 0
    world_size: int = 1

    def of(self, places):
        """The places of this process among those of all."""
        return places[self.rank :: self.world_size]


class ShuffledBatches(Sampler):
    """Places of events and seeds of whole batches, in an order that the epoch decides.

    Parameters
    ----------
    n_events, batch_size, seed : int
    share : Share
        What this process gets of each batch.
    """

    def __init__(self, n_events, batch_size, seed, share=Share()):
        self._n_events, self._batch_size, self._seed = n_events, batch_size, seed
        self._share = share
        self._epoch = 0
        self._skipped = {}

    def skip(self, epoch, number):
        """Leave out the first batches of an epoch, for they have been trained on."""
        self._skipped = {epoch: number}

    def set_epoch(self, epoch):
        """Lightning tells the epoch before each one."""
        self._epoch = epoch

    def __len__(self):
        # an incomplete batch of one event has no batch statistics
        return self._n_events // self._batch_size

    def __iter__(self):
        rng = np.random.default_rng([self._seed, self._epoch])
        order = rng.permutation(self._n_events)
        seeds = rng.integers(2**63, size=len(self))
        for number in range(self._skipped.get(self._epoch, 0), len(seeds)):
            start = number * self._batch_size
            places = order[start : start + self._batch_size]
            yield (int(seeds[number]), self._share.rank), self._share.of(places)


class OrderedBatches(Sampler):
    """All events in their order, in batches of nearly the same size.

    All processes get as many batches, for with each of them they wait for one another.

    Parameters
    ----------
    n_events : int
        At least as many as there are processes.
    batch_size : int
        Most events of a batch.
    share : Share
        What this process gets of the events.
    """

    def __init__(self, n_events, batch_size, share=Share()):
        most = math.ceil(n_events / share.world_size)
        places = share.of(np.arange(n_events))
        self._batches = np.array_split(places, math.ceil(most / batch_size))

    def __len__(self):
        return len(self._batches)

    def __iter__(self):
        for places in self._batches:
            yield 0, places
