import numpy as np
import pytest
import torch
from scipy.spatial import Delaunay

from ctapipe_gphysnet.camera import CameraLayout
from ctapipe_gphysnet.checkpoint import Model
from ctapipe_gphysnet.explain import OUTPUTS, SIGNS, Ensemble, interpolation_matrix
from ctapipe_gphysnet.inference import Predictor
from ctapipe_gphysnet.network.model import GammaPhysNet, NetworkOptions
from ctapipe_gphysnet.preprocessing import Preprocessing

captum = pytest.importorskip("captum", reason="the extra explain is not installed")

ALL_OUTPUTS = ["gammaness", "energy", "fov_lon", "fov_lat", "impact_x", "impact_y"]


@pytest.fixture
def explainer():
    from ctapipe_gphysnet.explain import Explainer

    return Explainer


def coarsened(lattice, times):
    for _ in range(times):
        lattice, _ = lattice.subsample()
    return lattice


@pytest.mark.parametrize("times", [0, 1, 2])
def test_interpolation_keeps_the_values_at_coarse_cells(lattice, times):
    coarse = coarsened(lattice, times)
    matrix = interpolation_matrix(lattice, coarse, 2**times).toarray()
    assert matrix.shape == (lattice.n_pixels, coarse.n_pixels)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    assert (matrix >= 0).all()
    for i, cell in enumerate(coarse.cells):
        pixel = lattice.index_matrix[tuple(cell * 2**times)]
        np.testing.assert_array_equal(np.flatnonzero(matrix[pixel]), [i])


def test_interpolation_is_that_of_the_triangles_between_coarse_pixels(lst_lattice):
    """The whole way is checked with positions alone, without cells of the lattice."""
    coarse = coarsened(lst_lattice, 2)
    assert coarse.n_pixels == 117
    matrix = interpolation_matrix(lst_lattice, coarse, 4).toarray()
    positions = lst_lattice.cells @ lst_lattice.basis
    centres = positions[[lst_lattice.index_matrix[tuple(c)] for c in 4 * coarse.cells]]
    triangles = Delaunay(centres)
    pitch = 4 * np.linalg.norm(lst_lattice.basis, axis=1).mean()
    n_inside = 0
    for position, weights in zip(positions, matrix):
        triangle = int(triangles.find_simplex(position))
        corners = triangles.simplices[triangle]
        sides = centres[corners] - centres[np.roll(corners, 1)]
        if triangle < 0 or (np.linalg.norm(sides, axis=1) > 1.2 * pitch).any():
            continue  # at the edge, where a corner is missing
        n_inside += 1
        found = np.linalg.solve(
            np.vstack([centres[corners].T, np.ones(3)]), [*position, 1]
        )
        np.testing.assert_allclose(weights[corners], found, atol=1e-6)
    assert n_inside > 1300


def test_interpolation_on_squares_is_bilinear(square_lattice):
    coarse = coarsened(square_lattice, 1)
    matrix = interpolation_matrix(square_lattice, coarse, 2)

    def bilinear(cells):
        row, column = cells.T
        return 3 + row - 2 * column + 0.5 * row * column

    inside = (square_lattice.cells <= 2 * coarse.cells.max(axis=0)).all(axis=1)
    # the pixels beside the corner of the camera that is missing
    inside &= square_lattice.cells.sum(axis=1) > 2
    found = matrix @ bilinear(2 * coarse.cells)
    expected = bilinear(square_lattice.cells)
    np.testing.assert_allclose(found[inside], expected[inside])
    assert inside.sum() > 30


def test_interpolation_where_coarse_cells_are_missing(ragged_lattice):
    """Every pixel has its share, and only of coarse cells nearby."""
    coarse = coarsened(ragged_lattice, 2)
    matrix = interpolation_matrix(ragged_lattice, coarse, 4).toarray()
    pitch = np.linalg.norm(ragged_lattice.basis, axis=1).mean()
    offset = (
        (ragged_lattice.cells[:, None] - 4 * coarse.cells) @ ragged_lattice.basis / pitch
    )
    distance = np.linalg.norm(offset, axis=-1)
    used = np.where(matrix > 0, distance, 0).max(axis=1)
    nearest = distance.min(axis=1)
    alone = nearest > 4
    assert (used[~alone] < 4 + 1e-6).all()
    np.testing.assert_allclose(used[alone], nearest[alone])


def make_networks(lattice, attention, randomize):
    """The same network on both backends, in double precision."""
    options = NetworkOptions(
        attention=attention,
        blocks=2,
        channels=(8, 10, 12),
        head_width=8,
        reduction_ratio=2,
    )
    reference = randomize(GammaPhysNet(lattice, options, "indexedconv")).double().eval()
    network = GammaPhysNet(lattice, options, "dense").double().eval()
    network.load_state_dict(reference.state_dict())
    return network, reference


