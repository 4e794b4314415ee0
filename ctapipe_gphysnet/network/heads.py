"""The physically inspired multi-task block (Jacquemont et al. 2021, Fig. 3).

Energy is read from the means of the feature maps, which forget where the
shower is; direction and impact point from the flattened maps, which do not;
the particle type from the flattened maps by one linear layer. The scale of an
error may be read from all hidden layers.
"""

import torch
from torch import nn

__all__ = ["MultiTaskHead"]


class MultiTaskHead(nn.Module):
    """Feature maps to the raw outputs of every task.

    Parameters
    ----------
    layout : layout
        Of the feature maps.
    channels : int
        Channels of the feature maps.
    outputs : dict of str to (str, int)
        For every task its path, "global", "local" or "class", and the
        number of its outputs.
    width : int
        Width of the hidden layers.
    uncertainties : iterable of str
        Names of outputs that say how large errors are. Their layers begin with zeros and
        take no part in the training; see `ctapipe_gphysnet.uncertainty`.
    """

    def __init__(self, layout, channels, outputs, width, uncertainties=()):
        super().__init__()
        self.layout = layout
        self.paths = {task: path for task, (path, _) in outputs.items()}
        flat = channels * layout.lattice.n_pixels
        hidden = {"global": channels, "local": flat}
        self.hidden = nn.ModuleDict(
            {
                path: nn.Sequential(nn.Linear(size, width), nn.ReLU())
                for path, size in hidden.items()
                if path in self.paths.values()
            }
        )
        self.outputs = nn.ModuleDict(
            {
                task: nn.Linear(flat if path == "class" else width, n_outputs)
                for task, (path, n_outputs) in outputs.items()
            }
        )
        # after all others, so that these have the same initial weights without them
        self.uncertainties = nn.ModuleDict(
            {name: nn.Linear(width * len(self.hidden), 1) for name in uncertainties}
        ).requires_grad_(False)
        for parameter in self.uncertainties.parameters():
            nn.init.zeros_(parameter)

    @property
    def flat_layers(self):
        """The linear layers that read the flattened maps, by the names of `finish`."""
        layers = {t: self.outputs[t] for t, path in self.paths.items() if path == "class"}
        if "local" in self.hidden:
            layers["local"] = self.hidden["local"][0]
        return layers

    def forward(self, maps):
        """Dict of task, or name of an uncertainty, to raw outputs (N, n_outputs)."""
        flat = self.layout.to_pixels(maps).flatten(1)
        flat = {name: layer(flat) for name, layer in self.flat_layers.items()}
        return self.finish(self.layout.mean(maps), flat)

    def finish(self, mean, flat):
        """The rest, from the means (N, C) of the maps and the `flat_layers`' outputs."""
        hidden = {}
        if "global" in self.hidden:
            hidden["global"] = self.hidden["global"](mean)
        if "local" in self.hidden:
            hidden["local"] = self.hidden["local"][1](flat["local"])
        raw = {
            task: flat[task] if path == "class" else self.outputs[task](hidden[path])
            for task, path in self.paths.items()
        }
        if self.uncertainties:
            every = torch.cat(list(hidden.values()), dim=1)
            raw.update({name: layer(every) for name, layer in self.uncertainties.items()})
        return raw
