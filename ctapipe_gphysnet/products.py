"""The DL2 products of the network, and their values from its raw outputs."""

from dataclasses import dataclass
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

__all__ = ["PRODUCTS", "Product", "physical_columns"]


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
