"""Images to train on: in memory or, where they do not fit, in a file."""

import math
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import psutil

__all__ = ["ImageStore", "ImageStoreError", "available_memory"]

# tells the processes that Lightning starts where the images of the first one are
SHARED = "GPHYSNET_SHARED_IMAGES"


class ImageStoreError(RuntimeError):
    """The images fit neither in memory nor on the disk."""


def available_memory(system=Path("/")):
    """Memory that is available, and no more than this job may have.

    Parameters
    ----------
    system : pathlib.Path
        Root of the file system, where Linux keeps the limits of control groups, by which
        Slurm and containers bound the memory of a job.

    Returns
    -------
    size : int
        Bytes.
    """
    sizes = [psutil.virtual_memory().available]
    groups = system / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, name = system / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):  # version 1 of control groups
            top, name = system / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):  # a limit holds for all groups inside
            limit = folder / name
            if limit.is_file() and (text := limit.read_text().strip()) != "max":
                sizes.append(int(text))
    return min(sizes)


class ImageStore:
    """Collects images, in memory up to a limit, and beyond it in a file.

    The file has no name: its space is free again when the process ends, however it
    ends. Processes that Lightning starts on the same machine are told of the file by a
    variable of the environment, and keep no images of their own.

    To be used in a ``with`` statement, at the end of which the file is closed.

    Parameters
    ----------
    limit : float, optional
        Bytes of images to hold in memory, by default half of what is available, and
        never more than that.
    folder : path-like
        Where the file goes.

    Attributes
    ----------
    place : str
        Where the images are, in words.
    n_bytes : int
        Size of the images.
    """

    def __init__(self, limit=None, folder="."):
        available = available_memory()
        self._limit = available // 2 if limit is None else min(limit, available)
        self._folder = Path(folder)
        self._shared = os.environ.get(SHARED)
        self._images = self._file = None
        self._n_images, self._image_shape = 0, (0, 0)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._file is not None:
            self._file.close()
            os.environ.pop(SHARED, None)

    @property
    def place(self):
        if self._shared is not None:
            return "the file of the first process"
        if self._file is not None:
            return f"a file without a name in {self._folder}, that the end removes"
        return "memory"

    @property
    def n_bytes(self):
        return self._n_images * int(np.prod(self._image_shape)) * 2  # of a float16

    def append(self, charge, peak_time, share_read):
        """Add images.

        Parameters
        ----------
        charge, peak_time : ndarray, shape (N, P)
            Become float16.
        share_read : float
            Share of the input that has been read with them, above 0: it tells how much
            space all images will need.

        Raises
        ------
        ImageStoreError
            If there is not enough space for a file.
        """
        images = np.empty((len(charge), 2, charge.shape[1]), np.float16)
        with np.errstate(over="ignore"):  # infinite charge is that of a saturated pixel
            images[:, 0], images[:, 1] = charge, peak_time
        start, self._n_images = self._n_images, self._n_images + len(images)
        self._image_shape = images.shape[1:]
        if self._shared is not None:
            return
        if self._file is None and self.n_bytes > self._limit:
            self._open_file(share_read)
            if self._images is not None:
                self._write(self._images[:start], share_read)
                self._images = None
        if self._file is not None:
            self._write(images, share_read)
        else:
            if self._images is None:
                self._images = self._empty()
            self._images[start : self._n_images] = images

    def _empty(self):
        """As many images as may be: the system gives memory only to what is filled in."""
        most = int(self._limit) // (2 * math.prod(self._image_shape))
        try:
            return np.empty((most, *self._image_shape), np.float16)
        except MemoryError as error:
            raise ImageStoreError(
                f"{self._limit / 1e9:.1f} GB of memory for images cannot be had; give"
                " fewer with --memory-limit, and the others go to a file"
            ) from error

    def finish(self):
        """Give out the images; no more can be added.

        Returns
        -------
        images : ndarray of float16, shape (N, 2, P)
            Charge and peak time.

        Raises
        ------
        ImageStoreError
            If there was not enough space for the file, or if the first process has
            other images.
        """
        if self._shared is not None:
            return self._of_first_process()
        if self._file is None:
            return self._images[: self._n_images]
        try:
            os.fsync(self._file.fileno())  # some file systems report a full disk here
        except OSError as error:
            raise self._no_space(1.0) from error
        name = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        if os.path.exists(name):  # on Linux
            os.environ[SHARED] = name
        return self._mapped(self._file)

    def _of_first_process(self):
        size = os.stat(self._shared).st_size
        if size != self.n_bytes:
            raise ImageStoreError(
                f"the first process has {size} bytes of images, this one {self.n_bytes};"
                " the input files must not change meanwhile"
            )
        return self._mapped(self._shared)

    def _mapped(self, file):
        shape = (self._n_images, *self._image_shape)
        return np.memmap(file, np.float16, "r", shape=shape)

    def _open_file(self, share_read):
        try:
            if self.n_bytes / share_read > shutil.disk_usage(self._folder).free:
                raise self._no_space(share_read)
            # unbuffered: closing it must not fail after a failure to write
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)
        except OSError as error:
            raise ImageStoreError(
                f"no file for the images can be made in {self._folder}: {error}"
            ) from error

    def _write(self, images, share_read):
        # not through a map, where a full disk would end the process
        data = images.reshape(-1).view(np.uint8).data
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise self._no_space(share_read) from error

    def _no_space(self, share_read):
        free = shutil.disk_usage(self._folder).free
        if self._file is not None:
            free += os.fstat(self._file.fileno()).st_size
        return ImageStoreError(
            f"the images need about {self.n_bytes / share_read / 1e9:.1f} GB; that is"
            f" more than the {self._limit / 1e9:.1f} GB of memory that they may take,"
            f" and in {self._folder.resolve()} {free / 1e9:.1f} GB are free; choose"
            " another folder with --image-folder, a higher --memory-limit, or train on"
            " fewer events"
        )
