"""Events to explain: images, with the cleaning and the truth where a file has them."""

import numpy as np
import tables
from ctapipe.io import TableLoader
from ctapipe.io.hdf5dataformat import (
    DL1_TEL_IMAGES_GROUP,
    DL1_TEL_PARAMETERS_GROUP,
    SIMULATION_IMAGES_GROUP,
    SIMULATION_SHOWER_TABLE,
)

from .events import EventError
from .files import reason

__all__ = ["ImageFile"]

CHUNK_SIZE = 500  # array events read at once; 10 MB of LSTCam images


class ImageFile:
    """A DL1 or DL2 file of ctapipe with images.

    Parameters
    ----------
    path : path-like
    parent : ctapipe.core.Component, optional
        Has the configuration of `ctapipe.io.TableLoader`.

    Attributes
    ----------
    subarray : ctapipe.instrument.SubarrayDescription
    has_parameters : bool
        Whether there are image parameters.
    is_simulated : bool
        Whether there is the truth of the shower.
    showers : set of str
        Which of the showers of `ctapipe_gphysnet.relevance.showers_of` its events have.

    Raises
    ------
    EventError
        If it cannot be read, has no images, or nothing that tells where the shower is.
    """

    def __init__(self, path, parent=None):
        self.path = path
        try:
            self._loader = TableLoader(path, parent=parent)
        except Exception as error:  # PyTables, h5py and ctapipe each raise their own
            raise EventError(
                f"{path}: cannot be read as a ctapipe file: {reason(error)}"
            ) from error
        root = self._loader.h5file.root
        self.subarray = self._loader.subarray
        self.has_parameters = DL1_TEL_PARAMETERS_GROUP in root
        self.is_simulated = SIMULATION_SHOWER_TABLE in root
        try:
            self.showers = self._find_showers(root)
        except EventError:
            self.close()
            raise

    def _find_showers(self, root):
        if DL1_TEL_IMAGES_GROUP not in root:
            raise EventError(
                f"{self.path}: no images ({DL1_TEL_IMAGES_GROUP} is missing); make DL1"
                " files with ctapipe-process --write-images, and DL2 files with"
                " gphysnet-apply but without --no-dl1-images"
            )
        showers = set()
        if SIMULATION_IMAGES_GROUP in root:
            showers.add("true")
        images = root[DL1_TEL_IMAGES_GROUP]._f_iter_nodes("Table")
        if all("image_mask" in table.colnames for table in images):
            showers.add("cleaned")
        if not showers:
            raise EventError(
                f"{self.path}: neither true images ({SIMULATION_IMAGES_GROUP}) nor a"
                f" column image_mask in the tables of {DL1_TEL_IMAGES_GROUP}: nothing"
                " tells where the shower is; make DL1 files with ctapipe-process"
                " --write-images --write-parameters"
            )
        return showers

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __len__(self):
        """Number of array events."""
        return len(self._loader)

    def close(self):
        """Close the file."""
        self._loader.close()

    def chunks(self, tel_ids, images=True):
        """Read all events of some telescopes, chunk by chunk.

        Parameters
        ----------
        tel_ids : list of int
        images : bool
            Whether to read images and truth, or image parameters alone.

        Yields
        ------
        n_events : int
            Number of array events in the chunk.
        events : dict of int to astropy.table.Table
            By telescope id; with images, those that have one.

        Raises
        ------
        EventError
            If a table cannot be read.
        """
        chunks = self._loader.read_telescope_events_by_id_chunked(
            CHUNK_SIZE,
            telescopes=tel_ids,
            dl1_images=images,
            dl1_parameters=True,
            dl1_muons=False,
            dl2=False,
            simulated=images,
            true_images=images,
            true_parameters=False,
            instrument=False,
            observation_info=False,
            pointing=images,
        )
        try:
            for chunk in chunks:
                events = chunk.data
                if images:
                    events = {tel_id: _with_image(t) for tel_id, t in events.items()}
                yield chunk.stop - chunk.start, events
        except (tables.HDF5ExtError, tables.NodeError, OSError, LookupError) as error:
            raise EventError(f"{self.path}: cannot be read: {reason(error)}") from error
        except ValueError as error:  # of tables of different length
            raise EventError(
                f"{self.path}: cannot be read: {reason(error)}; every table needs a row"
                " for each triggered telescope, as ctapipe-process writes them"
            ) from error


def _with_image(events):
    """Those of the events that have an image; triggered telescopes may lack it."""
    image = events["image"]
    missing = np.ma.getmaskarray(np.ma.asarray(image)).any(axis=1)
    missing |= np.isnan(np.asarray(image)).all(axis=1)
    return events[~missing]
