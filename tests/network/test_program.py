import numpy as np
import pytest
import torch

from ctapipe_gphysnet.network.attention import ATTENTIONS
from ctapipe_gphysnet.network.model import GammaPhysNet, NetworkOptions
from ctapipe_gphysnet.network.program import LatticeProgram

SUPPORTED = ["none", *(name for name in ATTENTIONS if name != "self")]


def reference(lattice, randomize, attention="dual", **options):
    """A network on the IndexedConv package, in evaluation mode and float64."""
    options = {"blocks": 2, "channels": (4, 20, 8), "head_width": 8} | options
    options = NetworkOptions(attention=attention, reduction_ratio=2, **options)
    network = GammaPhysNet(lattice, options, backend="indexedconv")
    return randomize(network.double()).eval()


def images_of(lattice, number=3):
    generator = torch.Generator().manual_seed(7)
    size = (number, 2, lattice.n_pixels)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def outputs_of(network, images):
    with torch.no_grad():
        return torch.cat(list(network(images).values()), dim=1)


def relative(one, other):
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("attention", SUPPORTED)
def test_program_is_the_network(lattice, attention, blocks, randomize):
    network = reference(lattice, randomize, attention, blocks=blocks)
    images = images_of(lattice)
    expected = outputs_of(network, images)
    assert expected.std() > 0.01
    program = LatticeProgram(network, np.float64)
    assert relative(outputs_of(program, images), expected) < 1e-13
    single = LatticeProgram(network.float())
    assert relative(outputs_of(single, images.float()), expected) < 1e-5


@pytest.mark.parametrize("channels", [(16,), (32, 16), (16, 16, 48, 8)])
def test_any_number_of_stages_and_channels(lattice, channels, randomize):
    network = reference(lattice, randomize, channels=channels)
    program = LatticeProgram(network, np.float64)
    images = images_of(lattice)
    expected = outputs_of(network, images)
    assert relative(outputs_of(program, images), expected) < 1e-13


@pytest.mark.parametrize("tasks", [["energy"], ["particle_type"], ["impact", "energy"]])
def test_any_tasks(lattice, tasks, randomize):
    network = reference(lattice, randomize, tasks=tasks)
    program = LatticeProgram(network, np.float64)
    images = images_of(lattice)
    assert list(program(images)) == list(network(images)) == tasks
    expected = outputs_of(network, images)
    assert relative(outputs_of(program, images), expected) < 1e-13


def test_uncertainties(lattice, randomize):
    network = reference(lattice, randomize, uncertainty=True)
    program = LatticeProgram(network, np.float64)
    images = images_of(lattice)
    expected = network(images)
    assert list(expected)[-2:] == ["energy_uncertainty", "direction_uncertainty"]
    assert program(images).keys() == expected.keys()
    for name, values in program(images).items():
        assert relative(values, expected[name]) < 1e-13


def test_full_network_on_lstcam(lst_lattice, randomize):
    options = {"blocks": 9, "channels": (16, 32, 64), "head_width": 256}
    network = reference(lst_lattice, randomize, **options)
    images = images_of(lst_lattice, 2)
    expected = outputs_of(network, images)
    assert relative(outputs_of(LatticeProgram(network, np.float64), images), expected) < (
        1e-12
    )


def test_dense_network_has_the_same_program(lattice, randomize):
    network = reference(lattice, randomize)
    dense = GammaPhysNet(lattice, network.options, backend="dense").double().eval()
    dense.load_state_dict(network.state_dict())
    images = images_of(lattice)
    one, other = (
        outputs_of(LatticeProgram(n, np.float64), images) for n in (network, dense)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("number", [0, 1, 8, 21])
def test_results_do_not_depend_on_company_or_threads(lattice, number, randomize):
    program = LatticeProgram(reference(lattice, randomize), np.float64)
    images = images_of(lattice, number)
    together = outputs_of(program, images)
    assert len(together) == number
    for image, expected in zip(images, together):
        # the heads multiply matrices, whose rounding may depend on their size
        alone = outputs_of(program, image[None])
        assert relative(alone, expected[None]) < 1e-14


@pytest.mark.parametrize("number", [1, 2, 3, 7, 40])
def test_threads_share_the_images(lattice, number, randomize, monkeypatch):
    network = reference(lattice, randomize)
    images = images_of(lattice, number)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    outputs = outputs_of(LatticeProgram(network, np.float64), images)
    assert relative(outputs, outputs_of(network, images)) < 1e-13


def test_images_in_any_memory_order(lattice, randomize):
    program = LatticeProgram(reference(lattice, randomize), np.float64)
    images = images_of(lattice)
    turned = images.transpose(1, 2).contiguous().transpose(1, 2)
    assert not turned.is_contiguous()
    assert torch.equal(outputs_of(program, turned), outputs_of(program, images))


def test_nan_stays_with_its_image(lattice, randomize):
    program = LatticeProgram(reference(lattice, randomize), np.float64)
    images = images_of(lattice)
    clean = outputs_of(program, images)
    images[1, 0, 5] = torch.nan
    spoilt = outputs_of(program, images)
    assert spoilt[1].isnan().all()
    assert torch.equal(spoilt[[0, 2]], clean[[0, 2]])


def test_self_attention_is_refused(lattice, randomize):
    network = reference(lattice, randomize, "self")
    assert not LatticeProgram.supports(network)
    with pytest.raises(ValueError, match="'self'"):
        LatticeProgram(network)
