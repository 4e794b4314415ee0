"""Simulated air showers as a source of events for ctapipe."""

import copy

import astropy.units as u
import numpy as np
from astropy.coordinates import EarthLocation
from astropy.table import QTable
from astropy.time import Time
from ctapipe.atmosphere import TableAtmosphereDensityProfile
from ctapipe.calib.camera.gainselection import GainChannel
from ctapipe.containers import (
    ArrayEventContainer,
    ArrayPointingContainer,
    CameraCalibrationContainer,
    CoordinateFrameType,
    DL1CameraContainer,
    EventIndexContainer,
    EventType,
    ObservationBlockContainer,
    ObservationBlockState,
    ObservingMode,
    PixelStatus,
    PointingMode,
    R1CameraContainer,
    SchedulingBlockContainer,
    SchedulingBlockType,
    SimulatedCameraContainer,
    SimulatedEventContainer,
    SimulatedShowerContainer,
    SimulatedShowerDistribution,
    SimulationConfigContainer,
    TelescopeImpactParameterContainer,
    TelescopePointingContainer,
    TelescopeTriggerContainer,
)
from ctapipe.coordinates.impact_distance import impact_distance
from ctapipe.coordinates.utils import altaz_to_righthanded_cartesian
from ctapipe.core import ToolConfigurationError
from ctapipe.core.traits import Bool, Dict, Int
from ctapipe.instrument import SubarrayDescription
from ctapipe.io import DataLevel, EventSource

from .atmosphere import Atmosphere
from .camera import CameraSimulator
from .card import CARD_SUFFIX, plain_options, read_card
from .extraction import WaveformExtractor
from .generator import MAX_USES, PRIMARY_IDS, ParticleGenerator
from .optics import WAVELENGTH, MirrorOptics
from .shower import ShowerSimulator
from .telescope import lst_description

__all__ = ["AirShowerSource"]

# LST-1, as in ctapipe_io_lst.constants
LONGITUDE, LATITUDE = -17.89149701 * u.deg, 28.76152611 * u.deg

# When runs begin. There is a shower a second.
START = Time("2026-01-01T00:00:00", scale="tai")
START_SECOND = START.unix_tai

SEEDS = 2**32
PRODUCER = "simulation"
GRAMMAGE = u.g / u.cm**2

PROFILE_HEIGHTS = np.arange(0, 100, 0.25) * u.km

# of the table of thrown showers
CORE_BINS = 20
ENERGY_BINS_PER_DECADE = 10

US_STANDARD, OTHER_ATMOSPHERE = 6, 99  # in the numbers of CORSIKA's IACT package


