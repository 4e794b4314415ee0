"""Turn simulated DL1 files of ctapipe into DL1 files of lstchain.

For events of large telescopes, of gphysnet-simulate or of ctapipe-process with image
parameters in the telescope frame. Images and parameters stay as they are, in lstchain's
units and axes.

    python examples/lstchain/to_lstchain_dl1.py gamma.dl1.h5 dl1_gamma.h5
"""

import argparse
from pathlib import Path

import astropy.units as u
import numpy as np
import tables
from astropy.coordinates import angular_separation
from ctapipe.io import TableLoader
from tqdm import tqdm

from ctapipe_gphysnet.files import close_verified, replaced_when_whole
from ctapipe_gphysnet.lstchain import (
    DL1_PARAMETERS,
    FILTERS,
    IMAGES,
    RUN_CONFIG,
    SHOWER,
    camera_position,
    displacement,
)

CHUNK_SIZE = 2000
VERSION = "0.12.3"  # of lstchain, whose format this is
RUNS = "/configuration/simulation/run"
COPIES = {
    "/simulation/service/shower_distribution": "/simulation/thrown_event_distribution",
    "/dl1/event/subarray/trigger": "/dl1/event/subarray/trigger",
}
# by their names in ctapipe's tables
SAME = {
    "obs_id": "obs_id",
    "event_id": "event_id",
    "hillas_intensity": "intensity",
    "hillas_kurtosis": "kurtosis",
    "timing_intercept": "intercept",
    "leakage_intensity_width_1": "leakage_intensity_width_1",
    "leakage_intensity_width_2": "leakage_intensity_width_2",
    "leakage_pixels_width_1": "leakage_pixels_width_1",
    "leakage_pixels_width_2": "leakage_pixels_width_2",
    "concentration_cog": "concentration_cog",
    "concentration_core": "concentration_core",
    "concentration_pixel": "concentration_pixel",
    "morphology_n_pixels": "n_pixels",
    "morphology_n_islands": "n_islands",
    "true_shower_primary_id": "mc_type",
    "tel_id": "tel_id",
}
QUANTITIES = {
    "true_energy": ("mc_energy", u.TeV),
    "true_alt": ("mc_alt", u.rad),
    "true_az": ("mc_az", u.rad),
    "true_core_x": ("mc_core_x", u.m),
    "true_core_y": ("mc_core_y", u.m),
    "true_h_first_int": ("mc_h_first_int", u.m),
    "true_x_max": ("mc_x_max", u.g / u.cm**2),
    "telescope_pointing_altitude": ("mc_alt_tel", u.rad),
    "telescope_pointing_azimuth": ("mc_az_tel", u.rad),
    "pos_x": ("tel_pos_x", u.m),
    "pos_y": ("tel_pos_y", u.m),
    "pos_z": ("tel_pos_z", u.m),
}


