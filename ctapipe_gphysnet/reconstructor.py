"""γ-PhysNet as a reconstructor of ctapipe.

ctapipe imports this module whenever it looks for its plugins, so torch is
imported only when a reconstructor is made.
"""

from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace

import astropy.units as u
import numpy as np
from ctapipe.containers import (
    ImageParametersContainer,
    ParticleClassificationContainer,
    ReconstructedContainer,
    ReconstructedEnergyContainer,
    ReconstructedGeometryContainer,
)
from ctapipe.core import Provenance, QualityQuery, ToolConfigurationError
from ctapipe.core.traits import CaselessStrEnum, List, Unicode
from ctapipe.reco.reconstructor import ReconstructionProperty, Reconstructor
from ctapipe.reco.stereo_combination import StereoMeanCombiner

from .camera import CameraMatch, CameraMismatch
from .lattice import LatticeError
from .resources import DEFAULT_MODEL, find_model
from .tasks import TASKS

__all__ = [
    "PRODUCTS",
    "GammaPhysNetQualityQuery",
    "GammaPhysNetReconstructor",
    "Product",
    "physical_columns",
]

# The third kind of weight had another name up to ctapipe 0.29. Options of
# this package have the new name in every version.
WEIGHTS = {
    name.replace("konrad", "aspect-weighted-intensity"): name
    for name in StereoMeanCombiner.class_traits()["weights"].values
}


@dataclass(frozen=True)
class Product:
    """One kind of DL2 table that the network fills.

    Attributes
    ----------
    task : str
        Task of the network behind it, a key of `ctapipe_gphysnet.tasks.TASKS`.
    prefix : str
        Name of the table and prefix of its columns. Each product has its own,
        for `ctapipe.io.TableLoader` puts the columns of all of them in one table.
    property : ReconstructionProperty
    container : type
        What holds a row.
    slot : str
        Name of the field of `ReconstructedContainer` that holds the container.
    """

    task: str
    prefix: str
    property: ReconstructionProperty
    container: type
    slot: str

    @cached_property
    def nothing(self):
        """Column values of a row without a result."""
        empty = self.container()
        return {name: getattr(empty, name) for name in _COLUMNS[self.task]}


_COLUMNS = {
    "energy": ("energy",),
    "direction": ("alt", "az"),
    "particle_type": ("prediction",),
}

PRODUCTS = (
    Product(
        "energy",
        "GammaPhysNetEnergy",
        ReconstructionProperty.ENERGY,
        ReconstructedEnergyContainer,
        "energy",
    ),
    Product(
        "direction",
        "GammaPhysNetGeometry",
        ReconstructionProperty.GEOMETRY,
        ReconstructedGeometryContainer,
        "geometry",
    ),
    Product(
        "particle_type",
        "GammaPhysNetClassifier",
        ReconstructionProperty.PARTICLE_TYPE,
        ParticleClassificationContainer,
        # renamed in ctapipe 0.29
        "particle_type"
        if "particle_type" in ReconstructedContainer.fields
        else "classification",
    ),
)


def physical_columns(raw, angle_scale, pointing_alt, pointing_az):
    """DL2 columns of raw outputs, for telescope events.

    Parameters
    ----------
    raw : dict of str to ndarray, shape (N, n_outputs)
        As `ctapipe_gphysnet.inference.Predictor.predict` gives it.
    angle_scale : float or array-like, shape (N,)
        Of the telescope, see `ctapipe_gphysnet.camera.CameraMatch`.
    pointing_alt, pointing_az : Quantity, shape (N,) or scalar
        Pointing of the telescope.

    Returns
    -------
    columns : dict of str to dict
        For every product of the network, by the name of its task: the columns
        without prefix, arrays or Quantities of shape (N,), and ``is_valid``.
    """
    columns = {}
    if "energy" in raw:
        columns["energy"] = {"energy": TASKS["energy"].to_energy(raw["energy"])}
    if "direction" in raw:
        offset = raw["direction"] * np.reshape(angle_scale, (-1, 1))
        alt, az = TASKS["direction"].to_horizontal(offset, pointing_alt, pointing_az)
        columns["direction"] = {"alt": alt.to(u.deg), "az": az.to(u.deg)}
    if "particle_type" in raw:
        gammaness = TASKS["particle_type"].to_gammaness(raw["particle_type"])
        columns["particle_type"] = {"prediction": gammaness}
    for column in columns.values():
        finite = [np.isfinite(np.asarray(values)) for values in column.values()]
        column["is_valid"] = np.logical_and.reduce(finite)
    return columns


