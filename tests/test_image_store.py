import errno
import os
import subprocess
import sys

import numpy as np
import psutil
import pytest

from ctapipe_gphysnet.image_store import ImageStore, ImageStoreError, available_memory

N_PIXELS = 7
IMAGE_SIZE = 2 * N_PIXELS * 2  # two channels of two bytes


def chunks(sizes=(3, 5, 1, 40, 2)):
    rng = np.random.default_rng(1)
    return [rng.normal(20, 5, (2, n, N_PIXELS)) for n in sizes]


def filled(store, parts):
    for i, (charge, peak_time) in enumerate(parts, 1):
        store.append(charge, peak_time, i / len(parts))
    return store.finish()


@pytest.mark.parametrize("limit", [0, 10 * IMAGE_SIZE, 1e9])
def test_images_are_what_was_put_in(tmp_path, limit):
    parts = chunks()
    with ImageStore(limit, tmp_path) as store:
        images = filled(store, parts)
        assert store.place == "memory" if limit == 1e9 else str(tmp_path) in store.place
        assert store.n_bytes == 51 * IMAGE_SIZE
    expected = np.concatenate(parts, axis=1).swapaxes(0, 1).astype(np.float16)
    np.testing.assert_array_equal(images, expected)  # also after the end
    assert images.dtype == np.float16
    assert isinstance(images, np.memmap) == (limit < 1e9)
    assert not os.listdir(tmp_path)


def test_limit_is_kept(tmp_path):
    """Up to the limit in memory, and not one image more."""
    parts = chunks((4, 6))
    for limit, in_file in ((10 * IMAGE_SIZE, False), (10 * IMAGE_SIZE - 1, True)):
        with ImageStore(limit, tmp_path) as store:
            assert isinstance(filled(store, parts), np.memmap) == in_file


def test_saturated_pixels_are_infinite():
    store = ImageStore(1e9)
    store.append(np.full((1, N_PIXELS), 1e6), np.zeros((1, N_PIXELS)), 1.0)
    assert np.isposinf(store.finish()[:, 0]).all()


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells the peak memory, in /proc"
)
def test_growth_takes_no_second_copy():
    """What the operating system says of a process that collects 400 MB."""
    script = """
import re
from pathlib import Path
import numpy as np
from ctapipe_gphysnet.image_store import ImageStore

def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])

store = ImageStore(1e9)
part = np.ones((500, 2000), np.float32)
store.append(part, part, 0.01)
before = peak()
for i in range(99):
    store.append(part, part, 1)
images = store.finish()
print((peak() - before) / images.nbytes)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert 0.9 < float(done.stdout) < 1.2


def test_memory_that_cannot_be_had(monkeypatch):
    """Where the system gives less than it says that there is."""
    monkeypatch.setattr("ctapipe_gphysnet.image_store.available_memory", lambda: 1e17)
    charge, peak_time = chunks((4,))[0]
    with pytest.raises(ImageStoreError, match="100000000.0 GB .* --memory-limit"):
        ImageStore(1e17).append(charge, peak_time, 1.0)


def test_disk_that_is_too_small_is_told_before_it_is_full(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000 * IMAGE_SIZE})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    charge, peak_time = chunks((600,))[0]
    store = ImageStore(0, tmp_path)
    with store, pytest.raises(ImageStoreError, match="about 0.0 GB.*--image-folder"):
        store.append(charge, peak_time, 0.5)
    with ImageStore(0, tmp_path) as store:
        store.append(charge, peak_time, 0.7)


def test_disk_that_is_full(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with ImageStore(0, tmp_path) as store:
        with pytest.raises(ImageStoreError, match=f"in {tmp_path} .* GB are free"):
            filled(store, chunks())


@pytest.mark.skipif(
    not os.path.exists("/dev/full"),
    reason="this system has no device that is always full",
)
def test_disk_that_is_full_while_writing(tmp_path, monkeypatch):
    """With a device that is always full."""
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: open("/dev/full", "wb", 0))
    with ImageStore(0, tmp_path) as store:
        with pytest.raises(ImageStoreError, match="the images need about") as caught:
            filled(store, chunks())
    assert caught.value.__cause__.errno == errno.ENOSPC


def test_folder_that_cannot_be_written(tmp_path):
    with ImageStore(0, tmp_path / "absent") as store:
        with pytest.raises(ImageStoreError, match="absent"):
            filled(store, chunks())


def test_other_processes_map_the_same_file(tmp_path, monkeypatch):
    """They have the environment of the first one."""
    script = """
import numpy as np, sys
from ctapipe_gphysnet.image_store import ImageStore

store = ImageStore(0, "absent")
part = np.zeros((int(sys.argv[1]), 7))
store.append(part, part, 1)
print(store.place, store.finish().astype(float).sum())
"""

    def other(n_images):
        command = [sys.executable, "-c", script, str(n_images)]
        return subprocess.run(command, capture_output=True, text=True)

    monkeypatch.delenv("GPHYSNET_SHARED_IMAGES", raising=False)
    with ImageStore(0, tmp_path) as store:
        images = filled(store, chunks())
        expected = images.astype(float).sum()
        assert other(51).stdout == f"the file of the first process {expected}\n"
        assert "bytes of images, this one" in other(50).stderr
    assert "GPHYSNET_SHARED_IMAGES" not in os.environ


@pytest.mark.parametrize(
    ("groups", "name"),
    [
        ("0::/slurm/job\n", "sys/fs/cgroup/{}/memory.max"),
        (
            "5:cpu:/\n4:memory:/slurm/job\n0::/\n",
            "sys/fs/cgroup/memory/{}/memory.limit_in_bytes",
        ),
    ],
)
@pytest.mark.parametrize("group", ["slurm/job", "slurm", ""])
def test_memory_of_a_job(tmp_path, groups, name, group):
    """The limit of its control group, or of one that holds it, where it is less."""
    for path, text in (("proc/self/cgroup", groups), (name.format(group), "5000\n")):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    assert available_memory(tmp_path) == 5000
    (tmp_path / name.format(group)).write_text(f"{2**62}\n")
    assert 0 < available_memory(tmp_path) <= psutil.virtual_memory().total


def test_memory_without_limit(tmp_path):
    available = psutil.virtual_memory().available
    assert available_memory(tmp_path) == pytest.approx(available, rel=0.2)
