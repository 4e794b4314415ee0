"""Files of lstchain: DL1 with images as input, DL2 as output.

Written after lstchain 0.12.3 (https://github.com/cta-observatory/cta-lstchain), which is
not needed: it wants older versions of ctapipe. The names of columns are explained in its
``lstchain/io/lstcontainers.py``. Angles are in radians, but for ``width`` and ``length``,
which are in degrees; positions in the camera are in metres, energies in TeV.
"""

from dataclasses import dataclass

import astropy.units as u
import numpy as np
import tables
from astropy.table import Table
from ctapipe.instrument import FocalLengthKind, SubarrayDescription

from .chunks import RowReader
from .dl1 import ArrayEvents, DL1Error, DL1File, Reading, TelescopeEvents
from .files import close_verified
from .merging import verify_same_model
from .products import PRODUCTS, physical_columns
from .tasks import GAMMA_ID, horizontal_to_telescope

__all__ = [
    "LstchainDL2Writer",
    "LstchainEvents",
    "LstchainFile",
    "LstchainMerger",
    "camera_position",
    "displacement",
    "dl2_prefix",
    "is_lstchain",
    "open_dl1",
    "read_dl2",
]

IMAGES = "/dl1/event/telescope/image/LST_LSTCam"
DL1_PARAMETERS = "/dl1/event/telescope/parameters/LST_LSTCam"
DL2_PARAMETERS = "/dl2/event/telescope/parameters/LST_LSTCam"
NOT_RECONSTRUCTED = "/dl2/event/telescope/not_reconstructed/LST_LSTCam"
RUN_CONFIG = "/simulation/run_config"
DIFFERENT_BETWEEN_RUNS = (
    *("obs_id", "run_number", "n_showers"),
    *("shower_prog_start", "detector_prog_start"),
)
CONFIGURATION = "/configuration"
TIME = "dragon_time"  # of observed events

SHOWER = 32  # event_type, also of simulated events
PROTON_ID = 101  # what lstchain calls all that is not a gamma ray
KEYS = ["obs_id", "event_id", "tel_id"]
BLOCK_SIZE = 24 * 2**20  # bytes of images that are read at once
FILTERS = tables.Filters(complevel=1, complib="blosc:zstd", fletcher32=True)

# Columns by ctapipe's names. Positions and directions in the image are not there: their
# frame is another.
_EXTENTS = ("length", "length_uncertainty", "width", "width_uncertainty")
_PARAMETERS = {
    "hillas_intensity": ("intensity", None),
    **{f"hillas_{name}": (name, u.deg) for name in _EXTENTS},
    "hillas_kurtosis": ("kurtosis", None),
    **{
        name: (name, None)
        for name in (
            "leakage_intensity_width_1",
            "leakage_intensity_width_2",
            "leakage_pixels_width_1",
            "leakage_pixels_width_2",
            "concentration_cog",
            "concentration_core",
            "concentration_pixel",
        )
    },
    "morphology_n_pixels": ("n_pixels", None),
    "morphology_n_islands": ("n_islands", None),
}
_TRUTH = {
    "true_energy": ("mc_energy", u.TeV),
    "true_alt": ("mc_alt", u.rad),
    "true_az": ("mc_az", u.rad),
    "true_core_x": ("mc_core_x", u.m),
    "true_core_y": ("mc_core_y", u.m),
    "true_h_first_int": ("mc_h_first_int", u.m),
    "true_shower_primary_id": ("mc_type", None),
    "tel_pos_x": ("tel_pos_x", u.m),
    "tel_pos_y": ("tel_pos_y", u.m),
    "tel_pos_z": ("tel_pos_z", u.m),
}
_RECONSTRUCTED = {
    "log_reco_energy": "f8",
    "reco_energy": "f8",
    "reco_disp_norm": "f8",
    "reco_disp_sign": "i8",
    "reco_disp_dx": "f8",
    "reco_disp_dy": "f8",
    "reco_src_x": "f8",
    "reco_src_y": "f8",
    "signed_time_gradient": "f8",
    "signed_skewness": "f8",
    "reco_alt": "f8",
    "reco_az": "f8",
    "gammaness": "f8",
    "reco_type": "i8",
}
# those of models that know them; lstchain has none
_UNCERTAINTIES = {"reco_energy_uncert": "f8", "reco_ang_distance_uncert": "f8"}