def scores_by_hand(raw):
    """What is explained, written out."""
    return {
        "gammaness": raw["particle_type"][:, 1] - raw["particle_type"][:, 0],
        "energy": raw["energy"][:, 0],
        "fov_lon": raw["direction"][:, 0],
        "fov_lat": raw["direction"][:, 1],
        "impact_x": raw["impact"][:, 0],
        "impact_y": raw["impact"][:, 1],
    }


def grad_cam_by_hand(reference, images):
    """Grad-CAM (Selvaraju et al. 2017) of a network on IndexedConv, event by event."""
    kept = []
    layer = reference.backbone.stages[-1][-1].conv2
    hook = layer.register_forward_hook(lambda layer, inputs, output: kept.append(output))
    maps = {name: [] for name in ALL_OUTPUTS}
    for image in torch.from_numpy(images):
        scores = scores_by_hand(reference(image[None]))
        activation = kept.pop()
        for name, score in scores.items():
            (gradient,) = torch.autograd.grad(score[0], activation, retain_graph=True)
            total = 0
            for channel in range(activation.shape[1]):
                weight = gradient[0, channel].sum() / activation.shape[2]
                total = total + weight * activation[0, channel]
            maps[name].append(total.detach().numpy())
    hook.remove()
    return {name: np.array(values) for name, values in maps.items()}


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("attention", ["none", "squeeze-excitation", "self", "dual"])
def test_relevance_is_grad_cam(explainer, lattice, attention, sign, randomize):
    network, reference = make_networks(lattice, attention, randomize)
    images = np.random.default_rng(1).normal(size=(3, 2, lattice.n_pixels))
    explanation = explainer(network, sign=sign)(images)
    assert list(explanation.relevance) == ALL_OUTPUTS

    matrix = interpolation_matrix(lattice, coarsened(lattice, 2), 4)
    n_signs = set()
    for name, coarse in grad_cam_by_hand(reference, images).items():
        n_signs |= set(np.sign(coarse).ravel())
        kept = np.maximum(coarse, 0) if sign == "positive" else np.abs(coarse)
        found = explanation.relevance[name]
        assert found.shape == (3, lattice.n_pixels)
        np.testing.assert_allclose(found, (matrix @ kept.T).T, rtol=1e-9, atol=1e-12)
    assert n_signs == {-1, 1}

    with torch.no_grad():
        raw = reference(torch.from_numpy(images))
    for task, expected in raw.items():
        np.testing.assert_allclose(explanation.raw[task], expected, rtol=1e-9)


def test_explaining_leaves_the_network_as_it_was(explainer, lattice, randomize):
    network, _ = make_networks(lattice, "dual", randomize)
    images = np.random.default_rng(1).normal(size=(2, 2, lattice.n_pixels))
    with torch.no_grad():
        before = network(torch.from_numpy(images))
    explain = explainer(network)
    first, second = explain(images), explain(images)
    for name, maps in first.relevance.items():
        np.testing.assert_array_equal(maps, second.relevance[name])
    for module in network.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(parameter.grad is None for parameter in network.parameters())
    with torch.no_grad():
        after = network(torch.from_numpy(images))
    for task, expected in before.items():
        assert torch.equal(after[task], expected)


def test_attention_is_the_spatial_map_of_each_stage(explainer, lattice, randomize):
    network, reference = make_networks(lattice, "dual", randomize)
    images = np.random.default_rng(2).normal(size=(2, 2, lattice.n_pixels))
    explanation = explainer(network)(images)

    kept = []
    for layer in reference.backbone.attentions:
        layer.register_forward_pre_hook(lambda layer, inputs: kept.append(inputs[0]))
    with torch.no_grad():
        reference(torch.from_numpy(images))
    assert len(explanation.attention) == len(kept) == 3
    for stage, (maps, found) in enumerate(zip(kept, explanation.attention)):
        layer = reference.backbone.attentions[stage]
        norm = layer.norm
        hidden = np.einsum("oc,ncp->nop", numpy(layer.reduce.weight), numpy(maps))
        hidden -= numpy(norm.running_mean)[:, None]
        hidden /= np.sqrt(numpy(norm.running_var) + norm.eps)[:, None]
        hidden = hidden * numpy(norm.weight)[:, None] + numpy(norm.bias)[:, None]
        hidden = np.maximum(hidden, 0)
        logit = np.einsum("c,ncp->np", numpy(layer.spatial.weight)[0], hidden)
        logit += numpy(layer.spatial.bias)
        coarse = 1 + 1 / (1 + np.exp(-logit))
        matrix = interpolation_matrix(lattice, coarsened(lattice, stage), 2**stage)
        np.testing.assert_allclose(found, (matrix @ coarse.T).T, rtol=1e-9)
        assert 1 <= found.min() <= found.max() <= 2
        assert np.ptp(found) > 0.01


