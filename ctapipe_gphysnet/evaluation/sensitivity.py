"""Effective area, event weights, cuts and sensitivity to a point source, by pyirf.

The order of work is that of pyirf's own example for EventDisplay::

    simulation = read_simulation(["gamma.dl2.h5"])
    gammas["weight"] = event_weights(gammas, simulation, SPECTRA["gamma"])
    ...                                 # the same for protons and electrons
    background = vstack([protons, electrons])
    cuts = optimize_cuts(gammas, background, reco_energy_bins)
    table = sensitivity(gammas, background, cuts)
"""

import logging
import operator
from contextlib import contextmanager
from dataclasses import dataclass

import astropy.units as u
import numpy as np
import tables
from astropy.stats import poisson_conf_interval
from astropy.table import QTable
from ctapipe.io import TableLoader, read_table
from pyirf.binning import create_histogram_table
from pyirf.cut_optimization import optimize_gh_cut
from pyirf.cuts import calculate_percentile_cut, evaluate_binned_cut
from pyirf.irf import effective_area as area_of_fraction
from pyirf.sensitivity import calculate_sensitivity, estimate_background
from pyirf.simulations import SimulatedEventsInfo
from pyirf.spectral import (
    CRAB_MAGIC_JHEAP2015,
    DIFFUSE_FLUX_UNIT,
    IRFDOC_ELECTRON_SPECTRUM,
    IRFDOC_PROTON_SPECTRUM,
    PowerLaw,
    calculate_event_weights,
)
from pyirf.utils import check_table
from tqdm.auto import tqdm

from ..files import reason
from ..lstchain import RUN_CONFIG, is_lstchain

__all__ = [
    "SPECTRA",
    "Cuts",
    "Simulation",
    "SimulationError",
    "effective_area",
    "event_weights",
    "optimize_cuts",
    "read_simulation",
    "sensitivity",
]

#: What the events are weighted to. The Crab nebula is that of MAGIC, because it is
#: measured down to 50 GeV; HEGRA's power law is far above it there.
SPECTRA = {
    "gamma": CRAB_MAGIC_JHEAP2015,
    "proton": IRFDOC_PROTON_SPECTRUM,
    "electron": IRFDOC_ELECTRON_SPECTRUM,
}

OBSERVATION_TIME = 50 * u.hour
ALPHA = 0.2  # size of the on region by that of the off regions
BACKGROUND_RING = [0, 1] * u.deg  # around the pointing
MIN_EVENTS = 10  # simulated ones; pyirf asks for as many before it derives a cut

#: What runs must have in common, and the unit in which it is compared.
COMMON = {
    "energy_range_min": u.TeV,
    "energy_range_max": u.TeV,
    "spectral_index": u.one,
    "min_scatter_range": u.m,
    "max_scatter_range": u.m,
    "min_viewcone_radius": u.deg,
    "max_viewcone_radius": u.deg,
    "core_pos_mode": u.one,
}
RECTANGULAR = 2  # core_pos_mode of sim_telarray; 1 is a disc, 0 is not given


class SimulationError(ValueError):
    """A file does not say how its events were simulated, or files do not agree."""