class GammaPhysNetQualityQuery(QualityQuery):
    """Which telescope events go through the network.

    The expressions see ``parameters``, the `ImageParametersContainer`.
    """

    quality_criteria = List(
        default_value=[("> 50 p.e.", "parameters.hillas.intensity > 50")],
        help=QualityQuery.quality_criteria.help,
    ).tag(config=True)


@dataclass(frozen=True)
class _Assignment:
    """A telescope's model and how its images become the model's."""

    predictor: object
    match: CameraMatch
    products: tuple


class GammaPhysNetReconstructor(Reconstructor):
    """Particle type, energy and direction from camera images, by γ-PhysNet.

    Fills, for every triggered telescope whose camera has a model and for the
    array, the products that the models have: ``GammaPhysNetEnergy``,
    ``GammaPhysNetGeometry`` and ``GammaPhysNetClassifier``. A telescope event
    that fails the quality criteria gets NaN and ``is_valid`` false.

    Raises
    ------
    ToolConfigurationError
        If a model cannot be used, two models fit the same telescope, none
        fits any, the device is missing, or events have no images. ctapipe's
        tools show its message and stop.
    """

    needs_atmosphere_profile = False

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
    precision = CaselessStrEnum(
        ["float32", "bfloat16"],
        default_value="float32",
        help="Of the network's arithmetic; bfloat16 is less exact.",
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
        self._predictors = self._read_models()
        self._assignments = self._assign_models()
        self._products = tuple(
            product
            for product in PRODUCTS
            if any(product in a.products for a in self._assignments.values())
        )
        self._meta = {product.prefix: self._table_meta(product) for product in PRODUCTS}
        weights = {"weights": WEIGHTS[self.stereo_weights]} if self.stereo_weights else {}
        self._combiners = self._make_combiners(**weights)
        self._equal_combiners = self._make_combiners(weights="none")

    def _read_models(self):
        """A `Predictor` for every model file."""
        import torch  # takes a second, so only where it is needed

        from .inference import Predictor

        if self.n_jobs is not None:
            torch.set_num_threads(self.n_jobs)
        predictors = []
        for model in self.models:
            try:
                path = find_model(model)
                predictor = Predictor.from_file(
                    path, device=self.device, precision=self.precision
                )
            except (OSError, ValueError) as error:
                raise ToolConfigurationError(str(error)) from error
            Provenance().add_input_file(path, role="GammaPhysNet model", add_meta=False)
            self.log.info(
                "Read model %s (%s) from %s",
                predictor.model.name,
                predictor.model.identity,
                path,
            )
            predictors.append(predictor)
        return predictors

    def _assign_models(self):
        """The `_Assignment` of every telescope that has a model, by its id."""
        by_type, reasons = {}, {}
        for telescope in self.subarray.telescope_types:
            try:
                by_type[telescope] = self._assignment(telescope)
            except (CameraMismatch, LatticeError) as error:
                reasons[f"{telescope}: {error}"] = None  # a set that keeps the order
        if not by_type:
            raise ToolConfigurationError(
                f"No telescope of subarray {self.subarray.name} has a model: "
                + "; ".join(reasons)
            )
        for reason in reasons:
            self.log.warning("No model, telescopes of this type are skipped: %s", reason)
        return {
            tel_id: by_type[telescope]
            for tel_id, telescope in self.subarray.tel.items()
            if telescope in by_type
        }

    def _assignment(self, telescope):
        """The one model that fits a telescope; raises if none or several do."""
        found, reasons = [], []
        for predictor in self._predictors:
            try:
                found.append((predictor, predictor.match(telescope)))
            except (CameraMismatch, LatticeError) as error:
                reasons.append(f"{predictor.model.name}: {error}")
        if len(found) > 1:
            names = " and ".join(predictor.model.name for predictor, _ in found)
            raise ToolConfigurationError(
                f"More than one model fits telescopes of type {telescope}: {names}"
            )
        if not found:
            raise CameraMismatch(", ".join(reasons))
        predictor, match = found[0]
        tasks = predictor.model.network.options.tasks
        products = tuple(product for product in PRODUCTS if product.task in tasks)
        return _Assignment(predictor, match, products)

    def _table_meta(self, product):
        """What the header of a DL2 table says about the models.

        The keys have the prefix in them and the values are the same for all
        telescopes, so that tables can be joined without conflicts.
        """
        used = [a.predictor for a in self._assignments.values() if product in a.products]
        models = [p.model for p in self._predictors if p in used]
        return {
            f"{product.prefix}_model": ", ".join(model.name for model in models),
            f"{product.prefix}_model_sha256": ", ".join(m.identity for m in models),
        }

    def _make_combiners(self, **options):
        # one for each property: a combiner of several stores them all under one prefix
        return {
            product.prefix: StereoMeanCombiner(
                prefix=product.prefix, property=product.property, parent=self, **options
            )
            for product in self._products
        }

    def __call__(self, event):
        """Fill the DL2 containers of an event.

        Parameters
        ----------
        event : ctapipe.containers.ArrayEventContainer
            With DL1 images and, if the quality criteria need them, image
            parameters.
        """
        tel_ids = [t for t in event.trigger.tels_with_trigger if t in self._assignments]
        rows = self._predict(event, [t for t in tel_ids if self._is_usable(event, t)])
        for product in self._products:
            provided = [t for t in tel_ids if product in self._assignments[t].products]
            for tel_id in provided:
                row = rows.get(tel_id, {}).get(product.task, product.nothing)
                container = self._container(product, f"{product.prefix}_tel", row)
                event.dl2.tel[tel_id][product.slot][product.prefix] = container
            self._combine(event, product, provided)

    def _container(self, product, prefix, row):
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
        return bool(passed) and not np.isnan(dl1.image).all()

    def _predict(self, event, tel_ids):
        """Rows of DL2 columns by telescope and task; one batch for each model."""
        rows = {}
        for predictor in self._predictors:
            mine = [t for t in tel_ids if self._assignments[t].predictor is predictor]
            if not mine:
                continue
            images = np.concatenate([self._prepare(event, tel_id) for tel_id in mine])
            pointings = [event.monitoring.tel[tel_id].pointing for tel_id in mine]
            scales = [self._assignments[tel_id].match.angle_scale for tel_id in mine]
            columns = physical_columns(
                predictor.predict(images),
                scales,
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
        assignment, dl1 = self._assignments[tel_id], event.dl1.tel[tel_id]
        broken = _broken_pixels(event, tel_id)
        return assignment.predictor.prepare(
            dl1.image[None],
            dl1.peak_time[None],
            assignment.match,
            None if broken is None else broken[None],
        )

    def _combine(self, event, product, tel_ids):
        """Fill the array-wise container of a product."""
        found = {t: event.dl2.tel[t][product.slot][product.prefix] for t in tel_ids}
        valid = {t: container for t, container in found.items() if container.is_valid}
        stereo = event.dl2.stereo[product.slot]
        if len(valid) > 1:
            self._combine_several(event, product, list(valid))
            stereo[product.prefix].meta.update(self._meta[product.prefix])
            return
        # The mean of one is that one. ctapipe's combiner would say the same, but with
        # a warning about the standard deviation and after an astropy transformation.
        row = dict(product.nothing)
        for container in valid.values():
            row = {name: container[name] for name in row}
        row.update(telescopes=list(valid), is_valid=bool(valid))
        stereo[product.prefix] = self._container(product, product.prefix, row)

    def _combine_several(self, event, product, tel_ids):
        parameters = {
            tel_id: event.dl1.tel[tel_id].parameters or ImageParametersContainer()
            for tel_id in tel_ids
        }
        weighable = all(_has_weight(container) for container in parameters.values())
        combiners = self._combiners if weighable else self._equal_combiners
        # The combiner makes an empty container for every telescope that it sees, so it
        # sees none that has no model.
        view = SimpleNamespace(
            dl1=SimpleNamespace(
                tel={t: SimpleNamespace(parameters=parameters[t]) for t in tel_ids}
            ),
            dl2=SimpleNamespace(
                tel={t: event.dl2.tel[t] for t in tel_ids}, stereo=event.dl2.stereo
            ),
        )
        combiners[product.prefix](view)


def _has_weight(parameters):
    """Whether weights of the combiner are finite.

    They are not for an image with a saturated (infinite) pixel, whose
    parameters are infinite or NaN.
    """
    hillas = parameters.hillas
    return bool(
        np.isfinite(hillas.intensity)
        and hillas.length.value > 0
        and hillas.width.value > 0
    )


def _broken_pixels(event, tel_id):
    """Pixels that the camera's monitoring marks as broken.

    Returns
    -------
    broken : ndarray of bool, shape (P,), or None
        None where nothing is known.
    """
    if tel_id not in event.monitoring.tel:
        return None
    broken = event.monitoring.tel[tel_id].camera.coefficients.outlier_mask
    if broken is None or np.ndim(broken) == 1:
        return broken
    gain = _selected_gain_channel(event, tel_id)
    if gain is None:
        return np.any(broken, axis=0)
    return broken[gain, np.arange(broken.shape[1])]


def _selected_gain_channel(event, tel_id):
    for level in (event.dl0, event.r1):
        if tel_id in level.tel and level.tel[tel_id].selected_gain_channel is not None:
            return level.tel[tel_id].selected_gain_channel
    return None
