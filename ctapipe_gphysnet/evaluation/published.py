"""Published results of LST-1, of other events than those that are evaluated."""

from importlib.resources import files

from astropy.table import QTable

__all__ = ["read_published"]


def read_published():
    """Resolutions and AUC of LST-1 with Hillas parameters and random forests.

    From H. Abe et al. 2023, ApJ 956, 80 (arXiv:2306.12960) and the response files that
    go with it: zenith 10°, the 70 % of the gammas with the highest gammaness; the AUC
    is read from the ROC curves.

    Returns
    -------
    tables : dict of str to astropy.table.QTable
        ``resolution`` with ``low``, ``high`` (true energy), ``angular_resolution`` and
        ``energy_resolution``; ``auc`` with ``low``, ``high`` (intensity in p.e.) and
        ``auc``. Each has a ``label`` in its ``meta``.
    """
    folder = files("ctapipe_gphysnet.resources")
    tables = {}
    for name in ("resolution", "auc"):
        with (folder / f"lst1_published_{name}.ecsv").open() as file:
            tables[name] = QTable.read(file.read(), format="ascii.ecsv")
    return tables