def main():
    """Convert a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", type=Path, help="DL1 file of ctapipe, with images")
    parser.add_argument("output", type=Path, help="DL1 file of lstchain to write")
    options = parser.parse_args()
    with replaced_when_whole(options.output) as aside:
        convert(options.input, aside)


def convert(source, output):
    """Write a DL1 file of lstchain.

    Parameters
    ----------
    source, output : path-like
    """
    with TableLoader(source) as loader, tables.open_file(source) as file:
        loader.subarray.to_hdf(output, overwrite=True)
        with tables.open_file(output, "a") as made:
            made.root._v_attrs["LSTCHAIN_VERSION"] = VERSION
            copy_tables(file, made)
            chunks = loader.read_telescope_events_chunked(
                CHUNK_SIZE,
                dl1_images=True,
                dl1_parameters=True,
                simulated=True,
                instrument=True,
                pointing=True,
                true_parameters=False,
            )
            for chunk in tqdm(chunks, unit="chunk"):
                events = chunk.data
                append(made, IMAGES, image_rows(events))
                append(made, DL1_PARAMETERS, parameter_rows(events, loader.subarray))
            tell_offset(made)
            close_verified(made)


def tell_offset(made):
    """Say how far a point source is off the axis, where lstchain looks for it.

    That is the viewcone: a point source at its angle is to lstchain a ring of no width.
    """
    runs = made.get_node(RUN_CONFIG)
    rows, first = runs.read(), made.get_node(DL1_PARAMETERS)[0]
    names = ("mc_alt", "mc_az", "mc_alt_tel", "mc_az_tel")
    alt, az, pointing_alt, pointing_az = (first[name] for name in names)
    offset = np.rad2deg(angular_separation(az, alt, pointing_az, pointing_alt))
    point = rows["max_viewcone_radius"] == 0
    for name in ("min_viewcone_radius", "max_viewcone_radius"):
        rows[name][point] = round(offset, 4)
    runs.modify_rows(0, len(rows), 1, rows)


def copy_tables(file, made):
    """Copy tables that are the same, or nearly."""
    for source, target in COPIES.items():
        if source in file.root:
            parent, _, name = target.rpartition("/")
            group = made.create_group(*parent.rpartition("/")[::2], createparents=True)
            file.get_node(source)._f_copy(group, name, filters=FILTERS)
    # lstchain takes runs together whose numbers are equal, which NaN never is
    runs = file.root[RUNS]
    rows = runs.read()
    for name in runs.colnames:
        if rows.dtype[name].kind == "f":
            np.nan_to_num(rows[name], copy=False, nan=0)
    append(made, RUN_CONFIG, rows)
    runs.attrs._f_copy(made.get_node(RUN_CONFIG))


def append(made, path, rows):
    """Append rows to a table, which is made if it is not there."""
    if path not in made:
        made.create_table(
            *path.rpartition("/")[::2], obj=rows, filters=FILTERS, createparents=True
        )
    else:
        made.get_node(path).append(rows)


def structured(columns):
    """A structured array of columns."""
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    fields = [(name, a.dtype, a.shape[1:]) for name, a in arrays.items()]
    rows = np.empty(len(next(iter(arrays.values()))), dtype=fields)
    for name, values in arrays.items():
        rows[name] = values
    return rows


def image_rows(events):
    """Rows of the table of images."""
    columns = {name: events[name] for name in ("obs_id", "event_id")}
    columns["image"] = np.asarray(events["image"], dtype=np.float32)
    columns["peak_time"] = np.asarray(events["peak_time"], dtype=np.float32)
    columns["image_mask"] = np.asarray(events["image_mask"], dtype=bool)
    columns["is_valid"] = np.ones(len(events), dtype=bool)
    columns["tel_id"] = np.asarray(events["tel_id"], dtype=np.int64)
    columns["selected_gain_channel"] = np.zeros(events["image"].shape, dtype=np.int8)
    return structured(columns)


def parameter_rows(events, subarray):
    """Rows of the table of parameters."""
    columns = {new: np.asarray(events[old]) for old, new in SAME.items()}
    for old, (new, unit) in QUANTITIES.items():
        columns[new] = u.Quantity(events[old]).to_value(unit)
    columns["mc_type"] = columns["mc_type"].astype(np.int64)
    columns["log_intensity"] = np.log10(columns["intensity"])
    columns["log_mc_energy"] = np.log10(columns["mc_energy"])
    columns.update(image_columns(events, subarray))
    columns["wl"] = columns["width"] / columns["length"]
    for name in ("alt", "az"):
        columns[f"{name}_tel"] = columns[f"mc_{name}_tel"]
    columns["sin_az_tel"] = np.sin(columns["az_tel"])
    columns["mc_core_distance"] = np.hypot(
        columns["mc_core_x"] - columns["tel_pos_x"],
        columns["mc_core_y"] - columns["tel_pos_y"],
    )
    columns["calibration_id"] = np.full(len(events), -1)
    columns["trigger_time"] = np.asarray(events["time"].unix)
    for name in ("trigger_type", "event_type"):
        columns[name] = np.full(len(events), SHOWER)
    # as lstchain's DL1, unlike its DL2, with the focal length of the design
    columns["src_x"], columns["src_y"] = camera_position(
        *(columns[name] * u.rad for name in ("mc_alt", "mc_az")),
        *(columns[name] * u.rad for name in ("alt_tel", "az_tel")),
        focal_lengths(events, subarray, "equivalent_focal_length"),
    )
    shift = displacement(columns["src_x"], columns["src_y"], columns)
    columns.update({f"disp_{name}": values for name, values in shift.items()})
    return structured(columns)


def focal_lengths(events, subarray, name):
    """A focal length of the telescope of every event [m]."""
    optics = {tel_id: telescope.optics for tel_id, telescope in subarray.tel.items()}
    return np.array(
        [getattr(optics[tel_id], name).to_value(u.m) for tel_id in events["tel_id"]]
    )


def image_columns(events, subarray):
    """Parameters that are in other axes or units.

    The camera frame of lstchain has its x axis along ctapipe's fov_lat and its y axis
    along fov_lon, in metres. Its widths and lengths are angles with the focal length
    of the design, not with the effective one.
    """
    focal_length = focal_lengths(events, subarray, "effective_focal_length")
    design = focal_lengths(events, subarray, "equivalent_focal_length")

    def radian(name):
        return u.Quantity(events[f"hillas_{name}"]).to_value(u.rad)

    columns = {"x": radian("fov_lat"), "y": radian("fov_lon")}
    columns = {name: values * focal_length for name, values in columns.items()}
    columns["r"] = np.hypot(columns["x"], columns["y"])
    columns["phi"] = np.arctan2(columns["y"], columns["x"])
    for name in ("length", "length_uncertainty", "width", "width_uncertainty"):
        angle = np.arctan(radian(name) * focal_length / design)
        columns[name] = np.rad2deg(angle)
    psi = np.pi / 2 - radian("psi")
    turned = psi > np.pi / 2  # the axis points the other way then
    columns["psi"] = np.where(turned, psi - np.pi, psi)
    sign = np.where(turned, -1, 1)
    columns["skewness"] = sign * np.asarray(events["hillas_skewness"])
    slope = u.Quantity(events["timing_slope"]).to_value(1 / u.rad)
    columns["time_gradient"] = sign * slope / focal_length
    return columns


if __name__ == "__main__":
    main()
