"""Array-wise products: the mean of an array event's valid telescopes.

The mean is that of ctapipe's `StereoMeanCombiner`, and so is the uncertainty: the
spread between the telescopes. Here stands what it leaves open: one telescope, whose
values are kept as they are, and telescopes without a usable weight.
"""

from types import SimpleNamespace

import astropy.units as u
import numpy as np
from astropy.table import Table
from ctapipe.containers import ImageParametersContainer
from ctapipe.reco.reconstructor import ReconstructionProperty
from ctapipe.reco.stereo_combination import StereoMeanCombiner

from .parameters import ParameterColumns

__all__ = ["WEIGHTS", "ProductCombiner", "weight_columns"]

# The third kind of weight had another name up to ctapipe 0.29. Options of
# this package have the new name in every version.
WEIGHTS = {
    name.replace("konrad", "aspect-weighted-intensity"): name
    for name in StereoMeanCombiner.class_traits()["weights"].values
}

# Image parameters that weights depend on, with ctapipe's names of the columns.
WEIGHT_PARAMETERS = {
    "hillas_intensity": ("hillas", "intensity"),
    "hillas_length": ("hillas", "length"),
    "hillas_width": ("hillas", "width"),
    "leakage_intensity_width_2": ("leakage", "intensity_width_2"),
}


def weight_columns(table):
    """What weights depend on.

    Parameters
    ----------
    table : astropy.table.Table, N rows
        Image parameters.

    Returns
    -------
    columns : dict of str to ndarray, shape (N,)
    """
    parameters = ParameterColumns(table)["parameters"]
    return {
        name: np.asarray(getattr(getattr(parameters, group), field))
        for name, (group, field) in WEIGHT_PARAMETERS.items()
    }


class ProductCombiner:
    """The mean of one product over telescopes.

    Where a telescope of an event has no usable weight, all telescopes of that
    event weigh the same. It can happen in images with a saturated (infinite)
    pixel, whose parameters are infinite or NaN.

    Parameters
    ----------
    product : Product
    weights : str, optional
        Key of `WEIGHTS`; by default what is configured for `StereoMeanCombiner`.
    parent : ctapipe.core.Component
        Has the configuration.
    """

    def __init__(self, product, weights, parent):
        def make(**options):
            return StereoMeanCombiner(
                prefix=product.prefix, property=product.property, parent=parent, **options
            )

        self.product = product
        self._weighted = make(**({"weights": WEIGHTS[weights]} if weights else {}))
        self._equal = make(weights="none")

    @property
    def needs_parameters(self):
        """Whether weights depend on image parameters."""
        return self._weighted.weights != "none"

    def combine_event(self, event, tel_ids):
        """Fill the array-wise container of an event.

        Parameters
        ----------
        event : ctapipe.containers.ArrayEventContainer
        tel_ids : list of int
            Two or more telescopes with a valid result.
        """
        parameters = {
            tel_id: event.dl1.tel[tel_id].parameters or ImageParametersContainer()
            for tel_id in tel_ids
        }
        weighable = all(
            self._is_weighable(
                p.hillas.intensity,
                p.hillas.length.value,
                p.hillas.width.value,
                p.leakage.intensity_width_2,
            )
            for p in parameters.values()
        )
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
        (self._weighted if weighable else self._equal)(view)

    def combine_table(self, event, columns, n_events):
        """Array-wise columns of telescope-wise ones.

        Parameters
        ----------
        event : ndarray of int, shape (N,)
            Which of the array events each telescope event belongs to, ascending.
        columns : dict of str to Quantity or ndarray, shape (N,)
            Of valid telescope events: what
            `ctapipe_gphysnet.products.physical_columns` gives, and
            `weight_columns` if weights depend on parameters.
        n_events : int
            Number of array events.

        Returns
        -------
        combined : dict of str to Quantity or ndarray, shape (n_events,)
            NaN where an event has no valid telescope.
        """
        names = self.product.averaged
        combined = {
            name: np.full(n_events, np.nan) * getattr(columns[name], "unit", 1)
            for name in names
        }
        multiplicity = np.bincount(event, minlength=n_events)
        single = multiplicity[event] == 1
        for name in names:
            combined[name][event[single]] = columns[name][single]

        weighable = np.ones(len(event), dtype=bool)
        if self.needs_parameters:
            weighable = self._is_weighable(*(columns[name] for name in WEIGHT_PARAMETERS))
        equal = np.bincount(event[~weighable], minlength=n_events)[event] > 0
        for combiner, chosen in ((self._weighted, ~equal), (self._equal, equal)):
            rows = np.flatnonzero(chosen & ~single)
            if len(rows):
                mean = self._predict(combiner, event, columns, rows)
                for name in combined:
                    column = mean[f"{self.product.prefix}_{name}"]
                    combined[name][np.unique(event[rows])] = (
                        column.quantity if column.unit else column
                    )
        return combined

    def _predict(self, combiner, event, columns, rows):
        """ctapipe's table of the mean, a row for every event among the rows."""
        table = Table(
            {
                "obs_id": np.zeros(len(rows), dtype=int),
                "event_id": event[rows],
                "tel_id": np.zeros(len(rows), dtype=int),
                f"{combiner.prefix}_tel_is_valid": np.ones(len(rows), dtype=bool),
            }
        )
        for name, values in columns.items():
            is_result = name in self.product.averaged
            table[f"{combiner.prefix}_tel_{name}" if is_result else name] = values[rows]
        with np.errstate(invalid="ignore"):  # by rounding, a mean vector longer than 1
            mean = combiner.predict_table(table)
        if combiner.property is ReconstructionProperty.ENERGY:
            mean[f"{combiner.prefix}_energy_uncert"] = _energy_spread(
                combiner, table, mean[f"{combiner.prefix}_energy"].quantity
            )
        return mean

    def _is_weighable(self, intensity, length, width, leakage):
        """Whether weights are positive and finite."""
        good = np.isfinite(intensity) & (intensity > 0) & (length > 0) & (width > 0)
        if self._weighted.weights == "containment-weighted-intensity":
            good = good & (width < length) & (leakage < 1)
        return good


def _energy_spread(combiner, table, mean):
    """Standard deviation between telescopes, as `StereoMeanCombiner` has it for events.

    For tables it has the one without Bessel's correction.
    """
    index = np.unique(table["event_id"], return_inverse=True)[1].reshape(-1)
    weight = np.asarray(combiner._calculate_weights(table))
    energy = table[f"{combiner.prefix}_tel_energy"].quantity.to_value(u.TeV)
    mean = mean.to_value(u.TeV)
    if combiner.log_target:
        energy, mean = np.log(energy), np.log(mean)
    total = np.bincount(index, weight)
    spread = np.bincount(index, weight * (energy - mean[index]) ** 2)
    spread = np.sqrt(spread / (total - np.bincount(index, weight**2) / total))
    return (np.exp(spread) if combiner.log_target else spread) * u.TeV
