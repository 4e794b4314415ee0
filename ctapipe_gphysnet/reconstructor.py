"""γ-PhysNet as a reconstructor of ctapipe.

ctapipe imports this module whenever it looks for its plugins, so torch is
imported only when a reconstructor is made.
"""

import astropy.units as u
import numpy as np
from ctapipe.containers import ImageParametersContainer, PixelStatus
from ctapipe.core import ToolConfigurationError
from ctapipe.core.traits import CaselessStrEnum, Int, List, Unicode
from ctapipe.reco.reconstructor import Reconstructor

from .assignment import assign_models, read_predictors, table_meta
from .combination import WEIGHTS, ProductCombiner
from .products import PREFIX, named_products, physical_columns
from .quality import GammaPhysNetQualityQuery, is_calibration
from .resources import DEFAULT_MODEL

__all__ = ["GammaPhysNetReconstructor"]


class GammaPhysNetReconstructor(Reconstructor):
    """Particle type, energy and direction from camera images, by γ-PhysNet.

    Fills, for every triggered telescope whose camera has a model and for the
    array, the products that the models have: ``GammaPhysNetEnergy``,
    ``GammaPhysNetGeometry`` and ``GammaPhysNetClassifier``. A telescope event
    that fails the quality criteria gets NaN and ``is_valid`` false, and so does
    a calibration event.

    Attributes
    ----------
    assignments : dict of int to Assignment
        The model of every telescope that has one, by its id.
    products : tuple of Product
        What the models fill.
    combiners : dict of str to ProductCombiner
        What makes array-wise products, by prefix.
    quality_query : GammaPhysNetQualityQuery

    Raises
    ------
    ToolConfigurationError
        If a model cannot be used, two models fit the same telescope, none
        fits any, the device is missing, or events have no images. ctapipe's
        tools show its message and stop.
    """

    needs_atmosphere_profile = False

    prefix = Unicode(
        PREFIX,
        help=(
            "Start of the names of the tables and their columns. Results of several"
            " models for the same telescopes stand in one file under several names."
        ),
    ).tag(config=True)
    models = List(
        Unicode(),
        default_value=[DEFAULT_MODEL],
        minlen=1,
        help=(
            "Model files, or names of models that come with ctapipe_gphysnet. A model is"
            " used for the telescopes that have its camera and optics."
        ),
    ).tag(config=True)
    device = Unicode(
        "auto",
        help=(
            "Where the network runs: cpu, cuda, cuda:n, or auto, which is the first CUDA"
            " device if there is one and else the CPU."
        ),
    ).tag(config=True)
    precision = Unicode(
        "float32",
        help=(
            "Of the network's arithmetic: float32, or float16 or bfloat16, which are less"
            " exact and faster where the machine has them."
        ),
    ).tag(config=True)
    batch_size = Int(
        default_value=None,
        allow_none=True,
        help=(
            "Images that go through the network at once, where there are as many. Not"
            " set: what is best on most machines."
        ),
    ).tag(config=True)
    stereo_weights = CaselessStrEnum(
        list(WEIGHTS),
        default_value=None,
        allow_none=True,
        help=(
            "Weights of the telescopes in the mean that is the array-wise result. Not"
            " set: those of the option StereoMeanCombiner.weights, which has other names"
            " in older versions of ctapipe."
        ),
    ).tag(config=True)

    def __init__(self, subarray, atmosphere_profile=None, **kwargs):
        super().__init__(
            subarray=subarray, atmosphere_profile=atmosphere_profile, **kwargs
        )
        self.quality_query = GammaPhysNetQualityQuery(parent=self)
        self._without_pointing = set()  # telescopes that were warned about
        self._predictors = self._read_models()
        products = named_products(self.prefix)
        self.assignments = assign_models(self._predictors, products, subarray, self.log)
        self.products = tuple(
            product
            for product in products
            if any(product in a.products for a in self.assignments.values())
        )
        self._meta = {
            product.prefix: table_meta(product, self._predictors, self.assignments)
            for product in self.products
        }
        self.combiners = {
            product.prefix: ProductCombiner(product, self.stereo_weights, self)
            for product in self.products
        }

    @property
    def statistics_name(self):
        """Of the table that says how many telescope events passed the criteria."""
        return type(self).__name__.replace(PREFIX, self.prefix, 1)

    def _read_models(self):
        if self.n_jobs is not None:
            import torch  # takes a second, so only where it is needed

            torch.set_num_threads(self.n_jobs)
        options = {"device": self.device, "precision": self.precision}
        if self.batch_size is not None:
            options["batch_size"] = self.batch_size
        return read_predictors(self.models, self.log, **options)

    def __call__(self, event):
        """Fill the DL2 containers of an event.

        Parameters
        ----------
        event : ctapipe.containers.ArrayEventContainer
            With DL1 images and, if the quality criteria need them, image
            parameters. Calibration events need neither.
        """
        tel_ids = [t for t in event.trigger.tels_with_trigger if t in self.assignments]
        usable = []
        if not is_calibration(event.trigger.event_type.value):
            usable = [t for t in tel_ids if self._is_usable(event, t)]
        rows = self._predict(event, usable)
        for product in self.products:
            provided = [t for t in tel_ids if product in self.assignments[t].products]
            for tel_id in provided:
                row = rows.get(tel_id, {}).get(product.task, product.nothing)
                container = self.container(product, f"{product.prefix}_tel", row)
                event.dl2.tel[tel_id][product.slot][product.prefix] = container
            self._combine(event, product, provided)

    def warn_without_pointing(self, tel_id, altitude):
        """Say so, once for a telescope, where a direction cannot be had.

        Parameters
        ----------
        tel_id : int
        altitude : Quantity
            Of the telescope's pointing, in events that go through the network.
        """
        if tel_id not in self._without_pointing and np.isnan(altitude).any():
            self._without_pointing.add(tel_id)
            self.log.warning(
                "Events of telescope %d are without pointing, and get no direction",
                tel_id,
            )

    def container(self, product, prefix, row):
        """A row of a DL2 table, with the identity of the models.

        Parameters
        ----------
        product : Product
        prefix : str
            Of the columns.
        row : dict
            Values of the columns.

        Returns
        -------
        container : ctapipe.core.Container
        """
        container = product.container(**row, prefix=prefix)
        container.meta.update(self._meta[product.prefix])
        return container

    def _is_usable(self, event, tel_id):
        """Whether a telescope event goes through the network."""
        if tel_id not in event.dl1.tel:  # triggered, but its data are not in the file
            return False
        dl1 = event.dl1.tel[tel_id]
        if dl1.image is None or dl1.peak_time is None:
            raise ToolConfigurationError(
                f"Event {event.index.event_id} has no image of telescope {tel_id}:"
                " GammaPhysNetReconstructor needs an input file with DL1 images, or one"
                " of a lower data level"
            )
        parameters = dl1.parameters or ImageParametersContainer()
        # all criteria are evaluated in any case, for the statistics
        passed = self.quality_query(parameters=parameters).all()
        missing = np.isnan(dl1.image) | _broken_pixels(event, tel_id)
        return bool(passed) and not missing.all()

    def _predict(self, event, tel_ids):
        """Rows of DL2 columns by telescope and task; one batch for each model."""
        rows = {}
        for predictor in self._predictors:
            mine = [t for t in tel_ids if self.assignments[t].predictor is predictor]
            if not mine:
                continue
            images = np.concatenate([self._prepare(event, tel_id) for tel_id in mine])
            pointings = [event.monitoring.tel[tel_id].pointing for tel_id in mine]
            for tel_id, pointing in zip(mine, pointings):
                self.warn_without_pointing(tel_id, pointing.altitude)
            scales = [self.assignments[tel_id].match.angle_scale for tel_id in mine]
            columns = physical_columns(
                predictor.predict(images),
                scales,
                u.Quantity([self.subarray.positions[tel_id] for tel_id in mine]),
                [pointing.altitude.to_value(u.rad) for pointing in pointings] * u.rad,
                [pointing.azimuth.to_value(u.rad) for pointing in pointings] * u.rad,
            )
            for i, tel_id in enumerate(mine):
                rows[tel_id] = {
                    task: {name: values[i] for name, values in column.items()}
                    for task, column in columns.items()
                }
        return rows

    def _prepare(self, event, tel_id):
        """Network input of a telescope event, shape (1, 2, P)."""
        assignment, dl1 = self.assignments[tel_id], event.dl1.tel[tel_id]
        return assignment.predictor.prepare(
            dl1.image[None],
            dl1.peak_time[None],
            assignment.match,
            _broken_pixels(event, tel_id)[None],
        )

    def _combine(self, event, product, tel_ids):
        """Fill the array-wise container of a product."""
        found = {t: event.dl2.tel[t][product.slot][product.prefix] for t in tel_ids}
        valid = {t: container for t, container in found.items() if container.is_valid}
        stereo = event.dl2.stereo[product.slot]
        if len(valid) > 1:
            self.combiners[product.prefix].combine_event(event, list(valid))
            stereo[product.prefix].meta.update(self._meta[product.prefix])
            return
        # The mean of one is that one. ctapipe's combiner would say the same, but with
        # a warning about the standard deviation and after an astropy transformation.
        row = {name: product.nothing[name] for name in product.averaged}
        for container in valid.values():
            row = {name: container[name] for name in row}
        row.update(telescopes=list(valid), is_valid=bool(valid))
        stereo[product.prefix] = self.container(product, product.prefix, row)


