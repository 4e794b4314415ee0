import astropy.units as u
import numpy as np
import pytest
from ctapipe.coordinates import CameraFrame
from ctapipe.instrument import CameraGeometry
from ctapipe.instrument.camera import PixelShape

from ctapipe_gphysnet.explain_figures import ExplainedEvent, draw_event, particle_name

pytest.importorskip("matplotlib", reason="the extra explain is not installed")


@pytest.fixture
def event(hex_positions):
    """An event in a hexagonal camera of 61 pixels, 4 degrees across."""
    x, y = hex_positions.T
    n_pixels = len(x)
    geometry = CameraGeometry(
        name="small",
        pix_id=np.arange(n_pixels),
        pix_x=x * u.m,
        pix_y=y * u.m,
        pix_area=np.full(n_pixels, 0.002) * u.m**2,
        pix_type=PixelShape.HEXAGON,
        frame=CameraFrame(focal_length=6 * u.m),
    )
    rng = np.random.default_rng(0)
    names = ["energy", "fov_lon", "attention_2", "attention_product"]
    return ExplainedEvent(
        title="an event",
        geometry=geometry,
        charge=rng.normal(0, 5, n_pixels),
        showers={"true": x > 0.05, "cleaned": np.zeros(n_pixels, bool)},
        maps={name: 1 + rng.random((2, n_pixels)) for name in names},
        true_source=np.array([0.5, -0.25]),
        reconstructed_source=np.array([[0.5, 0.0], [0.75, 0.25]]),
    )


def panels(figure):
    """Axes with a camera, by their title."""
    cameras = [ax for ax in figure.axes if ax.get_xlabel() == "fov_lon [deg]"]
    return {ax.get_title(): ax for ax in cameras}


def unit(ax):
    return ax.collections[0].colorbar.ax.get_ylabel()


def shown(ax):
    return np.asarray(ax.collections[0].get_array())


def test_mean_and_spread_of_two_networks(event, tmp_path):
    figure = draw_event(event, ["energy", "attention_2"])
    cameras = panels(figure)
    assert list(cameras) == [
        "input: charge",
        "energy\nmean of 2 networks",
        "stage 2\nmean of 2 networks",
        "energy\nstandard deviation of 2 networks",
        "stage 2\nstandard deviation of 2 networks",
    ]
    assert figure.get_suptitle() == "an event"
    np.testing.assert_allclose(shown(cameras["input: charge"]), event.charge)
    for name, label, factor, low, meaning in (
        ("energy", "energy", 100, 0, "relevance [% per pixel]"),
        ("attention_2", "stage 2", 1, 1, "attention"),
    ):
        maps = factor * event.maps[name]
        for what, expected, begin in (
            ("mean", maps.mean(axis=0), low),
            ("standard deviation", maps.std(axis=0, ddof=1), 0),
        ):
            ax = cameras[f"{label}\n{what} of 2 networks"]
            assert unit(ax) == meaning
            np.testing.assert_allclose(shown(ax), expected)
            limits = ax.collections[0].get_clim()
            np.testing.assert_allclose(limits, [begin, expected.max()])
    assert unit(cameras["input: charge"]) == "charge [p.e.]"
    figure.savefig(tmp_path / "x.png", dpi=50)
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_source_is_marked_where_it_matters(event):
    cameras = panels(draw_event(event, ["energy", "fov_lon"]))
    for title, ax in cameras.items():
        lines = {line.get_label(): line.get_xydata() for line in ax.lines}
        assert "shower pixels, true" in lines
        assert "shower pixels, after cleaning" in lines
        if "charge" in title or "fov_lon" in title:
            np.testing.assert_array_equal(lines["true source"], [[0.5, -0.25]])
            np.testing.assert_array_equal(
                lines["reconstructed source"], event.reconstructed_source
            )
        else:
            assert len(lines) == 2


def test_one_network_without_direction_and_truth(event):
    event.maps = {name: maps[:1] for name, maps in event.maps.items()}
    event.true_source = event.reconstructed_source = None
    event.showers = {"cleaned": event.showers["cleaned"]}
    figure = draw_event(event, ["energy", "attention_product"])
    cameras = panels(figure)
    assert list(cameras) == ["input: charge", "energy", "product of the stages"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["shower pixels, after cleaning"]


def test_map_without_relevance_is_drawn_as_zero(event):
    event.maps = {"energy": np.full((1, 61), np.nan)}
    cameras = panels(draw_event(event, ["energy"]))
    np.testing.assert_array_equal(shown(cameras["energy"]), 0)


def test_networks_without_relevance_are_not_counted(event):
    event.maps["energy"][1] = np.nan
    cameras = panels(draw_event(event, ["energy"]))
    np.testing.assert_array_equal(
        shown(cameras["energy\nmean of 1 of 2 networks"]), 100 * event.maps["energy"][0]
    )
    assert "energy\nstandard deviation of 1 of 2 networks" in cameras


def test_many_maps_are_in_two_rows(event):
    event.maps = {f"map {i}": np.ones((1, 61)) for i in range(6)}
    cameras = panels(draw_event(event, event.maps))
    assert len(cameras) == 7
    rows = {ax.get_subplotspec().rowspan.start for ax in cameras.values()}
    assert rows == {0, 1}


def test_names_of_particles():
    assert [particle_name(i) for i in (0, 1, 101, 402)] == [
        *("gamma", "electron", "proton", "primary 402"),
    ]
