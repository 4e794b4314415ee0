from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.table import Table

from ctapipe_gphysnet.checkpoint import read_model, write_model
from ctapipe_gphysnet.seeds import seed_outputs, write_index


def test_names_of_outputs():
    output = Path("folder/model.v2.safetensors")
    assert seed_outputs(output, range(3, 4)) == {3: output}
    assert seed_outputs(output, range(3, 5)) == {
        3: Path("folder/model.v2_seed3.safetensors"),
        4: Path("folder/model.v2_seed4.safetensors"),
    }


def test_index(small_model, tmp_path):
    outputs = {seed: tmp_path / f"{seed}.safetensors" for seed in (1, 2)}
    for path, auc in zip(outputs.values(), (0.75, None)):
        fitted = {"energy": {"pull_width": 1.0}}
        card = {"validation": {"n_images": 5, "auc": auc, "uncertainty": fitted}}
        write_model(path, replace(small_model, information=card))
    write_index(tmp_path / "index.ecsv", outputs)
    table = Table.read(tmp_path / "index.ecsv")
    assert list(table["seed"]) == [1, 2]
    assert list(table["file"]) == ["1.safetensors", "2.safetensors"]
    identities = [read_model(path).identity for path in outputs.values()]
    assert list(table["identity"]) == identities
    assert set(table.colnames) == {"seed", "file", "identity", "n_images", "auc"}
    assert table["auc"][0] == 0.75
    assert np.isnan(table["auc"][1])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "1.safetensors",
        "2.safetensors",
        "index.ecsv",
    ]
