import numpy as np
import pytest
import torch

from ctapipe_gphysnet.inference import Predictor, select_device
from ctapipe_gphysnet.network.model import GammaPhysNet, NetworkOptions


@pytest.fixture
def images():
    rng = np.random.default_rng(2)
    return rng.normal(1, 2, (7, 1855)), rng.uniform(0, 40, (7, 1855))


def test_predictor_is_the_network_on_prepared_images(small_model, lst_telescope, images):
    predictor = Predictor(small_model, device="cpu", batch_size=3)
    prepared = predictor.prepare(*images, predictor.match(lst_telescope))
    raw = predictor.predict(prepared)
    with torch.no_grad():
        expected = small_model.network(torch.from_numpy(prepared))
    assert set(raw) == set(small_model.network.options.tasks)
    for task, output in raw.items():
        # batches of three, three and one: the last one must not be lost
        np.testing.assert_allclose(output, expected[task], rtol=1e-4, atol=1e-5)


def test_network_without_a_program(small_model, lst_telescope, images):
    options = NetworkOptions(
        attention="self", blocks=1, channels=(4, 4), head_width=8, reduction_ratio=2
    )
    small_model.network = GammaPhysNet(small_model.network.lattice, options).eval()
    predictor = Predictor(small_model, device="cpu")
    prepared = predictor.prepare(*images, predictor.match(lst_telescope))
    with torch.no_grad():
        expected = small_model.network(torch.from_numpy(prepared))
    for task, output in predictor.predict(prepared).items():
        np.testing.assert_allclose(output, expected[task], rtol=1e-4, atol=1e-5)


def test_no_images(small_model):
    raw = Predictor(small_model, device="cpu").predict(np.zeros((0, 2, 1855), np.float32))
    assert {task: output.shape for task, output in raw.items()} == {
        "energy": (0, 1),
        "direction": (0, 2),
        "impact": (0, 2),
        "particle_type": (0, 2),
    }


def test_pixel_order_of_the_telescope_does_not_matter(small_model, lst_telescope, images):
    predictor = Predictor(small_model, device="cpu")
    match = predictor.match(lst_telescope)
    order = np.random.default_rng(4).permutation(1855)
    shuffled = type(match)(np.argsort(order)[match.permutation], 1.0)
    broken = np.zeros((7, 1855), dtype=bool)
    broken[2, 30] = True
    np.testing.assert_array_equal(
        predictor.prepare(*images, match, broken),
        predictor.prepare(*(i[:, order] for i in images), shuffled, broken[:, order]),
    )


def test_bfloat16_is_close(small_model, lst_telescope, images):
    results = []
    for precision in ("float32", "bfloat16"):
        predictor = Predictor(small_model, device="cpu", precision=precision)
        prepared = predictor.prepare(*images, predictor.match(lst_telescope))
        results.append(predictor.predict(prepared)["energy"])
    assert not np.array_equal(*results)
    np.testing.assert_allclose(*results, atol=0.05)


@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="compares a GPU with the CPU, and there is no CUDA device",
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_cuda_is_close_to_the_cpu(small_model, lst_telescope, images, precision):
    raw = []
    for options in ({"device": "cpu"}, {"device": "cuda", "precision": precision}):
        predictor = Predictor(small_model, batch_size=3, **options)
        prepared = predictor.prepare(*images, predictor.match(lst_telescope))
        raw.append(predictor.predict(prepared))
    for task, output in raw[0].items():
        tolerance = {"float32": 1e-3, "bfloat16": 0.05}[precision]
        np.testing.assert_allclose(raw[1][task], output, atol=tolerance)


def test_wrong_number_of_pixels(small_model, lst_telescope):
    predictor = Predictor(small_model, device="cpu")
    with pytest.raises(ValueError, match="images have 10 pixels, the camera 1855"):
        predictor.prepare(
            np.zeros((1, 10)), np.zeros((1, 10)), predictor.match(lst_telescope)
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float8"}, "float8"),
        ({"batch_size": 0}, "batch_size"),
        ({"device": "abacus"}, "abacus"),
        ({"device": "mps"}, "mps"),
        ({"device": "cuda:99"}, "cuda:99.*CUDA devices found"),
    ],
)
def test_bad_options(small_model, options, message):
    with pytest.raises(ValueError, match=message):
        Predictor(small_model, **options)


def test_cuda_asked_for_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="'cuda' asked for, but 0 CUDA devices"):
        select_device("cuda")
