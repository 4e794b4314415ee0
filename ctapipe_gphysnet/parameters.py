"""Image parameters in tables, by the names that they have in events."""

from types import SimpleNamespace

import numpy as np
from ctapipe.containers import (
    CameraHillasParametersContainer,
    CameraTimingParametersContainer,
    ImageParametersContainer,
)

__all__ = ["ParameterColumns"]


class ParameterColumns:
    """A table of image parameters in the guise of an event.

    ``columns["parameters"].hillas.intensity`` is the column
    ``hillas_intensity``, or ``camera_frame_hillas_intensity`` where parameters
    are in that frame.

    Parameters
    ----------
    table : astropy.table.Table, N rows
        A parameter whose column is missing has the value of an empty container.
    """

    def __init__(self, table):
        self._length = len(table)
        containers = ImageParametersContainer()
        if "camera_frame_hillas_intensity" in table.colnames:
            containers.hillas = CameraHillasParametersContainer()
            containers.timing = CameraTimingParametersContainer()
        self._groups = {
            group: {
                name: _column(table, f"{container.prefix}_{name}", default)
                for name, default in container.items()
            }
            for group, container in containers.items()
        }

    def __len__(self):
        return self._length

    def __getitem__(self, name):
        if name != "parameters":
            raise KeyError(name)
        return _namespace(self._groups)

    def row(self, i):
        """``parameters`` of one event."""
        return _namespace(
            {
                group: {name: column[i] for name, column in columns.items()}
                for group, columns in self._groups.items()
            }
        )


def _column(table, name, default):
    """Values of a column, with its unit if it has one."""
    if name not in table.colnames:
        return np.broadcast_to(default, len(table), subok=True)  # with its unit
    column = table[name]
    return column.quantity if column.unit else np.asarray(column)


def _namespace(groups):
    return SimpleNamespace(
        **{group: SimpleNamespace(**columns) for group, columns in groups.items()}
    )
