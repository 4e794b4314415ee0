"""Events as a telescope in a worse state would have seen them.

Images are changed, and the image parameters computed anew from them, so that
every reconstruction gets the same changed events.
"""

from contextlib import closing

import astropy.units as u
import numpy as np
from ctapipe.containers import ArrayEventContainer, DL1CameraContainer
from ctapipe.core import TelescopeComponent
from ctapipe.core.traits import ComponentName, Float, Int
from ctapipe.fitting import FIT_RNG
from ctapipe.image import ImageModifier, ImageProcessor, InvalidPixelHandler

from .dl1 import ArrayEvents, DL1File, TelescopeEvents

__all__ = ["ImagePerturbation", "PerturbedFile"]

# What a random generator is for, so that each change has draws of its own.
NIGHT_SKY, DEAD_PIXELS, TIMING_FIT = range(3)
BLOCK_EVENTS = 200


class ImagePerturbation(TelescopeComponent):
    """Adds night sky, takes away pixels and errs in the scale of the charge.

    In the order of their causes: light of the night sky comes on top of the
    image, dead pixels lose both, the calibration multiplies what is left, and
    dead pixels are filled in.

    The draws of an event depend on the seed, the event's and the telescope's
    numbers and on nothing else: not on other events, nor on the other changes.
    A pixel that is dead among few is dead among many.

    Parameters
    ----------
    subarray : ctapipe.instrument.SubarrayDescription
    """

    night_sky = Float(
        0.0,
        min=0,
        help=(
            "Photo-electrons of night sky to add to every pixel, as expected in the time"
            " over which its charge is summed. Their number is drawn from a Poisson"
            " distribution and their expectation subtracted, by ctapipe's ImageModifier:"
            " the noise grows, the mean does not. Peak times stay."
        ),
    ).tag(config=True)
    dead_pixels = Float(
        0.0,
        min=0,
        max=1,
        help="Probability of a pixel to be dead, drawn for every event anew",
    ).tag(config=True)
    charge_scale = Float(
        1.0, min=0, help="Factor by which the calibration errs in all charges"
    ).tag(config=True)
    invalid_pixel_handler_type = ComponentName(
        InvalidPixelHandler,
        default_value="NeighborAverage",
        allow_none=True,
        help=(
            "What fills dead pixels, as in ctapipe's calibration. None: their charge and"
            " peak time are zero."
        ),
    ).tag(config=True)
    seed = Int(0, min=0, help="Of the random draws").tag(config=True)

    def __init__(self, subarray, **kwargs):
        super().__init__(subarray=subarray, **kwargs)
        self._add_night_sky = ImageModifier(
            subarray,
            parent=self,
            noise_level_dim_pixels=self.night_sky,
            noise_level_bright_pixels=self.night_sky,
        )
        self._fill = None
        if self.invalid_pixel_handler_type is not None:
            self._fill = InvalidPixelHandler.from_name(
                self.invalid_pixel_handler_type, subarray=subarray, parent=self
            )

    def __call__(self, tel_id, image, peak_time, obs_id, event_id):
        """Image and peak times of a telescope event as they would have been.

        Parameters
        ----------
        tel_id : int
        image, peak_time : ndarray, shape (P,)
            Photo-electrons and nanoseconds; they are left as they are.
        obs_id, event_id : int
            Numbers of the event.

        Returns
        -------
        image, peak_time : ndarray, shape (P,)
        """
        key = (obs_id, event_id, tel_id)
        self._add_night_sky.rng = self._generator(NIGHT_SKY, key)
        image = self._add_night_sky(tel_id, image) * image.dtype.type(self.charge_scale)
        draw = self._generator(DEAD_PIXELS, key).random(len(image))
        dead = draw < self.dead_pixels
        if not dead.any():
            return image, peak_time
        image, peak_time = np.where(dead, 0, image), np.where(dead, 0, peak_time)
        if self._fill is None:
            return image, peak_time
        return self._fill(tel_id, image, peak_time, dead[np.newaxis])

    def seed_timing_fit(self, tel_id, obs_id, event_id):
        """Make the image parameters of a telescope event repeatable.

        ctapipe's fit of the time gradient draws points by a generator that all events
        share, so that it depends on the events before.
        """
        generator = self._generator(TIMING_FIT, (obs_id, event_id, tel_id))
        FIT_RNG.bit_generator.state = generator.bit_generator.state

    def _generator(self, purpose, key):
        return np.random.default_rng([self.seed, purpose, *key])


