import os

import pytest
import tables
from ctapipe.core import ToolConfigurationError
from ctapipe.io.hdf5merger import CannotMerge

from ctapipe_gphysnet.tools.outputs import (
    failures_of_writing,
    verify_output,
    verify_output_folder,
)


def test_a_new_output(tmp_path):
    verify_output(tmp_path / "new.h5", overwrite=False)
    verify_output_folder(tmp_path / "new", overwrite=False, made_of="report.html")


def test_an_output_that_exists(tmp_path):
    path = tmp_path / "old.h5"
    path.touch()
    verify_output(path, overwrite=True)
    with pytest.raises(ToolConfigurationError, match=r"old.h5 exists; choose another"):
        verify_output(path, overwrite=False)


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(ToolConfigurationError, match="nowhere is not a directory"):
        verify_output(tmp_path / "nowhere" / "new.h5", overwrite=False)


def test_no_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    with pytest.raises(ToolConfigurationError, match="no permission to write there"):
        verify_output(tmp_path / "new.h5", overwrite=False)


def test_only_folders_of_the_tool_are_replaced(tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    with pytest.raises(ToolConfigurationError, match=r"thesis has no report.html, so it"):
        verify_output_folder(folder, overwrite=True, made_of="report.html")
    (folder / "report.html").touch()
    verify_output_folder(folder, overwrite=True, made_of="report.html")


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), tables.HDF5ExtError("x")]
)
def test_failures_name_the_output(tmp_path, error):
    message = r"new.h5 cannot be written: .*GB are free there"
    with (
        pytest.raises(ToolConfigurationError, match=message),
        failures_of_writing(tmp_path / "new.h5"),
    ):
        raise error


def test_what_is_wrong_with_the_input_stays_as_it_is(tmp_path):
    with pytest.raises(CannotMerge), failures_of_writing(tmp_path / "new.h5"):
        raise CannotMerge("run.dl1.h5: no such table")
