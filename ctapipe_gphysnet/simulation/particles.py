"""The particles that the simulation follows, with their masses and lifetimes.

Values of the Particle Data Group, Phys. Rev. D 110 (2024) 030001.
"""

import numpy as np

__all__ = [
    "CHARGE",
    "DECAY_LENGTH",
    "ELECTRON",
    "ELECTRON_MASS",
    "KAON_LONG",
    "KAON_MINUS",
    "KAON_PLUS",
    "MASS",
    "MUON_MINUS",
    "MUON_PLUS",
    "NEUTRON",
    "PHOTON",
    "PION_MINUS",
    "PION_PLUS",
    "PION_ZERO",
    "POSITRON",
    "PROTON",
    "SPECIES",
]

# Antinucleons count as nucleons.
PHOTON, ELECTRON, POSITRON, PROTON, NEUTRON = range(5)
PION_PLUS, PION_MINUS, KAON_PLUS, KAON_MINUS, KAON_LONG = range(5, 10)
MUON_MINUS, MUON_PLUS, PION_ZERO = range(10, 13)

ELECTRON_MASS = 0.51099895e-3

# GeV, of every particle above
MASS = np.array(
    [
        *(0.0, ELECTRON_MASS, ELECTRON_MASS, 0.93827209, 0.93956542),
        *(0.13957039, 0.13957039, 0.493677, 0.493677, 0.497611),
        *(0.10565838, 0.10565838, 0.1349768),
    ]
)

# elementary charges
CHARGE = np.array([0.0, -1, 1, 1, 0, 1, -1, 1, -1, 0, -1, 1, 0])

# Mean life times the velocity of light [m]; zero: stable, or (pi0) gone at once.
DECAY_LENGTH = np.array(
    [*(0.0, 0, 0, 0, 0), *(7.8045, 7.8045, 3.711, 3.711, 15.34), *(658.638, 658.638, 0)]
)

#: Species by the identifiers of the Particle Data Group.
SPECIES = {
    22: PHOTON,
    11: ELECTRON,
    -11: POSITRON,
    13: MUON_MINUS,
    -13: MUON_PLUS,
    111: PION_ZERO,
    211: PION_PLUS,
    -211: PION_MINUS,
    321: KAON_PLUS,
    -321: KAON_MINUS,
    130: KAON_LONG,
    2212: PROTON,
    -2212: PROTON,  # antinucleons count as nucleons
    2112: NEUTRON,
    -2112: NEUTRON,
}
