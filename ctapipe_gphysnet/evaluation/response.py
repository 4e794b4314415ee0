"""Effective area, cuts and sensitivity of every reconstructor, for a sample."""

import astropy.units as u
import numpy as np
from astropy.coordinates import angular_separation
from astropy.table import QTable, vstack
from ctapipe.core.expression_engine import ExpressionEngine

from .metrics import common_events
from .reconstructors import EvaluationError
from .sensitivity import (
    SPECTRA,
    SimulationError,
    effective_area,
    event_weights,
    optimize_cuts,
    read_simulation,
    sensitivity,
)

__all__ = ["ResponseNotPossible", "make_response_tables", "read_simulations"]

STAGES = ("all selected events", "after the optimized cuts")


class ResponseNotPossible(EvaluationError):
    """There is no instrument response of these events; the message says why."""


def read_simulations(files, scatter_radius):
    """How every kind of particle was simulated.

    Parameters
    ----------
    files : list of dict
        Of `ctapipe_gphysnet.evaluation.sample.Sample`.
    scatter_radius : dict of str to str
        By particle, the radius in metres within which cores were thrown, as an
        expression of ``energy`` in TeV, for simulations where it depends on that.

    Returns
    -------
    simulations : dict of str to ctapipe_gphysnet.evaluation.sensitivity.Simulation

    Raises
    ------
    ResponseNotPossible
        If a file has more than one kind of particle, or does not tell.
    """
    paths = {}
    for file in files:
        if len(file["counts"]) > 1:
            raise ResponseNotPossible(
                f"{file['path']} has {' and '.join(file['counts'])}: the number of thrown"
                " showers is known per file only, so give a file for each particle"
            )
        (particle,) = file["counts"]
        if file.get("is_counted", True):
            paths.setdefault(particle, []).append(file["path"])
    try:
        return {
            particle: read_simulation(found, _radius(scatter_radius.get(particle)))
            for particle, found in paths.items()
        }
    except SimulationError as error:
        raise ResponseNotPossible(str(error)) from error


def _radius(expression):
    """Function of the true energy that gives the radius, or None."""
    if not expression:
        return None
    engine = ExpressionEngine(expressions=[("radius", expression)])

    def radius(energy):
        (values,) = engine({"energy": energy.to_value(u.TeV)})
        return values * u.m

    return radius


def make_response_tables(
    sample, selection, simulations, energy_edges, obs_time, seed=0, progress=False
):
    """Effective area, optimized cuts and sensitivity, a row for every training and bin.

    Parameters
    ----------
    sample : Sample
        Telescope events of a single telescope.
    selection : str
    simulations : dict
        Of `read_simulations`.
    energy_edges : Quantity, shape (B + 1,)
    obs_time : Quantity
    seed : int
        Of the bootstrap samples.
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    tables : dict of str to astropy.table.QTable
        ``effective_area``, with its ``stage``; with protons also ``cuts`` and
        ``sensitivity``: see `ctapipe_gphysnet.evaluation.sensitivity`.

    Raises
    ------
    ResponseNotPossible
        If there are several telescopes, no gammas, or no reconstructor that has all.
    """
    _verify(sample, simulations)
    chosen = np.logical_and.reduce(
        [
            common_events(sample, selection, k)
            for k in ("energy", "geometry", "particle_type")
        ]
    )
    tables = {"effective_area": [], "cuts": [], "sensitivity": []}
    for reconstructor, result in sample.results.items():
        if len(reconstructor.prefixes) < 3:
            continue
        events = {
            particle: _weighted(sample, result, chosen, particle, simulation, obs_time)
            for particle, simulation in simulations.items()
        }
        if not len(events["gamma"]):
            raise ResponseNotPossible(f"no gammas are left in selection {selection}")
        for name, table in _one(
            events, simulations["gamma"], energy_edges, seed, progress
        ).items():
            table.add_column(reconstructor.name, index=0, name="reconstructor")
            number = -1 if reconstructor.seed is None else reconstructor.seed
            table.add_column(number, index=1, name="seed")
            tables[name].append(table)
    if not tables["effective_area"]:
        raise ResponseNotPossible(
            "no reconstructor has energy, direction and particle type"
        )
    return {
        name: vstack(found, metadata_conflicts="silent")
        for name, found in tables.items()
        if found
    }


def _verify(sample, simulations):
    tel_ids = np.unique(np.asarray(sample.events["tel_id"]))
    if len(tel_ids) > 1 or tel_ids[0] == 0:
        raise ResponseNotPossible(
            "effective areas count every shower once, so they are for one telescope;"
            " ctapipe-compute-irf makes those of arrays"
        )
    if "gamma" not in simulations:
        raise ResponseNotPossible("there are no gammas")
    if not np.isfinite(sample.events["pointing_alt"]).all():
        raise ResponseNotPossible("the files do not say where the telescope points")


def _weighted(sample, result, chosen, particle, simulation, obs_time):
    """Events as pyirf wants them, of one kind of particle."""
    mask = chosen & sample.is_particle(particle)
    truth, reco = sample.events[mask], result[mask]
    table = QTable()
    for name in ("true_energy", "true_alt", "true_az", "pointing_alt", "pointing_az"):
        table[name] = truth[name]
    for name in ("reco_energy", "reco_alt", "reco_az", "theta"):
        table[name] = reco[name]
    table["gh_score"] = reco["gammaness"]
    for kind in ("true", "reco"):
        table[f"{kind}_source_fov_offset"] = angular_separation(
            table[f"{kind}_az"],
            table[f"{kind}_alt"],
            table["pointing_az"],
            table["pointing_alt"],
        ).to(u.deg)
    # uses of one shower share all of the truth but the core
    showers = np.column_stack([np.asarray(truth["obs_id"]), truth["true_energy"].value])
    table["shower"] = np.unique(showers, axis=0, return_inverse=True)[1].ravel()
    table["particle_type"] = particle
    try:
        table["weight"] = event_weights(table, simulation, SPECTRA[particle], obs_time)
    except SimulationError as error:
        raise ResponseNotPossible(f"{particle}: {error}") from error
    return table


def _one(events, simulation, edges, seed, progress):
    """Tables of one training."""
    gammas = events["gamma"]
    masks = {STAGES[0]: None}
    found = {}
    background = [table for particle, table in events.items() if particle != "gamma"]
    if any(len(table) for table in background):
        background = vstack(background, metadata_conflicts="silent")
        # showers of different particles are different ones
        kind = np.unique(background["particle_type"], return_inverse=True)[1].ravel()
        background["shower"] = background["shower"] + kind * (len(background) + 1)
        cuts = optimize_cuts(gammas, background, edges, progress=progress)
        rng = np.random.default_rng(seed)
        found["sensitivity"] = sensitivity(gammas, background, cuts, generator=rng)
        found["cuts"] = QTable(
            {
                "reco_energy_low": cuts.gammaness["low"],
                "reco_energy_high": cuts.gammaness["high"],
                "gammaness_cut": np.asarray(cuts.gammaness["cut"]),
                "theta_cut": cuts.theta["cut"].to(u.deg),
            }
        )
        masks[STAGES[1]] = cuts.passed(gammas)
    areas = []
    for stage, mask in masks.items():
        table = effective_area(gammas, simulation, edges, mask)
        table.add_column(stage, index=0, name="stage")
        areas.append(table)
    found["effective_area"] = vstack(areas, metadata_conflicts="silent")
    return found