class PerturbedFile(DL1File):
    """The first events of a DL1 file, changed, with their image parameters anew.

    Parameters
    ----------
    path : path-like
    focal_length_choice : ctapipe.instrument.FocalLengthKind
    parent : ctapipe.core.Component
        Has the configuration of `ImagePerturbation` and of
        `ctapipe.image.ImageProcessor`.
    max_events : int, optional
        Array events to read at most.
    **perturbation
        Options of `ImagePerturbation` that take precedence.

    Raises
    ------
    DL1Error
        If it cannot be read or has no images.
    """

    def __init__(
        self, path, focal_length_choice, parent, max_events=None, **perturbation
    ):
        super().__init__(path, focal_length_choice, parent)
        self._max_events = max_events
        self._perturb = ImagePerturbation(self.subarray, parent=parent, **perturbation)
        self._process = ImageProcessor(self.subarray, parent=parent)

    def __len__(self):
        n_events = super().__len__()
        return n_events if self._max_events is None else min(n_events, self._max_events)

    def blocks(self, tel_ids, with_parameters=True):
        """As `DL1File.blocks`, in smaller blocks.

        The parameters are there in any case. They take longer than reading and
        the network, so that small blocks let these go on meanwhile.
        """
        left = len(self)
        with closing(super().blocks(tel_ids, with_parameters=False)) as blocks:
            while left > 0:
                block = next(blocks)
                n_events = min(left, len(block.index))
                for start in range(0, n_events, BLOCK_EVENTS):
                    events = _part(block, start, min(start + BLOCK_EVENTS, n_events))
                    for telescope in events.telescopes:
                        self._change(telescope, events.index)
                    yield events
                left -= n_events

    def _change(self, telescope, index):
        """Change the images of some events and put their parameters in the table."""
        keys = index[telescope.event[telescope.has_image]].tolist()
        event = ArrayEventContainer()
        parameters = []
        for i, key in enumerate(keys):
            telescope.image[i], telescope.peak_time[i] = self._perturb(
                telescope.tel_id, telescope.image[i], telescope.peak_time[i], *key
            )
            event.dl1.tel[telescope.tel_id] = DL1CameraContainer(
                image=telescope.image[i], peak_time=telescope.peak_time[i]
            )
            self._perturb.seed_timing_fit(telescope.tel_id, *key)
            self._process(event)
            parameters.append(event.dl1.tel[telescope.tel_id].parameters)
        telescope.parameters["tel_id"] = np.int16(telescope.tel_id)
        for name, values in _columns(parameters).items():
            telescope.parameters[name] = values


def _part(events, start, stop):
    """Some of some array events, as copies."""
    return ArrayEvents(
        events.index[start:stop],
        [_part_of_telescope(telescope, start, stop) for telescope in events.telescopes],
    )


def _part_of_telescope(telescope, start, stop):
    rows = slice(*np.searchsorted(telescope.event, [start, stop]))
    # of the images, which there are fewer of
    images = slice(*np.searchsorted(telescope.event[telescope.has_image], [start, stop]))
    return TelescopeEvents(
        tel_id=telescope.tel_id,
        event=telescope.event[rows] - start,
        has_image=telescope.has_image[rows],
        image=telescope.image[images].copy(),
        peak_time=telescope.peak_time[images].copy(),
        parameters=telescope.parameters[images],
        altitude=telescope.altitude[images],
        azimuth=telescope.azimuth[images],
    )


def _columns(parameters):
    """Image parameters as columns, by ctapipe's names.

    Parameters
    ----------
    parameters : list of ctapipe.containers.ImageParametersContainer

    Returns
    -------
    columns : dict of str to ndarray or Quantity, shape (N,)
    """
    columns = {}
    for group in parameters[0].keys() if parameters else ():
        containers = [p[group] for p in parameters]
        for name, field in containers[0].fields.items():
            values = [container[name] for container in containers]
            if field.unit is not None:
                values = u.Quantity(values, field.unit)
            else:  # of one type whatever the events, for tables that grow
                values = np.array(values)
                values = values.astype(float if values.dtype.kind == "f" else int)
            columns[f"{containers[0].prefix}_{name}"] = values
    return columns
