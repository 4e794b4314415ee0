"""Look at an instrument response file with gammapy, as an analysis of observations would.

python examples/irf/look.py irf.fits.gz
"""

import argparse

import astropy.units as u
import numpy as np
from astropy.table import QTable
from gammapy.irf import load_irf_dict_from_file

ENERGIES = [0.03, 0.1, 0.3, 1, 3, 10] * u.TeV


def response(path, offset):
    """Effective area and angular resolution at some energies.

    Parameters
    ----------
    path : path-like
        IRF file of ctapipe-compute-irf.
    offset : Quantity
        Of the source from the pointing.

    Returns
    -------
    table : astropy.table.QTable
    """
    irf = load_irf_dict_from_file(path)
    table = QTable({"energy": ENERGIES})
    area = irf["aeff"].evaluate(energy_true=ENERGIES, offset=offset)
    table["effective_area"] = area.to(u.m**2)
    table["containment_radius_68"] = irf["psf"].containment_radius(
        fraction=0.68, energy_true=ENERGIES, offset=offset
    )
    table.meta["contents"] = sorted(irf)
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="IRF file of ctapipe-compute-irf")
    parser.add_argument("--offset", default="0.4 deg", help="default: %(default)s")
    arguments = parser.parse_args()
    table = response(arguments.path, u.Quantity(arguments.offset))
    for name in table.colnames:
        table[name].info.format = ".3g"
    print(f"{arguments.path}: {', '.join(table.meta['contents'])}")
    table.pprint_all()
    in_range = table["energy"] == 1 * u.TeV
    if not np.isfinite(table["effective_area"][in_range]).all():
        raise SystemExit(f"{arguments.path}: no effective area at 1 TeV")


if __name__ == "__main__":
    main()
