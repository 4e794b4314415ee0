"""Which telescope events go through the network, by the same words in every tool."""

import numpy as np
from ctapipe.containers import EventType
from ctapipe.core import QualityQuery
from ctapipe.core.expression_engine import ExpressionError
from ctapipe.core.traits import List

from .parameters import ParameterColumns

__all__ = ["GammaPhysNetQualityQuery", "is_calibration"]


def is_calibration(event_type):
    """Which events are for calibration: flat field, pedestals and the like.

    No tool puts them through the network.

    Parameters
    ----------
    event_type : int or array-like of int
        Values of `ctapipe.containers.EventType`.

    Returns
    -------
    is_calibration : bool or ndarray of bool
        False where the type is not known.
    """
    # the data model keeps the numbers below for calibration, named or not
    return np.asarray(event_type) < EventType.MUON.value


class GammaPhysNetQualityQuery(QualityQuery):
    """Which telescope events go through the network.

    The expressions see ``parameters``, the `ImageParametersContainer`.
    """

    quality_criteria = List(
        default_value=[("> 50 p.e.", "parameters.hillas.intensity > 50")],
        help=QualityQuery.quality_criteria.help,
    ).tag(config=True)

    def passed(self, table):
        """Which rows of a table of image parameters pass all criteria.

        The result, and what is counted, are those of the call for every row.

        Parameters
        ----------
        table : astropy.table.Table, N rows
            With the columns of a DL1 parameter table; a parameter whose column is
            missing has the value of an empty container.

        Returns
        -------
        passed : ndarray of bool, shape (N,)

        Raises
        ------
        ExpressionError
            If a criterion cannot be evaluated.
        """
        events = ParameterColumns(table)
        if self._works_on_columns(events):
            return self.get_table_mask(events)
        rows = [self(parameters=events.row(i)).all() for i in range(len(events))]
        return np.array(rows, dtype=bool)

    def _works_on_columns(self, events):
        """Whether every criterion of columns is one answer for each row.

        "and" between columns raises an exception, ``max(column)`` is one number.
        """
        try:
            return all(
                np.shape(answer) == (len(events),) for answer in self.engine(events)
            )
        except ExpressionError:
            return False
