"""γ-PhysNet for ctapipe: camera images to gammaness, energy and direction.

Importing this package is cheap: it loads neither torch nor ctapipe, so that ctapipe
can look for its plugins without paying for the network.
"""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    #: Version of the installed package; ``setup.cfg`` is where it is written.
    __version__ = version("ctapipe_gphysnet")
except PackageNotFoundError:  # a checkout on the path that was never installed
    __version__ = "0+unknown"