class AirShowerSource(EventSource):
    """Events of showers that are simulated while they are read.

    The input is a run card, a YAML file whose name ends in ``.airshower.yaml``; it has
    a section for each component. What is configured elsewhere, on a tool's command line
    for example, goes before what the card says.

    Everything of a shower follows from the seed, the number of the run and the number
    of the shower alone.
    """

    n_showers = Int(1000, min=1, help="Showers in a run").tag(config=True)
    seed = Int(1, min=0, help="Of all random numbers").tag(config=True)
    run_number = Int(
        1, min=1, help="Number of the run and obs_id; other runs have other showers"
    ).tag(config=True)
    extract_images = Bool(
        False,
        help=(
            "Whether events have images and peak times (DL1), extracted by"
            " WaveformExtractor, instead of calibrated waveforms (R1)"
        ),
    ).tag(config=True)
    telescope_positions = Dict(
        default_value={1: [0.0, 0.0, 16.0]},
        help=(
            "Numbers of the telescopes, each with its position [m]: to the north and to"
            " the west of the array's center, and above the observation level"
        ),
    ).tag(config=True)
    min_telescopes = Int(
        1, min=1, help="Telescopes that have to trigger, for an event to be recorded"
    ).tag(config=True)

    #: Components that a run card may have sections for, besides the source itself.
    classes = [
        ParticleGenerator,
        Atmosphere,
        MirrorOptics,
        ShowerSimulator,
        CameraSimulator,
        WaveformExtractor,
    ]

    is_simulation = True

    def __init__(self, input_url=None, config=None, parent=None, **kwargs):
        super().__init__(input_url=input_url, config=config, parent=parent, **kwargs)
        options = read_card(self.input_url, [type(self), *self.classes])
        options.merge(copy.deepcopy(self.config))
        self.config = options  # sets the options of this component anew
        for name, value in kwargs.items():
            setattr(self, name, value)
        try:
            self._make_components()
        except ToolConfigurationError as error:
            raise ToolConfigurationError(f"{self.input_url}: {error}") from error

    def _make_components(self):
        self.generator = ParticleGenerator(parent=self)
        self.atmosphere = Atmosphere(parent=self)
        self.optics = MirrorOptics(parent=self)
        self.showers = ShowerSimulator(
            atmosphere=self.atmosphere, optics=self.optics, parent=self
        )
        telescope = lst_description()
        self.camera = CameraSimulator(telescope.camera, parent=self)
        self.extract = WaveformExtractor(
            telescope, self.camera.broken_pixel_mask, parent=self
        )
        positions = self._verified_positions()
        self._tel_ids = list(positions)
        self._positions = np.array(list(positions.values()))
        subarray = SubarrayDescription(
            name=f"{len(positions)} simulated LST",
            tel_positions={t: position * u.m for t, position in positions.items()},
            tel_descriptions=dict.fromkeys(positions, telescope),
            reference_location=EarthLocation(
                LONGITUDE, LATITUDE, self.atmosphere.observation_level
            ),
        )
        self._subarray = self._selected(subarray)
        self._density_profile = _tabulated(self.atmosphere.profile)
        self._energy_bins, self._core_bins = self._histogram_edges()
        self._thrown = np.zeros((len(self._energy_bins) - 1, CORE_BINS), dtype=np.int64)
        self._make_constants()

    def _verified_positions(self):
        """Positions of all telescopes [m], by their numbers."""
        name, positions = type(self).__name__, {}
        for tel_id, given in self.telescope_positions.items():
            try:
                number, position = int(tel_id), np.array(given, dtype=float)
            except (TypeError, ValueError):
                number, position = 0, np.empty(0)
            if number < 1 or position.shape != (3,) or not np.isfinite(position).all():
                raise ToolConfigurationError(
                    f"{name}.telescope_positions has {given!r} for telescope {tel_id!r}:"
                    " a telescope has a number from 1 on, and three coordinates in m"
                )
            positions[number] = position
        if len(positions) < self.min_telescopes:
            raise ToolConfigurationError(
                f"{name}.min_telescopes is {self.min_telescopes}, more than there are"
                f" telescopes, {len(positions)}"
            )
        return dict(sorted(positions.items()))

    def _selected(self, subarray):
        """The telescopes of which there is to be data."""
        if not self.allowed_tels:
            return subarray
        unknown = self.allowed_tels - set(self._tel_ids)
        if unknown:
            raise ToolConfigurationError(
                f"{type(self).__name__}.allowed_tels has {sorted(unknown)}, but"
                f" telescopes are {self._tel_ids}"
            )
        return subarray.select_subarray(self.allowed_tels)

    def _histogram_edges(self):
        """Edges of energy [TeV] and core distance [m]."""
        lowest = self.generator.energy_min.to_value(u.TeV)
        highest = self.generator.energy_max.to_value(u.TeV)
        n_bins = round(ENERGY_BINS_PER_DECADE * np.log10(highest / lowest))
        if n_bins < 1:  # of one energy
            energies = lowest * np.array([0.9, 1.1])
        else:
            energies = np.geomspace(lowest, highest, n_bins + 1)
        radius = self.generator.max_core_distance.to_value(u.m)
        return energies, np.linspace(0, radius, CORE_BINS + 1)

    def _make_constants(self):
        """What all events have in common."""
        altitude = self.generator.pointing_altitude.to(u.rad)
        azimuth = self.generator.pointing_azimuth.to(u.rad)
        self._array_pointing = ArrayPointingContainer(
            array_altitude=altitude, array_azimuth=azimuth
        )
        self._telescope_pointing = TelescopePointingContainer(
            altitude=altitude, azimuth=azimuth
        )
        broken = self.camera.broken_pixel_mask
        # of two gain channels, of which only the high one is recorded
        broken_in_both = np.stack([broken, broken])
        self._coefficients = CameraCalibrationContainer(outlier_mask=broken_in_both)
        self._gain_channel = np.full(len(broken), GainChannel.HIGH, dtype=np.int8)
        self._pixel_status = np.where(
            broken, 0, np.uint8(PixelStatus.HIGH_GAIN_STORED)
        ).astype(np.uint8)
        self._starting_grammage = 0 * GRAMMAGE
        if self.generator.primary == "muon":
            start = self.atmosphere.observation_level + self.showers.muon_height
            depth = self.atmosphere.profile.integral(start)
            self._starting_grammage = (depth / np.sin(altitude)).to(GRAMMAGE)

    def options(self):
        """All options, those that were left at their defaults as well.

        Returns
        -------
        options : dict of str: dict
            By component, as a run card has them: a card with them gives the same events.
        """
        components = (
            *(self, self.generator, self.atmosphere, self.optics, self.showers),
            *(self.camera, self.extract),
        )
        return {type(c).__name__: plain_options(c) for c in components}

    # What ctapipe asks a source

    @staticmethod
    def is_compatible(file_path):
        """Whether a file has the name of a run card."""
        return str(file_path).endswith(CARD_SUFFIX)

    @property
    def datalevels(self):
        """R1 or DL1_IMAGES."""
        return (DataLevel.DL1_IMAGES if self.extract_images else DataLevel.R1,)

    @property
    def subarray(self):
        """The telescopes."""
        return self._subarray

    @property
    def atmosphere_density_profile(self):
        """That of `Atmosphere`, as a table."""
        return self._density_profile

    @property
    def scheduling_blocks(self):
        """One, with the number of the run."""
        block = SchedulingBlockContainer(
            sb_id=np.uint64(self.run_number),
            sb_type=SchedulingBlockType.OBSERVATION,
            producer_id=PRODUCER,
            observing_mode=ObservingMode.UNKNOWN,
            pointing_mode=PointingMode.DRIFT,
        )
        return {self.run_number: block}

    @property
    def observation_blocks(self):
        """One, with the number of the run."""
        block = ObservationBlockContainer(
            obs_id=np.uint64(self.run_number),
            sb_id=np.uint64(self.run_number),
            producer_id=PRODUCER,
            state=ObservationBlockState.COMPLETED_SUCCEDED,
            subarray_pointing_lat=self.generator.pointing_altitude,
            subarray_pointing_lon=self.generator.pointing_azimuth,
            subarray_pointing_frame=CoordinateFrameType.ALTAZ,
            scheduled_start_time=START,
            actual_start_time=START,
        )
        return {self.run_number: block}

    @property
    def simulation_config(self):
        """What was simulated, by the number of the run."""
        generator = self.generator
        altitude, azimuth = generator.source
        north = self.showers.magnetic_field_north
        down = self.showers.magnetic_field_down
        is_standard = self.atmosphere.profile_table is None
        config = SimulationConfigContainer(
            run_number=np.int32(self.run_number),
            energy_range_min=generator.energy_min.to(u.TeV),
            energy_range_max=generator.energy_max.to(u.TeV),
            spectral_index=generator.spectral_index,
            n_showers=self.n_showers,
            shower_reuse=generator.uses,
            prod_site_B_total=np.hypot(north, down).to(u.uT),
            prod_site_B_declination=0 * u.rad,
            prod_site_B_inclination=np.arctan2(down, north).to(u.rad),
            prod_site_alt=self.atmosphere.observation_level.to(u.m),
            min_alt=altitude.to(u.rad),
            max_alt=altitude.to(u.rad),
            min_az=azimuth.to(u.rad),
            max_az=azimuth.to(u.rad),
            diffuse=bool(generator.viewcone_radius > 0 * u.deg),
            min_viewcone_radius=0 * u.deg,
            max_viewcone_radius=generator.viewcone_radius.to(u.deg),
            min_scatter_range=0 * u.m,
            max_scatter_range=generator.max_core_distance.to(u.m),
            core_pos_mode=0,  # a disc
            atmosphere=float(US_STANDARD if is_standard else OTHER_ATMOSPHERE),
            corsika_wlen_min=WAVELENGTH[0] * u.nm,
            corsika_wlen_max=WAVELENGTH[-1] * u.nm,
            # neither CORSIKA nor sim_telarray
            shower_prog_id=0,
            detector_prog_id=0,
        )
        return {self.run_number: config}

    @property
    def simulated_shower_distributions(self):
        """Histogram of all uses of the showers up to that of the latest event."""
        thrown = SimulatedShowerDistribution(
            obs_id=self.run_number,
            hist_id=6,  # as in simtel files
            n_entries=int(self._thrown.sum()),
            bins_energy=self._energy_bins * u.TeV,
            bins_core_dist=self._core_bins * u.m,
            histogram=self._thrown.astype(np.float32),
        )
        return {self.run_number: thrown}

    # Events

    def _generator(self):
        self._thrown[:] = 0
        count = 0
        for number in range(1, self.n_showers + 1):
            for event in self._events_of_shower(number):
                event.count = count
                count += 1
                yield event

    def _events_of_shower(self, number):
        """Simulate a shower and the telescopes; yields the events that are recorded."""
        sequence = np.random.SeedSequence([self.seed, self.run_number, number])
        random = np.random.default_rng(sequence)
        thrown = self.generator.throw(random)
        shower_seed = int(random.integers(SEEDS))
        camera_seeds = random.integers(SEEDS, size=(MAX_USES, len(self._positions)))
        positions, distances = self._telescopes_from_core(thrown)
        shower = self._simulate(thrown, positions.reshape(-1, 3), shower_seed)
        lit = np.diff(shower.starts).reshape(distances.shape) >= self.camera.fewest
        self._count(thrown)
        time = _time(number)
        for use in np.flatnonzero(lit.sum(axis=1) >= self.min_telescopes):
            responses = {}
            for i in np.flatnonzero(lit[use]):
                light = shower.light(use * len(self._positions) + i)
                responses[i] = self.camera.simulate(*light, int(camera_seeds[use, i]))
            seen = {i: r for i, r in responses.items() if r is not None}
            if len(seen) >= self.min_telescopes and self._has_selected(seen):
                event = self._empty_event(number, use, time)
                event.simulation.shower = self._true_shower(thrown, use, shower)
                self._fill_telescopes(event, seen, distances[use])
                yield event

    def _has_selected(self, places):
        tel_ids = {self._tel_ids[i] for i in places}
        return not tel_ids.isdisjoint(self._subarray.tel)

    def _telescopes_from_core(self, thrown):
        """Where telescopes are when the shower's axis strikes at zero.

        Returns
        -------
        positions : ndarray, shape (U, T, 3)
            For each use of the shower [m].
        distances : ndarray, shape (U, T)
            Of the telescopes from the shower's axis [m].
        """
        core = np.column_stack([thrown.core, np.zeros(len(thrown.core))])
        positions = self._positions - core[:, np.newaxis]
        axis = altaz_to_righthanded_cartesian(alt=thrown.altitude, az=thrown.azimuth)
        distances = impact_distance(np.zeros(3), axis, positions.reshape(-1, 3))
        return positions, distances.reshape(positions.shape[:2])

    def _simulate(self, thrown, positions, seed):
        generator = self.generator
        return self.showers.simulate(
            generator.primary,
            thrown.energy,
            thrown.altitude,
            thrown.azimuth,
            positions,
            generator.pointing_altitude,
            generator.pointing_azimuth,
            seed,
        )

    def _count(self, thrown):
        """Enter all uses of a shower into the histogram of thrown showers."""
        energy = thrown.energy.to_value(u.TeV)
        energy_bin = np.searchsorted(self._energy_bins[1:-1], energy, side="right")
        core_bins = np.searchsorted(self._core_bins[1:-1], thrown.core_distance)
        self._thrown[energy_bin] += np.bincount(core_bins, minlength=CORE_BINS)

    def _empty_event(self, number, use, time):
        event = ArrayEventContainer(
            index=EventIndexContainer(
                obs_id=self.run_number, event_id=number * MAX_USES + use
            ),
            simulation=SimulatedEventContainer(),
        )
        event.trigger.event_type = EventType.SUBARRAY
        event.trigger.time = time
        event.monitoring.pointing = self._array_pointing
        return event

    def _true_shower(self, thrown, use, shower):
        return SimulatedShowerContainer(
            energy=thrown.energy.to(u.TeV),
            alt=thrown.altitude,
            az=thrown.azimuth,
            core_x=u.Quantity(thrown.core[use, 0], u.m),
            core_y=u.Quantity(thrown.core[use, 1], u.m),
            h_first_int=shower.first_interaction_height,
            x_max=shower.x_max,
            starting_grammage=self._starting_grammage,
            shower_primary_id=PRIMARY_IDS[self.generator.primary],
        )

    def _fill_telescopes(self, event, responses, distances):
        """Fill in what the selected telescopes have recorded, and the truth about it.

        Parameters
        ----------
        event : ArrayEventContainer
        responses : dict of int: CameraResponse
            By the telescopes' places in the subarray.
        distances : ndarray, shape (T,)
            Of all telescopes from the shower's axis [m].
        """
        first = min(response.trigger_time for response in responses.values())
        responses = {self._tel_ids[i]: (i, r) for i, r in responses.items()}
        tel_ids = [tel_id for tel_id in responses if tel_id in self._subarray.tel]
        event.trigger.tels_with_trigger = np.array(tel_ids, dtype=np.int16)
        number = event.index.event_id // MAX_USES
        for tel_id in tel_ids:
            i, response = responses[tel_id]
            delay = response.trigger_time - first
            event.trigger.tel[tel_id] = TelescopeTriggerContainer(
                time=_time(number, delay) if delay else event.trigger.time,
                event_type=EventType.SUBARRAY,
            )
            event.simulation.tel[tel_id] = SimulatedCameraContainer(
                true_image=response.true_image,
                true_image_sum=np.int32(response.true_image.sum()),
                impact=TelescopeImpactParameterContainer(
                    distance=u.Quantity(distances[i], u.m),
                    distance_uncert=0 * u.m,
                    prefix="true_impact",
                ),
            )
            event.monitoring.tel[tel_id].pointing = self._telescope_pointing
            event.monitoring.tel[tel_id].camera.coefficients = self._coefficients
            if self.extract_images:
                event.dl1.tel[tel_id] = self._images(response.waveform)
            else:
                event.r1.tel[tel_id] = self._waveforms(event, response.waveform)

    def _waveforms(self, event, waveform):
        return R1CameraContainer(
            event_type=EventType.SUBARRAY,
            event_time=event.trigger.time,
            waveform=waveform[np.newaxis],
            pixel_status=self._pixel_status,
            selected_gain_channel=self._gain_channel,
        )

    def _images(self, waveform):
        image, peak_time = self.extract(waveform)
        return DL1CameraContainer(image=image, peak_time=peak_time, is_valid=True)


def _tabulated(profile):
    """A density profile of any kind as a table, the only kind that can be in files."""
    if isinstance(profile, TableAtmosphereDensityProfile):
        return profile
    table = QTable(
        {
            "height": PROFILE_HEIGHTS,
            "density": profile(PROFILE_HEIGHTS),
            "column_density": profile.integral(PROFILE_HEIGHTS),
        }
    )
    return TableAtmosphereDensityProfile(table=table)


def _time(number, delay=0.0):
    """When a shower triggers, at all of its uses; the delay is in ns."""
    return Time(START_SECOND + number, delay * 1e-9, format="unix_tai", precision=9)
