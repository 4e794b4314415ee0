"""The physically inspired multi-task block (Jacquemont et al. 2021, Fig. 3).

Energy is read from the means of the feature maps, which forget where the
shower is; direction and impact point from the flattened maps, which do not;
the particle type from the flattened maps by one linear layer.
"""

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
    """

    def __init__(self, layout, channels, outputs, width):
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

    def forward(self, maps):
        """Dict of task to raw outputs (N, n_outputs)."""
        return self.from_pixels(self.layout.to_pixels(maps))

    def from_pixels(self, maps):
        """The same, of maps (N, C, P) whatever the layout of the network is."""
        features = {"class": maps.flatten(1)}
        if "global" in self.hidden:
            features["global"] = self.hidden["global"](maps.mean(dim=-1))
        if "local" in self.hidden:
            features["local"] = self.hidden["local"](features["class"])
        return {
            task: output(features[self.paths[task]])
            for task, output in self.outputs.items()
        }
