"""Open instrument responses and DL3 files with gammapy, and say what is in them."""

import sys

import astropy.units as u
from gammapy.data import EventList, Observation
from gammapy.irf import load_irf_dict_from_file

ENERGIES = [0.05, 0.2, 1] * u.TeV
OFFSET = 0.4 * u.deg

for path in sys.argv[1:]:
    if "dl3" in path.rpartition("/")[2]:
        events, observation = EventList.read(path), Observation.read(path)
        time = observation.observation_live_time_duration.to(u.s)
        print(f"{path}: {len(events.table)} events in {time:.0f}")
        print("   ", ", ".join(observation.available_irfs))
        continue
    responses = load_irf_dict_from_file(path)
    print(f"{path}: {', '.join(responses)}")
    for energy in ENERGIES:
        area = responses["aeff"].evaluate(energy_true=energy, offset=OFFSET).to(u.m**2)
        print(f"    effective area at {energy}, {OFFSET} off axis: {area.squeeze():.3g}")
