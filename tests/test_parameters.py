import astropy.units as u
import numpy as np
import pytest
from astropy.table import Table
from ctapipe.containers import ImageParametersContainer

from ctapipe_gphysnet.parameters import ParameterColumns


@pytest.mark.parametrize("frame", ["", "camera_frame_"])
def test_columns_have_the_names_of_events(frame):
    unit = u.m if frame else u.deg
    table = Table(
        {f"{frame}hillas_intensity": [60.0, 80.0], f"{frame}hillas_width": [1, 2] * unit}
    )
    hillas = ParameterColumns(table)["parameters"].hillas
    np.testing.assert_array_equal(hillas.intensity, [60, 80])
    assert u.allclose(hillas.width, [1, 2] * unit)
    assert ParameterColumns(table).row(1).hillas.width == 2 * unit


def test_missing_column_is_that_of_an_empty_container():
    columns = ParameterColumns(Table({"hillas_intensity": [60.0, 80.0]}))["parameters"]
    empty = ImageParametersContainer()
    assert columns.hillas.width.unit == empty.hillas.width.unit
    assert not (columns.hillas.width > 0.1 * u.deg).any()
    assert columns.morphology.n_pixels.tolist() == 2 * [empty.morphology.n_pixels]


def test_other_names_are_unknown():
    with pytest.raises(KeyError, match="image"):
        ParameterColumns(Table({"hillas_intensity": [1.0]}))["image"]