def _broken_pixels(event, tel_id):
    """Pixels of a telescope event that are known to be broken or missing.

    A pixel that data volume reduction left out is not one of them: it is known to
    have no light, and its charge is 0.

    Returns
    -------
    broken : ndarray of bool, shape (P,)
    """
    broken = np.zeros(event.dl1.tel[tel_id].image.shape[-1], dtype=bool)
    for level in (event.r1, event.dl0):
        if tel_id in level.tel and level.tel[tel_id].pixel_status is not None:
            # neither gain channel was read
            broken |= PixelStatus.is_invalid(level.tel[tel_id].pixel_status)
    if tel_id in event.monitoring.tel:
        outliers = event.monitoring.tel[tel_id].camera.coefficients.outlier_mask
        if outliers is not None:
            broken |= _in_selected_gain(outliers, event, tel_id)
    return broken


def _in_selected_gain(mask, event, tel_id):
    """Mask of pixels, shape (P,), of one that may be for each gain channel."""
    if np.ndim(mask) == 1:
        return mask
    gain = _selected_gain_channel(event, tel_id)
    if gain is None:
        return np.any(mask, axis=0)
    return mask[gain, np.arange(mask.shape[1])]


def _selected_gain_channel(event, tel_id):
    for level in (event.dl0, event.r1):
        if tel_id in level.tel and level.tel[tel_id].selected_gain_channel is not None:
            return level.tel[tel_id].selected_gain_channel
    return None
