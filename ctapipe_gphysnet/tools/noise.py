"""gphysnet-noise: settings to train for the noise of an observed run."""

from pathlib import Path

import numpy as np
import yaml
from ctapipe.core import Provenance, ToolConfigurationError
from ctapipe.core.traits import Bool, Int, UseEnum
from ctapipe.core.traits import Path as PathTrait
from ctapipe.instrument import FocalLengthKind

from ..dl1 import DL1Error
from ..files import replaced_when_whole
from ..lstchain import open_dl1
from ..noise import added_night_sky, measure_noise
from .command_line import CommandLineTool
from .outputs import failures_of_writing, verify_output

__all__ = ["NoiseTool", "main"]


class NoiseTool(CommandLineTool):
    """Measure the noise and the dead pixels of observed images, and write settings with
    which gphysnet-train makes simulated ones alike.

    Both files are DL1 of ctapipe or of lstchain, with images that were made in the same
    way: with the same extraction of charges, and without a subtraction that only one has.
    """

    name = "gphysnet-noise"
    description = __doc__
    examples = """
    gphysnet-noise --observed dl1_run.h5 --simulated gamma.dl1.h5 -o noise.yaml
    gphysnet-train --config noise.yaml -i gamma.dl1.h5 -i proton.dl1.h5 \\
        -o model.safetensors
    """

    observed = PathTrait(
        default_value=None,
        allow_none=True,
        exists=True,
        directory_ok=False,
        help="DL1 file of the run, with images",
    ).tag(config=True)
    simulated = PathTrait(
        default_value=None,
        allow_none=True,
        exists=True,
        directory_ok=False,
        help="DL1 file of simulated events to train with",
    ).tag(config=True)
    output = PathTrait(
        default_value=None,
        allow_none=True,
        directory_ok=False,
        help="Configuration of gphysnet-train to write (YAML)",
    ).tag(config=True)
    overwrite = Bool(False, help="Overwrite the output file").tag(config=True)
    tel_id = Int(1, help="The telescope").tag(config=True)
    max_events = Int(2000, min=2, help="How many events to measure, at most").tag(
        config=True
    )
    focal_length_choice = UseEnum(
        FocalLengthKind,
        default_value=FocalLengthKind.EFFECTIVE,
        help="See the option of the same name of ctapipe's HDF5EventSource",
    ).tag(config=True)

    file_lists = ()
    aliases = {
        "observed": "NoiseTool.observed",
        "simulated": "NoiseTool.simulated",
        ("o", "output"): "NoiseTool.output",
        "tel-id": "NoiseTool.tel_id",
        "max-events": "NoiseTool.max_events",
    }
    flags = {
        "overwrite": ({"NoiseTool": {"overwrite": True}}, "Overwrite the output file"),
    }

    def setup(self):
        for name in ("observed", "simulated", "output"):
            if getattr(self, name) is None:
                raise ToolConfigurationError(f"give a file with --{name}")
        verify_output(self.output, self.overwrite)

    def start(self):
        observed, simulated = (self._charge(p) for p in (self.observed, self.simulated))
        try:
            seen, made = measure_noise(observed), measure_noise(simulated)
            sound = simulated[:, ~made.dead]
            night_sky = added_night_sky(sound, seen.typical)
        except ValueError as error:
            raise ToolConfigurationError(f"{self.observed}: {error}") from error
        dead = seen.dead.mean()
        text = (
            f"# {self.observed.name}: noise {seen.typical:.3f} p.e., {seen.dead.sum()} of"
            f" {len(seen.dead)} pixels dead ({seen.n_events} events)\n"
            f"# {self.simulated.name}: noise {made.typical:.3f} p.e., to which"
            f" {night_sky:.2f} p.e. of night sky a pixel have to be added\n"
            "# The settings are twice as large: what is drawn in training lies between 0"
            " and them.\n"
        )
        if night_sky == 0 and made.typical > 1.02 * seen.typical:
            self.log.warning(
                "The simulation has more noise (%.3f p.e.) than the run (%.3f p.e.):"
                " simulate with less night sky",
                *(made.typical, seen.typical),
            )
        settings = {"night_sky": 2 * night_sky, "dead_pixels": min(2 * dead, 0.99)}
        settings = {name: round(float(value), 4) for name, value in settings.items()}
        text += yaml.safe_dump({"TrainTool": settings})
        print(text, end="")
        with failures_of_writing(self.output), replaced_when_whole(self.output) as aside:
            aside.write_text(text, encoding="utf-8")

    def _charge(self, path):
        """Charges of the first events of the telescope."""
        Provenance().add_input_file(path, role="DL1/Event", add_meta=False)
        parts, left = [], self.max_events
        try:
            with open_dl1(path, self.focal_length_choice, parent=self) as dl1:
                if self.tel_id not in dl1.subarray.tel:
                    raise DL1Error(f"{path}: no telescope {self.tel_id}")
                for block in dl1.blocks([self.tel_id], with_parameters=False):
                    for telescope in block.telescopes:
                        parts.append(telescope.image[:left])
                        left -= len(parts[-1])
                    if left <= 0:
                        break
        except DL1Error as error:
            raise ToolConfigurationError(str(error)) from error
        if left == self.max_events:
            raise ToolConfigurationError(f"{path}: no image of telescope {self.tel_id}")
        return np.concatenate(parts).astype(np.float32)

    def finish(self):
        Provenance().add_output_file(Path(self.output), role="configuration")


def main():
    """Run the tool from the command line."""
    NoiseTool().run()


if __name__ == "__main__":
    main()
