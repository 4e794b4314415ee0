"""The DL2 products of the network, and their values from its raw outputs."""

from dataclasses import dataclass, replace
from functools import cached_property

import astropy.units as u
import numpy as np
from ctapipe.containers import (
    ParticleClassificationContainer,
    ReconstructedContainer,
    ReconstructedEnergyContainer,
    ReconstructedGeometryContainer,
)
from ctapipe.reco.reconstructor import ReconstructionProperty

from .tasks import TASKS

__all__ = ["PRODUCTS", "Product", "named_products", "physical_columns"]


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

    @property
    def averaged(self):
        """Names of the columns that the array-wise table has too: means and spread."""
        return [name for name in self.nothing if name not in _TELESCOPE_WISE_ONLY]


_COLUMNS = {
    "energy": ("energy", "energy_uncert"),
    "direction": ("alt", "az", "ang_distance_uncert", "core_x", "core_y"),
    "particle_type": ("prediction",),
}
# ctapipe has no mean of cores
_TELESCOPE_WISE_ONLY = ("core_x", "core_y")

PREFIX = "GammaPhysNet"

PRODUCTS = (
    Product(
        "energy",
        f"{PREFIX}Energy",
        ReconstructionProperty.ENERGY,
        ReconstructedEnergyContainer,
        "energy",
    ),
    Product(
        "direction",
        f"{PREFIX}Geometry",
        ReconstructionProperty.GEOMETRY,
        ReconstructedGeometryContainer,
        "geometry",
    ),
    Product(
        "particle_type",
        f"{PREFIX}Classifier",
        ReconstructionProperty.PARTICLE_TYPE,
        ParticleClassificationContainer,
        # renamed in ctapipe 0.29
        "particle_type"
        if "particle_type" in ReconstructedContainer.fields
        else "classification",
    ),
)


def named_products(prefix):
    """The products with another start of their tables' names.

    Parameters
    ----------
    prefix : str
        In place of ``GammaPhysNet``.

    Returns
    -------
    products : tuple of Product
    """
    return tuple(
        replace(product, prefix=prefix + product.prefix.removeprefix(PREFIX))
        for product in PRODUCTS
    )


def physical_columns(raw, angle_scale, tel_position, pointing_alt, pointing_az):
    """DL2 columns of raw outputs, for telescope events.

    Parameters
    ----------
    raw : dict of str to ndarray, shape (N, n_outputs)
        As `ctapipe_gphysnet.inference.Predictor.predict` gives it.
    angle_scale : float or array-like, shape (N,)
        Of the telescope, see `ctapipe_gphysnet.camera.CameraMatch`.
    tel_position : Quantity, shape (N, 3) or (3,)
        Of the telescope, in `ctapipe.coordinates.GroundFrame`.
    pointing_alt, pointing_az : Quantity, shape (N,) or scalar
        Pointing of the telescope.

    Returns
    -------
    columns : dict of str to dict
        For every product of the network, by the name of its task: the columns
        without prefix, arrays or Quantities of shape (N,), and ``is_valid``. The core
        of a network that does not know the impact point is NaN, and so are the
        uncertainties of one that does not know them.
    """
    columns, more = {}, {}
    if "energy" in raw:
        task = TASKS["energy"]
        energy = task.to_energy(raw["energy"])
        columns["energy"] = {"energy": energy}
        uncertainty = np.full(len(energy), np.nan) * u.TeV
        if task.uncertainty in raw:
            uncertainty = task.to_uncertainty(raw[task.uncertainty], energy)
        more["energy"] = {"energy_uncert": uncertainty}
    if "direction" in raw:
        task = TASKS["direction"]
        offset = raw["direction"] * np.reshape(angle_scale, (-1, 1))
        alt, az = task.to_horizontal(offset, pointing_alt, pointing_az)
        columns["direction"] = {"alt": alt.to(u.deg), "az": az.to(u.deg)}
        core = np.full((2, len(offset)), np.nan) * u.m
        if "impact" in raw:
            impact = TASKS["impact"]
            core = impact.to_core(raw["impact"], tel_position, pointing_alt, pointing_az)
        radius = np.full(len(offset), np.nan) * u.deg
        if task.uncertainty in raw:
            radius = task.to_uncertainty(raw[task.uncertainty]) * angle_scale
        more["direction"] = {
            "ang_distance_uncert": radius,
            "core_x": core[0],
            "core_y": core[1],
        }
    if "particle_type" in raw:
        gammaness = TASKS["particle_type"].to_gammaness(raw["particle_type"])
        columns["particle_type"] = {"prediction": gammaness}
    for column in columns.values():
        finite = [np.isfinite(np.asarray(values)) for values in column.values()]
        column["is_valid"] = np.logical_and.reduce(finite)
    for task, values in more.items():  # is valid without them
        for name in values:
            if name.endswith("_uncert"):
                values[name][~columns[task]["is_valid"]] = np.nan
        columns[task].update(values)
    return columns
