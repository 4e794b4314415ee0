#!/bin/sh
# Draw and measure what the shipped model looks at, on the sample of the package.
#
#     sh examples/explain.sh [FOLDER]
#
# needs the extra "explain". FOLDER (build/explain by default) must not exist yet.
set -eu
folder=${1:-build/explain}
mkdir -p "$(dirname "$folder")"
sample=$(python -c 'from ctapipe_gphysnet.resources import RESOURCES; print(RESOURCES / "lst1_sample.dl1.h5")')
gphysnet-explain --input "$sample" --model lst1-mono-zenith20 --output "$folder" \
    --events 3 --sign absolute
python - "$folder/summary.ecsv" <<'PYTHON'
import sys

from astropy.table import Table

summary = Table.read(sys.argv[1])
chosen = summary[summary["shower"] == "true"]
columns = ["particle", "map", "n_events", "share", "share_error", "share_uniform"]
for name in columns[3:]:
    chosen[name].format = ".3f"
chosen[columns].pprint_all()
PYTHON
echo "Pictures and tables are in $folder"
