import pytest
import torch

from ctapipe_gphysnet.network.attention import ATTENTIONS
from ctapipe_gphysnet.network.layout import LAYOUTS
from ctapipe_gphysnet.network.model import GammaPhysNet, NetworkOptions
from ctapipe_gphysnet.network.pixels import threads_for_images

#: Parameters on LSTCam, dual attention r = 16, all four tasks: the paper's 2.6e6
N_PARAMETERS = 2637465
FLAT = 64 * 117
N_HEAD = {  # hidden layers of 256; one linear layer for the class
    "energy": 64 * 256 + 256 + 257,
    "direction": FLAT * 256 + 256 + 514,
    "impact": FLAT * 256 + 256 + 514,
    "particle_type": FLAT * 2 + 2,
}
N_HEADS = sum(N_HEAD.values()) - (FLAT * 256 + 256)  # one local path for two tasks


def n_parameters(module):
    return sum(p.numel() for p in module.parameters())


def n_attention(attention, ratio, channels=(16, 32, 64)):
    squeeze = sum(2 * c * (c // ratio) + c // ratio + c for c in channels)
    return {
        "none": 0,
        "squeeze-excitation": squeeze,
        "self": sum(4 * c * (c // ratio) + 1 for c in channels),
        "dual": squeeze + sum(c * c // 2 + c + c // 2 + 1 for c in channels),
    }[attention]


def small(attention="dual", **options):
    options = {"blocks": 2, "channels": (4, 8, 8), "head_width": 8} | options
    return NetworkOptions(attention=attention, reduction_ratio=4, **options)


def images_of(lattice, batch=4):
    generator = torch.Generator().manual_seed(7)
    size = (batch, 2, lattice.n_pixels)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def test_size_of_the_paper(lst_lattice):
    assert n_parameters(GammaPhysNet(lst_lattice)) == N_PARAMETERS


@pytest.mark.parametrize("attention", ["none", *ATTENTIONS])
def test_size_of_the_attentions(lst_lattice, attention):
    options = NetworkOptions(attention=attention, reduction_ratio=4)
    expected = N_PARAMETERS - n_attention("dual", 16) + n_attention(attention, 4)
    assert n_parameters(GammaPhysNet(lst_lattice, options)) == expected


@pytest.mark.parametrize("task", N_HEAD)
def test_single_task(lst_lattice, task):
    network = GammaPhysNet(lst_lattice, NetworkOptions(tasks=[task]))
    assert n_parameters(network) == N_PARAMETERS - N_HEADS + N_HEAD[task]


def test_without_impact(lst_lattice):
    options = NetworkOptions(tasks=("energy", "direction", "particle_type"))
    network = GammaPhysNet(lst_lattice, options)
    assert n_parameters(network) == N_PARAMETERS - 514
    with torch.no_grad():
        assert list(network.eval()(torch.zeros(1, 2, 1855))) == list(options.tasks)


fast = pytest.mark.parametrize("backend", [b for b in LAYOUTS if b != "indexedconv"])


def pair(lattice, options, backend, randomize):
    """The same network on a backend and on the reference."""
    network, indexed = (
        GammaPhysNet(lattice, options, name).double() for name in (backend, "indexedconv")
    )
    assert list(network.state_dict()) == list(indexed.state_dict())
    # refuses other names and shapes
    network.load_state_dict(randomize(indexed).state_dict(), strict=True)
    return network, indexed


def relative(one, other):
    return ((one - other).norm() / other.norm()).item()


@fast
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("attention", ["none", *ATTENTIONS])
def test_backends_agree(lattice, backend, attention, training, randomize):
    outputs, gradients, states = [], [], []
    for network in pair(lattice, small(attention), backend, randomize):
        network.train(training)
        output = torch.cat(list(network(images_of(lattice)).values()), dim=1)
        output.sin().sum().backward()
        outputs.append(output.detach())
        # all at once: in front of a batch normalization a bias has no gradient
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
        states.append(torch.cat([v.flatten() for v in network.state_dict().values()]))
    assert outputs[0].std() > 0.01
    assert relative(*outputs) < 1e-10
    assert relative(*gradients) < 1e-10
    # after a forward pass in training: the running statistics
    assert relative(*states) < 1e-10


@fast
def test_backends_agree_on_lstcam(lst_lattice, backend, randomize):
    outputs, gradients = [], []
    for network in pair(lst_lattice, NetworkOptions(blocks=2), backend, randomize):
        output = torch.cat(list(network(images_of(lst_lattice, 2)).values()), dim=1)
        output.sin().sum().backward()
        outputs.append(output.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert relative(*outputs) < 1e-10
    assert relative(*gradients) < 1e-9


def test_gradients_in_single_precision(lst_lattice):
    """The rounding of Winograd's convolution does not show."""
    torch.manual_seed(4)
    options = NetworkOptions(blocks=2)
    network = GammaPhysNet(lst_lattice, options, "pixels")
    exact = GammaPhysNet(lst_lattice, options, "indexedconv").double()
    exact.load_state_dict(network.state_dict())
    images, gradients = images_of(lst_lattice, 4), []
    for one, batch in ((network, images.float()), (exact, images)):
        torch.cat(list(one(batch).values()), dim=1).sin().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in one.parameters()]))
    assert relative(*gradients) < 1e-4


def gradients_of_pixels(lattice, n_images):
    """Of all parameters, in one vector."""
    torch.manual_seed(5)
    network = GammaPhysNet(lattice, small(), "pixels").double()
    network(images_of(lattice, n_images))["energy"].sum().backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return torch.cat([gradient.flatten() for gradient in gradients])


def test_pixels_do_not_depend_on_the_threads(lattice, set_n_threads):
    """How a batch is shared changes the order of torch's sums alone."""
    set_n_threads(1)
    expected = gradients_of_pixels(lattice, 40)
    set_n_threads(3)
    assert relative(gradients_of_pixels(lattice, 40), expected) < 1e-12
    with threads_for_images(40):
        assert torch.equal(gradients_of_pixels(lattice, 40), expected)


@pytest.mark.parametrize(
    ("threads", "batch_size", "left"), [(1, 64, 1), (2, 64, 1), (2, 16, 2), (6, 64, 3)]
)
def test_torch_keeps_the_threads_that_the_images_leave(
    set_n_threads, threads, batch_size, left
):
    set_n_threads(threads)
    with threads_for_images(batch_size):
        assert torch.get_num_threads() == left
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("backend", LAYOUTS)
@pytest.mark.parametrize("attention", ["none", *ATTENTIONS])
def test_bfloat16_is_close_to_float32(lattice, attention, backend):
    torch.manual_seed(3)
    network = GammaPhysNet(lattice, small(attention), backend).eval()
    images = images_of(lattice).float()
    with torch.no_grad():
        expected = torch.cat(list(network(images).values()), dim=1)
        with torch.autocast("cpu", torch.bfloat16):
            output = torch.cat(list(network(images).values()), dim=1).float()
    assert 0 < relative(output, expected) < 0.02


def test_training_step_in_bfloat16(lattice):
    network = GammaPhysNet(lattice, small())
    with torch.autocast("cpu", torch.bfloat16):
        output = network(images_of(lattice).float())
    sum(values.float().square().sum() for values in output.values()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["energy", "mass"]}, "mass"),
        ({"tasks": "energy"}, r"got \('e', 'n'"),
        ({"tasks": []}, r"got \(\)"),
        ({"tasks": ["energy", "energy"]}, r"got \('energy', 'energy'\)"),
        ({"attention": "triple"}, "got 'triple'"),
        ({"reduction_ratio": 0}, "'reduction_ratio': 0"),
        ({"blocks": 1.5}, "'blocks': 1.5"),
        ({"head_width": -1}, "'head_width': -1"),
        ({"channels": ()}, r"'channels': \(\)"),
        ({"channels": (16, "32")}, "'32'"),
        ({"tasks": ["impact"], "uncertainty": True}, "energy or direction, got .'impact"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        NetworkOptions(**options)


def test_bad_backend_is_named(square_lattice):
    with pytest.raises(ValueError, match="'sparse'"):
        GammaPhysNet(square_lattice, backend="sparse")


@pytest.mark.parametrize("backend", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 2, 51), (1, 2, 53), (1, 3, 52), (2, 52)])
def test_images_of_another_camera_are_refused(square_lattice, backend, size):
    network = GammaPhysNet(square_lattice, small(), backend)
    with pytest.raises(ValueError, match=r"shape \(N, 2, 52\)"):
        network(torch.zeros(size))