def numpy(tensor):
    return tensor.detach().numpy()


def test_networks_without_dual_attention_have_no_attention_maps(
    explainer, lattice, randomize
):
    network, _ = make_networks(lattice, "self", randomize)
    explain = explainer(network, ["energy"])
    explanation = explain(np.zeros((1, 2, lattice.n_pixels)))
    assert explain.n_attention == 0
    assert explanation.attention == []
    assert list(explanation.relevance) == ["energy"]


def test_outputs_that_are_not_there(explainer, lattice):
    network = GammaPhysNet(lattice, NetworkOptions(("energy",), "none", blocks=1))
    with pytest.raises(ValueError, match="no output 'fov_lon': .* tasks energy"):
        explainer(network, ["energy", "fov_lon"])
    with pytest.raises(ValueError, match="no output 'mass'"):
        explainer(network, ["mass"])


@pytest.fixture(scope="module")
def camera(lst_telescope):
    camera = CameraLayout.from_telescope(lst_telescope)
    return camera, camera.match(camera)


@pytest.fixture(scope="module")
def shuffled_camera(camera):
    """The same camera with its pixels in another order."""
    camera, _ = camera
    order = np.random.default_rng(4).permutation(1855)
    shuffled = CameraLayout(
        "shuffled",
        camera.kind,
        camera.positions[order],
        camera.focal_length,
        camera.mirror_area,
    )
    return shuffled, shuffled.match(camera)


def predictor_of(camera, randomize, seed=0, **options):
    options = {"blocks": 1, "channels": (4, 4, 8), "head_width": 8, **options}
    network = GammaPhysNet(camera.lattice, NetworkOptions(reduction_ratio=2, **options))
    randomize(network, seed)
    return Predictor(Model(network.eval(), camera, Preprocessing()), device="cpu")


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(3)
    return rng.gamma(0.5, 8, (4, 1855)), rng.uniform(0, 40, (4, 1855))


def test_maps_are_in_the_order_of_the_telescope(
    camera, shuffled_camera, randomize, images
):
    """A model that lists the pixels of the camera in another order says the same."""
    layouts, matches = zip(camera, shuffled_camera)
    assert (matches[0].permutation != matches[1].permutation).any()
    predictors = [predictor_of(layout, randomize) for layout in layouts]
    ensemble = Ensemble(predictors, sign="absolute")
    assert ensemble.attention_maps == (
        *("attention_1", "attention_2", "attention_3", "attention_product"),
    )
    assert ensemble.maps == (*ALL_OUTPUTS, *ensemble.attention_maps)
    assert list(OUTPUTS) == ALL_OUTPUTS

    maps, raw = ensemble(*images, matches)
    assert tuple(maps) == ensemble.maps
    for values in maps.values():
        assert values.shape == (4, 2, 1855)
        np.testing.assert_allclose(values[:, 0], values[:, 1], rtol=1e-3, atol=1e-6)
        assert values[:, 0].std(axis=1).min() > 0
    prepared = predictors[0].prepare(*images, matches[0])
    with torch.no_grad():
        expected = predictors[0].model.network(torch.from_numpy(prepared))
    for found in raw:
        for task, values in expected.items():
            np.testing.assert_allclose(found[task], values, rtol=1e-3, atol=1e-4)


def test_relevance_is_in_shares_and_attention_is_multiplied(camera, randomize, images):
    layout, match = camera
    predictors = [predictor_of(layout, randomize, seed) for seed in (0, 1)]
    maps, _ = Ensemble(predictors, ["energy"], "absolute")(*images, [match, match])
    np.testing.assert_allclose(maps["energy"].sum(axis=-1), 1, rtol=1e-5)
    assert np.abs(maps["energy"][:, 0] - maps["energy"][:, 1]).max() > 1e-4
    stages = [maps[f"attention_{stage}"] for stage in (1, 2, 3)]
    np.testing.assert_allclose(maps["attention_product"], np.prod(stages, axis=0))
    assert 1 <= maps["attention_product"].min() < maps["attention_product"].max() <= 8


def test_without_any_relevance_maps_are_nan(camera, randomize, images):
    layout, match = camera
    predictor = predictor_of(layout, randomize, attention="none")
    with torch.no_grad():
        predictor.model.network.head.outputs["energy"].weight.zero_()
    ensemble = Ensemble([predictor], ["energy", "fov_lon"], "absolute")
    maps, _ = ensemble(*images, [match])
    assert np.isnan(maps["energy"]).all()
    assert np.isfinite(maps["fov_lon"]).all()