class Simulation(SimulatedEventsInfo):
    """The showers that were thrown to get some events.

    Parameters
    ----------
    n_showers, energy_min, energy_max, max_impact, spectral_index, viewcone_min, \
    viewcone_max
        See `pyirf.simulations.SimulatedEventsInfo`.
    scatter_radius : callable, optional
        True energies to the radii, both quantities, within which the core was
        thrown, for simulations where it is not always ``max_impact``.
    """

    def __init__(self, *args, scatter_radius=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.scatter_radius = scatter_radius

    @property
    def is_diffuse(self):
        """Whether the directions fill a cone."""
        return self.viewcone_max > self.viewcone_min

    def scatter_area(self, true_energy):
        """Area over which the cores of showers were thrown.

        Parameters
        ----------
        true_energy : Quantity, shape (N,)

        Returns
        -------
        area : Quantity, shape (N,)
        """
        radius = self.max_impact
        if self.scatter_radius is not None:
            radius = self.scatter_radius(true_energy)
        return np.ones(np.shape(true_energy)) * np.pi * radius.to(u.m) ** 2


def read_simulation(paths, scatter_radius=None):
    """How the events of some files were simulated.

    ctapipe stores one radius within which cores were thrown, the largest. **If the
    radius depended on the energy, effective areas from the stored number are too
    large** and weights too small, by the square of the ratio of the radii, and
    nothing in the file tells. Such a radius has to be given here.

    Parameters
    ----------
    paths : iterable of path-like
        ctapipe files of one kind of particle. Their runs may differ in nothing but
        the number of showers.
    scatter_radius : callable, optional
        See `Simulation`.

    Returns
    -------
    simulation : Simulation
        The number of showers counts each one as often as it was used. It is the
        number of entries in the stored distribution of thrown showers; in files
        without one, the number of showers times the number of their uses.

    Raises
    ------
    SimulationError
        If there is no simulation in a file, if it is of a kind that pyirf's formulas
        do not cover, if runs do not agree, or if a run is there twice.
    """
    runs = [run for path in paths for run in _read_runs(path)]
    if not runs:
        raise SimulationError("no file, hence no simulation")
    first = runs[0]
    seen = {}
    for run in runs:
        _verify_same(run, first)
        if run["obs_id"] in seen:
            raise SimulationError(
                f"{run['path']}: run {run['obs_id']} is also in {seen[run['obs_id']]};"
                " its showers would be counted twice"
            )
        seen[run["obs_id"]] = run["path"]
    _verify_covered(first)
    return Simulation(
        n_showers=sum(run["n_showers"] for run in runs),
        energy_min=first["energy_range_min"],
        energy_max=first["energy_range_max"],
        max_impact=first["max_scatter_range"],
        spectral_index=first["spectral_index"].to_value(u.one),
        viewcone_min=first["min_viewcone_radius"],
        viewcone_max=first["max_viewcone_radius"],
        scatter_radius=scatter_radius,
    )


def _read_runs(path):
    """A dictionary for each run of a file."""
    try:
        if is_lstchain(path):  # which multiplies showers by their uses
            configuration, counted = read_table(path, RUN_CONFIG), {}
        else:
            with TableLoader(path) as loader:
                configuration = loader.read_simulation_configuration()
                counted = _count_thrown(loader)
    except tables.NoSuchNodeError as error:
        raise SimulationError(f"{path}: it has no simulation configuration") from error
    except (OSError, tables.HDF5ExtError) as error:
        raise SimulationError(f"{path} cannot be read: {reason(error)}") from error
    for row in configuration:
        run = {
            name: u.Quantity(row[name], configuration[name].unit or u.one).to(unit)
            for name, unit in COMMON.items()
        }
        obs_id = int(row["obs_id"])
        n_showers = counted.get(obs_id, int(row["n_showers"]) * int(row["shower_reuse"]))
        yield run | {"path": path, "obs_id": obs_id, "n_showers": n_showers}


def _count_thrown(loader):
    """Number of thrown showers by run, where their distribution is stored."""
    try:
        distribution = loader.read_shower_distribution()
    except tables.NoSuchNodeError:
        return {}
    runs = distribution.group_by("obs_id").groups
    return {
        int(run["obs_id"]): int(rows["n_entries"].sum())
        for run, rows in zip(runs.keys, runs)
    }


def _verify_same(run, first):
    for name in COMMON:
        if not np.isclose(run[name], first[name], rtol=1e-6, atol=0, equal_nan=True):
            raise SimulationError(
                f"run {run['obs_id']} of {run['path']}: {name} is {run[name]:g}, but"
                f" {first[name]:g} in run {first['obs_id']} of {first['path']}; effective"
                " areas and rates are of runs that differ in the number of showers only"
            )


def _verify_covered(run):
    """Raise an error unless the formulas of pyirf hold for a simulation."""
    energies = f"{run['energy_range_min']:g} to {run['energy_range_max']:g}"
    for name, wrong, why in (
        (
            "energy_range",
            not 0 < run["energy_range_min"].value < run["energy_range_max"].value,
            f"{energies} is no range; effective areas need a spectrum",
        ),
        (
            "spectral_index",
            not run["spectral_index"] < -1,
            f"{run['spectral_index']:g} is not below -1, as pyirf needs it",
        ),
        (
            "max_scatter_range",
            not run["max_scatter_range"].value > 0,
            f"{run['max_scatter_range']:g} is no radius",
        ),
        (
            "min_scatter_range",
            run["min_scatter_range"].value > 0,
            f"{run['min_scatter_range']:g} is not 0; cores on a ring are not supported",
        ),
        (
            "core_pos_mode",
            run["core_pos_mode"] == RECTANGULAR,
            "cores on a rectangle are not supported",
        ),
        ("n_showers", not run["n_showers"] > 0, "no showers were thrown"),
    ):
        if wrong:
            raise SimulationError(f"{run['path']}: {name}: {why}")


def effective_area(events, simulation, true_energy_bins, mask=None, fov_offset=None):
    """Effective area in bins of true energy.

    The number of thrown showers in a bin is not counted but computed from the
    spectrum. Therefore the number of selected events fluctuates as Poisson's
    distribution even where every event is selected, and the interval is that of
    Poisson statistics. Showers that are used several times are not independent: the
    interval is then too small.

    Parameters
    ----------
    events : astropy.table.QTable, N rows
        With the column ``true_energy``, and ``true_source_fov_offset`` if
        ``fov_offset`` is given.
    simulation : Simulation
    true_energy_bins : Quantity, shape (B + 1,)
    mask : ndarray of bool, shape (N,), optional
        Which events are selected; all by default.
    fov_offset : Quantity, shape (2,), optional
        Only sources in this ring around the pointing count; for diffuse
        simulations. All by default.

    Returns
    -------
    table : astropy.table.QTable, B rows
        ``true_energy_low``, ``true_energy_high`` and ``true_energy_center``;
        ``n_selected`` events and ``n_thrown`` showers; ``effective_area`` in m2
        and the limits of its 68 % interval, ``effective_area_low`` and
        ``effective_area_high``. NaN where no shower was thrown.
    """
    check_table(events, required_units={"true_energy": u.TeV})
    selected = events if mask is None else events[mask]
    # outside of the simulated range pyirf integrates over a part of the bin only if
    # the other edge is inside
    edges = np.clip(true_energy_bins, simulation.energy_min, simulation.energy_max)
    if fov_offset is None:
        n_thrown = simulation.calculate_n_showers_per_energy(edges)
    else:
        selected = selected[_in_ring(selected["true_source_fov_offset"], fov_offset)]
        n_thrown = simulation.calculate_n_showers_per_energy_and_fov(edges, fov_offset)
        n_thrown = u.Quantity(n_thrown).to_value(u.one)[:, 0]
    n_thrown = np.where(n_thrown > 0, n_thrown, np.nan)

    energy = selected["true_energy"]
    weighted = QTable({"true_energy": energy})
    weighted["weight"] = simulation.scatter_area(energy).to_value(u.m**2)
    table = create_histogram_table(weighted, true_energy_bins, "true_energy")
    n_selected, total = table["n"], table["n_weighted"]
    table.keep_columns([name for name in table.colnames if name.startswith("true")])
    area = simulation.scatter_area(table["true_energy_center"])
    filled = n_selected > 0  # else the area is needed for the upper limit
    area[filled] = total[filled] / n_selected[filled] * u.m**2

    low, high = poisson_conf_interval(n_selected, interval="frequentist-confidence")
    table["n_selected"], table["n_thrown"] = n_selected, n_thrown
    table["effective_area"] = area_of_fraction(n_selected, n_thrown, area)
    table["effective_area_low"] = area_of_fraction(low, n_thrown, area)
    table["effective_area_high"] = area_of_fraction(high, n_thrown, area)
    return table


def _in_ring(offset, limits):
    return (offset >= limits[0]) & (offset < limits[1])


def event_weights(
    events, simulation, spectrum, obs_time=OBSERVATION_TIME, fov_offset=None
):
    """How many events each simulated one stands for.

    Parameters
    ----------
    events : astropy.table.QTable, N rows
        With the column ``true_energy``, and ``true_source_fov_offset`` for diffuse
        gammas.
    simulation : Simulation
    spectrum : callable
        True energy to flux, of a point source or per solid angle; see `SPECTRA`.
    obs_time : Quantity
    fov_offset : Quantity, shape (2,), optional
        Diffuse gammas stand for a point source anywhere in this ring around the
        pointing; those outside get weight 0. The whole cone by default.

    Returns
    -------
    weights : ndarray, shape (N,)
        Their sum over all thrown showers is the number of particles that come in
        the time through the area (and, if diffuse, the solid angle) of the
        simulation.

    Raises
    ------
    SimulationError
        If a flux per solid angle is wanted of a simulated point source.
    """
    check_table(events, required_units={"true_energy": u.TeV})
    energy = events["true_energy"]
    simulated = PowerLaw.from_simulation(simulation, obs_time)
    counted = np.ones(len(events))
    wants_diffuse = spectrum(simulation.energy_min).unit.is_equivalent(DIFFUSE_FLUX_UNIT)
    if wants_diffuse and not simulation.is_diffuse:
        raise SimulationError(
            "events from a single direction cannot be weighted to a flux per solid"
            " angle; simulate them over a cone"
        )
    if simulation.is_diffuse and not wants_diffuse:
        if fov_offset is None:
            fov_offset = u.Quantity([simulation.viewcone_min, simulation.viewcone_max])
        else:
            counted = _in_ring(events["true_source_fov_offset"], fov_offset)
        simulated = simulated.integrate_cone(*fov_offset)
    # the flux of the simulation is that on the largest area
    area = np.pi * simulation.max_impact**2
    fraction = (simulation.scatter_area(energy) / area).to_value(u.one)
    return counted * fraction * calculate_event_weights(energy, spectrum, simulated)


@dataclass(frozen=True)
class Cuts:
    """Cuts in bins of reconstructed energy.

    Attributes
    ----------
    gammaness, theta : astropy.table.QTable, B rows
        With the columns ``low``, ``center``, ``high`` and ``cut``. The least
        ``gh_score`` and the largest ``theta`` of selected events.
    """

    gammaness: QTable
    theta: QTable

    @property
    def reco_energy_bins(self):
        """Edges of the bins, a Quantity of shape (B + 1,)."""
        return np.append(self.gammaness["low"], self.gammaness["high"][-1])

    def passed_gammaness(self, events):
        """Mask of the events that pass the cut on gammaness."""
        return evaluate_binned_cut(
            events["gh_score"], events["reco_energy"], self.gammaness, operator.ge
        )

    def passed(self, events):
        """Mask of the events that pass both cuts."""
        return self.passed_gammaness(events) & evaluate_binned_cut(
            events["theta"], events["reco_energy"], self.theta, operator.le
        )


@contextmanager
def _silent_pyirf():
    """Without pyirf's warning for every bin, cut and replicate without background."""
    logger = logging.getLogger("pyirf.sensitivity")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@_silent_pyirf()
def optimize_cuts(
    gammas,
    background,
    reco_energy_bins,
    alpha=ALPHA,
    background_ring=BACKGROUND_RING,
    efficiencies=None,
    theta_limits=(0.05, 0.32) * u.deg,
    min_background=MIN_EVENTS,
    progress=False,
):
    """Cuts on gammaness and theta for the best sensitivity in each bin.

    As in pyirf's example for EventDisplay: theta is cut at 68 % containment of
    gamma-like gammas, the cut on gammaness is scanned, and then theta is cut at 68 %
    containment of the gammas that pass it. The cuts of a bin with less than 10
    gammas are the largest gammaness and the largest theta allowed.

    Among cuts that leave next to no background, the best is the one where the few
    simulated events happen to be missing. Therefore cuts that leave less than
    ``min_background`` of them are taken only if there are no others, and then the
    one that leaves most. What counts is the number of events of equal weight that
    would tell the background as well: not many electrons where no proton is left.

    The sensitivity of the same events is somewhat too good; events that the cuts
    were not made from tell it without bias.

    Parameters
    ----------
    gammas, background : astropy.table.QTable
        Events with ``reco_energy``, ``gh_score``, ``theta``,
        ``reco_source_fov_offset`` and ``weight``. Events with NaN or without weight
        are ignored.
    reco_energy_bins : Quantity, shape (B + 1,)
    alpha : float
        Size of the on region divided by that of the off regions.
    background_ring : Quantity, shape (2,)
        Distances from the pointing between which the background is counted, and
        taken as uniform.
    efficiencies : array-like, optional
        Fractions of gammas that pass the cut on gammaness, to be scanned;
        5 % to 80 % in steps of 5 % by default.
    theta_limits : Quantity, shape (2,)
    min_background : float
        Number of simulated background events.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    cuts : Cuts
    """
    if efficiencies is None:
        efficiencies = np.linspace(0.05, 0.8, 16)
    gammas, background = _reconstructed(gammas), _reconstructed(background)
    if len(gammas) == 0:
        raise ValueError("no reconstructed gammas: there is nothing to optimize cuts for")

    # as in ctapipe, the first cut keeps 40 % of the gammas in each bin
    gamma_like = calculate_percentile_cut(
        gammas["gh_score"],
        gammas["reco_energy"],
        bins=reco_energy_bins,
        fill_value=0.0,
        percentile=60,
        min_events=MIN_EVENTS,
    )
    theta = _contained(gammas, gamma_like, theta_limits)
    scanned = []
    for efficiency in tqdm(efficiencies, unit="cut", disable=not progress):
        found, cut = optimize_gh_cut(
            gammas,
            background,
            reco_energy_bins=reco_energy_bins,
            gh_cut_efficiencies=[efficiency],
            theta_cuts=theta,
            fov_offset_min=background_ring[0],
            fov_offset_max=background_ring[1],
            alpha=alpha,
            progress=False,
        )
        left = _effective_count(background, Cuts(cut, theta), background_ring)
        scanned.append((found["relative_sensitivity"], left, cut))
    best = _best([s for s, _, _ in scanned], [n for _, n, _ in scanned], min_background)
    gammaness = scanned[0][-1].copy()
    for i, j in enumerate(best):
        gammaness[i] = scanned[j][-1][i]
    return Cuts(gammaness, _contained(gammas, gammaness, theta_limits))


def _best(relative_sensitivity, n_background, min_background):
    """Which of C cuts to take in each of B bins.

    Parameters
    ----------
    relative_sensitivity, n_background : array-like, shape (C, B)

    Returns
    -------
    best : ndarray of int, shape (B,)
    """
    flux = np.nan_to_num(np.asarray(relative_sensitivity), nan=np.inf)
    n_background = np.asarray(n_background)
    enough = n_background >= np.minimum(min_background, n_background.max(axis=0))
    return np.argmin(np.where(enough, flux, np.inf), axis=0)


def _reconstructed(events):
    """Events of which every needed column is finite and that stand for something."""
    needed = {"reco_energy": u.TeV, "theta": u.deg, "reco_source_fov_offset": u.deg}
    check_table(events, ["gh_score", "weight"], needed)
    good = events["weight"] > 0
    for name in [*needed, "gh_score"]:
        good &= np.isfinite(events[name])
    return events[good]


def _contained(gammas, gammaness, theta_limits):
    """Cut on theta at 68 % containment of the gammas that pass that on gammaness."""
    passed = evaluate_binned_cut(
        gammas["gh_score"], gammas["reco_energy"], gammaness, operator.ge
    )
    return calculate_percentile_cut(
        gammas["theta"][passed],
        gammas["reco_energy"][passed],
        bins=np.append(gammaness["low"], gammaness["high"][-1]),
        fill_value=theta_limits[1],
        percentile=68,
        min_value=theta_limits[0],
        max_value=theta_limits[1],
        min_events=MIN_EVENTS,
    )


def _count(background, cuts, ring):
    """Number of simulated background events behind each bin."""
    passed = cuts.passed_gammaness(background)
    passed &= _in_ring(background["reco_source_fov_offset"], ring)
    energy = background["reco_energy"][passed]
    return np.histogram(energy, cuts.reco_energy_bins)[0]


def _effective_count(background, cuts, ring):
    """Number of events of equal weight that would tell the background as well.

    It is the background squared divided by its variance. A kind of particle of which
    the cuts leave no event adds the variance of one event of mean weight: the next one
    could have passed.
    """
    edges = cuts.reco_energy_bins
    background = background[_in_ring(background["reco_source_fov_offset"], ring)]
    total, variance = np.zeros((2, len(edges) - 1))
    for events in _by_kind(background).values():
        passed = cuts.passed_gammaness(events)
        n_events, thrown = _histograms(events, edges, powers=(0, 1))
        left, squares = _histograms(events[passed], edges, powers=(1, 2))
        one = np.divide(thrown, n_events, out=np.zeros_like(thrown), where=n_events > 0)
        total += left
        variance += np.where(left > 0, squares, one**2)
    return np.divide(total**2, variance, out=np.zeros_like(total), where=total > 0)


def _by_kind(background):
    """Tables of the particles by kind; of all of them if that is not known."""
    if "particle_type" not in background.colnames:
        return {"background": background}
    kinds = np.asarray(background["particle_type"])
    return {str(kind): background[kinds == kind] for kind in np.unique(kinds)}


def _histograms(events, edges, powers):
    """Sums of powers of the weights in bins of reconstructed energy."""
    weight = np.asarray(events["weight"], dtype=float)
    return [
        np.histogram(events["reco_energy"], edges, weights=weight**power)[0]
        for power in powers
    ]


@_silent_pyirf()
def sensitivity(
    gammas,
    background,
    cuts,
    alpha=ALPHA,
    background_ring=BACKGROUND_RING,
    spectrum=SPECTRA["gamma"],
    generator=None,
    n_replicates=100,
):
    """Least flux of a point source that is detected, in bins of reconstructed energy.

    Detected means 5 standard deviations after Li and Ma (1983), formula 17, at least
    10 gammas, and at least 5 % of the background, see
    `pyirf.sensitivity.relative_sensitivity`.

    Parameters
    ----------
    gammas, background : astropy.table.QTable
        See `optimize_cuts`. The weights are for the time of observation.
    cuts : Cuts
    alpha, background_ring
        See `optimize_cuts`.
    spectrum : callable
        The one to which the gammas were weighted.
    generator : numpy.random.Generator, optional
        With it, the uncertainty from the number of simulated events is found by
        bootstrap: each of them is taken as often as Poisson's distribution of mean 1
        says, and the cuts stay. If the tables have a column ``shower``, events of one
        shower are taken equally often, as it is right for showers that are used
        several times.
    n_replicates : int
        Of the bootstrap.

    Returns
    -------
    table : astropy.table.QTable, B rows
        ``reco_energy_low``, ``reco_energy_high`` and ``reco_energy_center``.

        ``relative_sensitivity``
            The least flux in units of the spectrum.
        ``flux_sensitivity``, ``energy_flux_sensitivity``
            The same as a differential flux at the center of the bin, and that times
            the energy squared.
        ``*_low``, ``*_high``
            Limits of the 68 % interval of the three, with ``generator`` only.
        ``n_signal_weighted``, ``n_background_weighted``
            Expected gammas at that flux, and events in the off regions. With the
            column ``particle_type``, also ``n_proton_weighted``, for example.
        ``significance``
            At that flux.
        ``n_gammas``, ``n_background``
            The simulated events behind the numbers. With the column
            ``particle_type``, also ``n_proton``, for example.
        ``n_background_effective``
            The number of events of equal weight that would tell the background as
            well. It is less than ``n_background`` where a few heavy events count most,
            or where of one kind of particle none is left.
        ``few_events``
            Whether there are less than 10 gammas, or effectively less than 10
            background events: do not rely on the numbers.

        The fluxes are NaN where there is not one simulated event of either.
    """
    gammas, background = _reconstructed(gammas), _reconstructed(background)
    gammas = gammas[cuts.passed(gammas)]
    n_effective = _effective_count(background, cuts, background_ring)
    kinds = _by_kind(background)  # before the cuts, which may leave none of a kind
    background = background[cuts.passed_gammaness(background)]
    table = _pyirf_table(gammas, background, cuts, alpha, background_ring)
    for name in [name for name in table.colnames if name.startswith("n_")]:
        if not name.endswith("_weighted"):
            table.remove_column(name)  # pyirf scales these numbers of events, too
    table["n_gammas"] = np.histogram(gammas["reco_energy"], cuts.reco_energy_bins)[0]
    table["n_background"] = _count(background, cuts, background_ring)
    for kind, events in kinds.items():
        passed = events[cuts.passed_gammaness(events)]
        table[f"n_{kind}"] = _count(passed, cuts, background_ring)
    table["n_background_effective"] = n_effective
    table["few_events"] = np.minimum(table["n_gammas"], n_effective) < MIN_EVENTS

    relative = {"": table["relative_sensitivity"]}
    if generator is not None:
        draws = [
            _pyirf_table(
                _resampled(gammas, generator),
                _resampled(background, generator),
                cuts,
                alpha,
                background_ring,
            )["relative_sensitivity"]
            for _ in range(n_replicates)
        ]
        relative["_low"], relative["_high"] = _interval(draws)
    for limit, values in relative.items():
        computable = np.isfinite(values) & (table["n_gammas"] > 0)
        computable &= table["n_background"] > 0
        _add_fluxes(table, limit, np.where(computable, values, np.nan), spectrum)
    return table


def _pyirf_table(gammas, background, cuts, alpha, ring):
    """Sensitivity of events that pass the cuts, as pyirf has it."""
    bins = cuts.reco_energy_bins
    return calculate_sensitivity(
        create_histogram_table(gammas, bins, "reco_energy"),
        estimate_background(background, bins, cuts.theta, alpha, *ring),
        alpha=alpha,
    )


def _resampled(events, generator):
    """Events with the weights of a replicate."""
    unit = np.arange(len(events))
    if "shower" in events.colnames:
        unit = np.unique(events["shower"], return_inverse=True)[1]
    resampled = events.copy(copy_data=False)
    times = generator.poisson(1, len(events))[unit]
    resampled["weight"] = events["weight"] * times
    return resampled


def _interval(draws):
    """Limits of the 68 % interval of each column; a NaN counts as never detected."""
    draws = np.nan_to_num(draws, nan=np.inf)
    return np.quantile(draws, [0.16, 0.84], axis=0, method="inverted_cdf")


def _add_fluxes(table, limit, relative, spectrum):
    energy = table["reco_energy_center"]
    flux = relative * spectrum(energy)
    table[f"relative_sensitivity{limit}"] = relative
    table[f"flux_sensitivity{limit}"] = flux.to(u.Unit("cm-2 s-1 TeV-1"))
    energy_flux = (flux * energy**2).to(u.Unit("erg cm-2 s-1"))
    table[f"energy_flux_sensitivity{limit}"] = energy_flux