def is_lstchain(path):
    """Whether a file is one of lstchain, by its tables.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    bool
        False also for what is no HDF5 file.
    """
    try:
        with tables.open_file(path) as file:
            return any(node in file for node in (DL1_PARAMETERS, IMAGES, DL2_PARAMETERS))
    except (OSError, tables.HDF5ExtError):
        return False


def open_dl1(path, focal_length_choice, parent=None):
    """Open a DL1 file with images, of ctapipe or of lstchain.

    Parameters
    ----------
    path, focal_length_choice, parent
        See `ctapipe_gphysnet.dl1.DL1File`.

    Returns
    -------
    file : DL1File or LstchainFile

    Raises
    ------
    DL1Error
        If it cannot be read or has no images.
    """
    if is_lstchain(path):
        return LstchainFile(path, focal_length_choice)
    return DL1File(path, focal_length_choice, parent)


@dataclass
class LstchainEvents(ArrayEvents):
    """Some successive telescope events of a file.

    Attributes
    ----------
    rows : structured ndarray, shape (E,)
        Of the table of parameters. Every row is an event of its own, also where several
        telescopes saw the same shower.
    """

    rows: np.ndarray


class LstchainFile:
    """A DL1 file of lstchain with images.

    Parameters
    ----------
    path : path-like
    focal_length_choice : ctapipe.instrument.FocalLengthKind
        See `ctapipe.io.TableLoader`.

    Raises
    ------
    DL1Error
        If it cannot be read, has no images or no pointing, or its tables do not fit.
    """

    def __init__(self, path, focal_length_choice):
        self.path = path
        with self._reading():
            self._file = tables.open_file(path)
        try:
            with self._reading():
                self._images = self._table(IMAGES)
                self._parameters = self._table(DL1_PARAMETERS)
                self._verify()
                self._image_rows = RowReader(self._images)
                self.subarray = SubarrayDescription.from_hdf(
                    self._file, focal_length_choice=focal_length_choice
                )
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __len__(self):
        return self._parameters.nrows

    @property
    def data_model_version(self):
        """Version of lstchain that made the file."""
        return self._file.root._v_attrs["LSTCHAIN_VERSION"]

    @property
    def is_simulation(self):
        """Whether the truth of a simulation is there."""
        return "mc_energy" in self._parameters.colnames

    def close(self):
        """Close the file."""
        self._file.close()

    def _reading(self):
        return Reading(self.path, "lstchain")

    def _table(self, path):
        if path not in self._file:
            what = "no images" if path == IMAGES else "no parameters"
            raise DL1Error(f"{self.path}: {what} ({path} is missing)")
        return self._file.get_node(path)

    def _verify(self):
        if "LSTCHAIN_VERSION" not in self._file.root._v_attrs:
            raise DL1Error(f"{self.path}: no attribute LSTCHAIN_VERSION of the file")
        for table, names in (
            (self._images, [*KEYS, "image", "peak_time"]),
            (self._parameters, [*KEYS, "alt_tel", "az_tel", "x", "y", "psi"]),
        ):
            for name in names:
                if name not in table.colnames:
                    raise DL1Error(
                        f"{self.path}: no column {name} in {table._v_pathname};"
                        f" the file is of lstchain {self.data_model_version}, known are"
                        " those of version 0.12"
                    )
        if self._images.nrows != self._parameters.nrows:
            raise DL1Error(
                f"{self.path}: {self._images.nrows} images, but parameters of"
                f" {self._parameters.nrows} events"
            )
        for name in ("alt_tel", "az_tel"):
            values = self._parameters.col(name)
            if len(values) and not np.isfinite(values).any():
                raise DL1Error(f"{self.path}: no pointing, {name} is NaN everywhere")

    def blocks(self, tel_ids, with_parameters=True):
        """Read all events, block by block.

        Parameters
        ----------
        tel_ids : iterable of int
            The telescopes to read images of.
        with_parameters : bool
            Has no effect, the parameters are read in any case.

        Yields
        ------
        events : LstchainEvents
            Calibration events, whose ``event_type`` is not 32, are without image.

        Raises
        ------
        DL1Error
            If something is missing, or the tables have different events.
        """
        with self._reading():
            for rows, images in self._chunks(BLOCK_SIZE // self._images.rowsize):
                is_shower = _is_shower(rows)
                telescopes = []
                for tel_id in np.intersect1d(rows["tel_id"], list(tel_ids)):
                    event = np.flatnonzero(rows["tel_id"] == tel_id)
                    with_image = is_shower[event]
                    mine = event[with_image]
                    altitude, azimuth = _pointing(rows[mine])
                    telescopes.append(
                        TelescopeEvents(
                            tel_id=int(tel_id),
                            event=event,
                            has_image=with_image,
                            image=images["image"][mine],
                            peak_time=images["peak_time"][mine],
                            parameters=_columns(rows[mine], _PARAMETERS, self.subarray),
                            altitude=altitude,
                            azimuth=azimuth,
                        )
                    )
                yield LstchainEvents(rows[["obs_id", "event_id"]], telescopes, rows)

    def _chunks(self, size):
        """Rows of both tables, some at a time."""
        for start in range(0, len(self), max(1, size)):
            rows = self._parameters.read(start, start + size)
            images = self._image_rows.read(start, start + size)
            for name in KEYS:
                different = np.flatnonzero(rows[name] != images[name])
                if len(different):
                    i = different[0]
                    raise DL1Error(
                        f"{self.path}: row {start + i} of the parameters has {name}"
                        f" {rows[name][i]}, that of the images {images[name][i]}"
                    )
            yield rows, images

    def tables(self, size, tel_ids):
        """Read simulated events as tables with ctapipe's names.

        Parameters
        ----------
        size : int
            Events that are read at once.
        tel_ids : iterable of int
            The telescopes to read.

        Yields
        ------
        events : astropy.table.Table
            With images, the parameters that mean the same in ctapipe, and the truth.

        Raises
        ------
        DL1Error
            If it is not a simulation.
        """
        if not self.is_simulation:
            raise DL1Error(f"{self.path}: no column mc_energy; these are no simulations")
        with self._reading():
            for rows, images in self._chunks(size):
                wanted = np.isin(rows["tel_id"], list(tel_ids)) & _is_shower(rows)
                rows, images = rows[wanted], images[wanted]
                table = _columns(rows, {**_PARAMETERS, **_TRUTH}, self.subarray)
                for name in ("image", "peak_time"):
                    table[name] = images[name]
                table["pointing_alt"], table["pointing_az"] = _pointing(rows)
                yield table


def _columns(rows, names, subarray):
    """Columns by ctapipe's names, with units."""
    table = Table({name: rows[name] for name in KEYS})
    for name, (column, unit) in names.items():
        if column in rows.dtype.names:
            table[name] = u.Quantity(rows[column], unit) if unit else rows[column]
    for name in _EXTENTS:
        if f"hillas_{name}" in table.colnames:
            angle = table[f"hillas_{name}"].quantity
            table[f"hillas_{name}"] = _effective(angle, rows["tel_id"], subarray)
    return table


def _effective(angle, tel_ids, subarray):
    """Angles with the effective focal length; lstchain has those of the design."""
    ids, telescope = np.unique(tel_ids, return_inverse=True)
    optics = [subarray.tel[tel_id].optics for tel_id in ids]
    scale = [o.equivalent_focal_length / _focal_length(o) for o in optics]
    scale = u.Quantity(scale, u.one).take(telescope)
    return (np.tan(angle) * scale).to_value(u.one) * u.rad.to(u.deg) * u.deg


def _is_shower(rows):
    """Which rows are no calibration events."""
    if "event_type" not in rows.dtype.names:
        return np.ones(len(rows), dtype=bool)
    return rows["event_type"] == SHOWER


def _pointing(rows):
    """Altitude and azimuth of the telescope, as lstchain chooses them."""
    start = "mc_" if "mc_alt_tel" in rows.dtype.names else ""
    return (
        u.Quantity(rows[f"{start}{name}_tel"], u.rad, dtype=np.float64)
        for name in ("alt", "az")
    )


class LstchainMerger:
    """Puts files of lstchain together in one, a part of a table at a time.

    Parameters
    ----------
    path : path-like
        Is replaced.
    leave_out : tuple of str
        Tables that stay behind.
    """

    def __init__(self, path, leave_out=()):
        self._leave_out = leave_out
        self._first = None
        self._file = tables.open_file(path, "w", filters=FILTERS)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Close the file."""
        self._file.close()

    def finish(self):
        """Close the file, which is whole."""
        close_verified(self._file)

    def copy(self, path):
        """Append the tables of a file; what is no table is that of the first file.

        Parameters
        ----------
        path : path-like

        Raises
        ------
        DL1Error
            If it cannot be in one file with those before, because simulations or columns
            differ, or if it cannot be read.
        ctapipe.io.hdf5merger.CannotMerge
            If it has results of another model.
        """
        with Reading(path, "lstchain"), tables.open_file(path) as source:
            if self._first is None:
                self._first = path
                source.root._v_attrs._f_copy(self._file.root)
            for node in source.walk_nodes(classname="Leaf"):
                name = node._v_pathname
                if name in self._leave_out:
                    continue
                if name not in self._file:
                    node._f_copy(self._group(node._v_parent), filters=FILTERS)
                elif name == RUN_CONFIG:
                    self._append_run(node, path)
                elif isinstance(node, tables.Table) and not name.startswith(
                    CONFIGURATION
                ):
                    self._append_rows(node, path)

    def _group(self, group):
        """Group of the output for one of an input, with its attributes."""
        path = group._v_pathname
        if path not in self._file:
            made = self._file.create_group(
                *path.rpartition("/")[::2], title=group._v_title, createparents=True
            )
            group._v_attrs._f_copy(made)
        return self._file.get_node(path)

    def _append_rows(self, table, path):
        """Append the rows of a table, which must have the same columns."""
        known = self._file.get_node(table._v_pathname)
        if known.dtype != table.dtype:
            raise DL1Error(
                f"{path}: {table._v_pathname} has other columns than that of"
                f" {self._first}; they cannot be in one file"
            )
        verify_same_model(table, known)
        size = max(1, BLOCK_SIZE // table.rowsize)
        for start in range(0, table.nrows, size):
            known.append(table.read(start, start + size))

    def _append_run(self, table, path):
        """Append the configuration of a simulation, which has to be a known one."""
        known = self._file.get_node(RUN_CONFIG)
        for row in table.read():
            different = min((_differences(row, other) for other in known.read()), key=len)
            if different:
                name, value, expected = different[0]
                raise DL1Error(
                    f"{path}: {name} in {RUN_CONFIG} is {value}, that of {self._first} is"
                    f" {expected}; they cannot be in one file"
                )
        known.append(table.read())


def _differences(run, other):
    """Name and both values of what is different in the configurations of two runs."""
    return [
        (name, run[name], other[name])
        for name in run.dtype.names
        if name not in DIFFERENT_BETWEEN_RUNS
        and not np.array_equal(
            run[name], other[name], equal_nan=run[name].dtype.kind == "f"
        )
    ]


class LstchainDL2Writer(LstchainMerger):
    """Writes a DL2 file of lstchain.

    Events that were reconstructed are in the table of lstchain, in their order. Its tools
    want no others there, so those that were not, as calibration events and faint ones,
    have their DL1 parameters in the table ``NOT_RECONSTRUCTED``. The other tables are
    copied, but for images.

    Parameters
    ----------
    path : path-like
        Is replaced.
    reconstructor : GammaPhysNetReconstructor
    inputs : list of path-like
        DL1 files.

    Raises
    ------
    DL1Error
        If files cannot be together in one, because their simulations or columns differ.
    """

    def __init__(self, path, reconstructor, inputs):
        self._reconstructor = reconstructor
        self._last = None  # number of the run and time of the last row
        super().__init__(path, leave_out=(IMAGES, DL1_PARAMETERS))
        try:
            for source in inputs:
                self.copy(source)
                self._prepare_columns(source)
        except BaseException:
            self.close()
            raise

    def _prepare_columns(self, path):
        """Make the tables of events for the first input; others must have its columns."""
        with Reading(path, "lstchain"), tables.open_file(path) as file:
            parameters = file.get_node(DL1_PARAMETERS)
            if DL2_PARAMETERS not in self._file:
                self._create(parameters)
            elif self._dl1_dtype != parameters.dtype:
                raise DL1Error(
                    f"{path}: its parameters have other columns than those of"
                    f" {self._first}; apply to each file on its own"
                )

    def _create(self, parameters):
        """Make the table of the events."""
        self._dl1_dtype = parameters.dtype
        self._file.create_table(
            *NOT_RECONSTRUCTED.rpartition("/")[::2],
            description=parameters.dtype,
            createparents=True,
        )
        new = {} if TIME not in parameters.colnames else {"delta_t": "f8"}
        new |= _RECONSTRUCTED
        assignments = self._reconstructor.assignments.values()
        if any(a.predictor.model.network.options.uncertainty for a in assignments):
            new |= _UNCERTAINTIES
        fields = [(name, parameters.dtype[name]) for name in parameters.colnames]
        self._dtype = np.dtype(fields + list(new.items()))
        table = self._file.create_table(
            *DL2_PARAMETERS.rpartition("/")[::2],
            description=self._dtype,
            createparents=True,
        )
        for name in parameters.attrs._f_list("user"):
            # lstchain's DL2 tables do not say how to read columns
            if not name.startswith("CTAFIELD_"):
                table.attrs[name] = parameters.attrs[name]
        for product in self._reconstructor.products:
            container = self._reconstructor.container(product, "", product.nothing)
            for name, value in container.meta.items():
                table.attrs[name] = value

    def append(self, block):
        """Append the results of a block of events."""
        events = block.events
        rows = np.zeros(len(events.rows), dtype=self._dtype)
        complete = np.zeros(len(rows), dtype=bool)
        for name in events.rows.dtype.names:
            rows[name] = events.rows[name]
        if TIME in rows.dtype.names:
            self._fill_time_differences(rows)
        for telescope, usable, raw in zip(events.telescopes, block.usable, block.raw):
            assignment = self._reconstructor.assignments[telescope.tel_id]
            place = telescope.event[telescope.has_image][usable]
            columns = physical_columns(
                raw,
                assignment.match.angle_scale,
                self._reconstructor.subarray.positions[telescope.tel_id],
                telescope.altitude[usable],
                telescope.azimuth[usable],
            )
            rows[place] = self._reconstructed(rows[place], telescope.tel_id, columns)
            valid = [columns[product.task]["is_valid"] for product in PRODUCTS]
            complete[place] = np.logical_and.reduce(valid)
        self._file.get_node(DL2_PARAMETERS).append(rows[complete])
        self._file.get_node(NOT_RECONSTRUCTED).append(events.rows[~complete])

    def _fill_time_differences(self, rows):
        """Time since the event before, of whatever type, as lstchain has it."""
        run, time = rows["obs_id"], rows[TIME]
        if self._last is None:
            self._last = run[0], time[0]
        same_run = np.diff(run, prepend=self._last[0]) == 0
        rows["delta_t"] = np.where(same_run, np.diff(time, prepend=self._last[1]), 0)
        self._last = run[-1], time[-1]

    def _reconstructed(self, rows, tel_id, columns):
        """Rows of a telescope with what was reconstructed."""
        energy = columns["energy"]["energy"].to_value(u.TeV)
        rows["reco_energy"], rows["log_reco_energy"] = energy, np.log10(energy)
        gammaness = columns["particle_type"]["prediction"]
        rows["gammaness"] = gammaness
        rows["reco_type"] = np.where(gammaness > 0.5, GAMMA_ID, PROTON_ID)
        alt, az = columns["direction"]["alt"], columns["direction"]["az"]
        rows["reco_alt"], rows["reco_az"] = alt.to_value(u.rad), az.to_value(u.rad)
        if "reco_energy_uncert" in rows.dtype.names:
            uncertainty = columns["energy"]["energy_uncert"]
            rows["reco_energy_uncert"] = uncertainty.to_value(u.TeV)
            radius = columns["direction"]["ang_distance_uncert"]
            rows["reco_ang_distance_uncert"] = radius.to_value(u.rad)
        self._fill_position(rows, "reco_", tel_id, alt, az)
        if "mc_alt" in rows.dtype.names:
            # anew, with the focal length that the reconstruction has
            truth = (rows[name] * u.rad for name in ("mc_alt", "mc_az"))
            self._fill_position(rows, "", tel_id, *truth)
        rows["signed_time_gradient"] = -rows["reco_disp_sign"] * rows["time_gradient"]
        rows["signed_skewness"] = -rows["reco_disp_sign"] * rows["skewness"]
        return rows

    def _fill_position(self, rows, start, tel_id, alt, az):
        """Fill position in the camera, and displacement from the image's center."""
        optics = self._reconstructor.subarray.tel[tel_id].optics
        focal_length = _focal_length(optics)
        x, y = camera_position(alt, az, *_pointing(rows), focal_length.to_value(u.m))
        values = {"src_x": x, "src_y": y}
        for name, value in displacement(x, y, rows).items():
            values[f"disp_{name}"] = value
        for name, value in values.items():
            if start + name in rows.dtype.names:
                rows[start + name] = value


def dl2_prefix(path):
    """What a DL2 file says who has reconstructed its events.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    prefix : str
        As of ctapipe's tables, without the property: that of the network, or lstchain.

    Raises
    ------
    DL1Error
        If it is no DL2 file.
    """
    with Reading(path, "lstchain"), tables.open_file(path) as file:
        if DL2_PARAMETERS not in file:
            raise DL1Error(f"{path}: no table {DL2_PARAMETERS}; is it a DL1 file?")
        names = file.get_node(DL2_PARAMETERS).attrs._f_list("user")
    found = [n.removesuffix("Energy_model") for n in names if n.endswith("Energy_model")]
    return found[0] if found else "lstchain"


def read_dl2(path):
    """Read a DL2 file of simulated events.

    Parameters
    ----------
    path : path-like
        Of lstchain itself, or of `LstchainDL2Writer`.

    Returns
    -------
    events : astropy.table.Table
        With the columns that `ctapipe.io.TableLoader` gives for telescope events.

    Raises
    ------
    DL1Error
        If it cannot be read, is no DL2 file, or the events are not simulated.
    """
    prefix = dl2_prefix(path)
    with Reading(path, "lstchain"), tables.open_file(path) as file:
        table = file.get_node(DL2_PARAMETERS)
        rows, meta = (
            table.read(),
            {n: table.attrs[n] for n in table.attrs._f_list("user")},
        )
        subarray = SubarrayDescription.from_hdf(file, FocalLengthKind.EFFECTIVE)
    if "mc_energy" not in rows.dtype.names:
        raise DL1Error(f"{path}: no column mc_energy; these are no simulated events")
    results = {
        f"{prefix}Energy_tel_energy": ("reco_energy", u.TeV),
        f"{prefix}Geometry_tel_alt": ("reco_alt", u.rad),
        f"{prefix}Geometry_tel_az": ("reco_az", u.rad),
        f"{prefix}Classifier_tel_prediction": ("gammaness", None),
    }
    if "reco_energy_uncert" in rows.dtype.names:
        results |= {
            f"{prefix}Energy_tel_energy_uncert": ("reco_energy_uncert", u.TeV),
            f"{prefix}Geometry_tel_ang_distance_uncert": (
                "reco_ang_distance_uncert",
                u.rad,
            ),
        }
    events = _columns(rows, {**_PARAMETERS, **_TRUTH, **results}, subarray)
    for name in ("Energy", "Geometry", "Classifier"):
        events[f"{prefix}{name}_tel_is_valid"] = True
    for name in ("core_x", "core_y"):
        events[f"{prefix}Geometry_tel_{name}"] = np.nan * u.m
    pointing = ("telescope_pointing_altitude", "telescope_pointing_azimuth")
    for name, values in zip(pointing, _pointing(rows)):
        events[name] = values
    events.meta.update(meta)
    return events


def _focal_length(optics):
    """The effective one, that of the design if it is unknown."""
    if np.isfinite(optics.effective_focal_length):
        return optics.effective_focal_length
    return optics.equivalent_focal_length


def camera_position(alt, az, pointing_alt, pointing_az, focal_length):
    """Where a direction is in the camera.

    As ctapipe transforms from `AltAz` to `CameraFrame`, whose x axis is along fov_lat and
    whose y axis is along fov_lon, without its cost per call.

    Parameters
    ----------
    alt, az : Quantity, shape (N,)
    pointing_alt, pointing_az : Quantity, shape (N,)
    focal_length : float or array-like, shape (N,)
        In metres.

    Returns
    -------
    x, y : ndarray, shape (N,)
        In metres.
    """
    lon, lat = horizontal_to_telescope(alt, az, pointing_alt, pointing_az)
    return lat.to_value(u.rad) * focal_length, lon.to_value(u.rad) * focal_length


def displacement(x, y, image):
    """Displacement of a position in the camera from the center of an image.

    As ``lstchain.reco.disp.disp`` computes it: norm and sign are those of the component
    along the axis of the image.

    Parameters
    ----------
    x, y : ndarray, shape (N,)
        In metres.
    image : mapping
        Center ``x``, ``y`` [m] and direction of the axis ``psi`` [rad] of the images.

    Returns
    -------
    displacement : dict of str to ndarray
        ``dx``, ``dy``, ``norm``, ``angle`` and ``sign``, which is 0 if it is unknown.
    """
    dx, dy = x - image["x"], y - image["y"]
    along = dx * np.cos(image["psi"]) + dy * np.sin(image["psi"])
    with np.errstate(divide="ignore", invalid="ignore"):
        angle = np.arctan(dy / dx)
    return {
        "dx": dx,
        "dy": dy,
        "norm": np.abs(along),
        "angle": angle,
        "sign": np.nan_to_num(np.sign(along)),
    }
