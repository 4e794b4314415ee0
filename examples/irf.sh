#!/usr/bin/env bash
#
# From simulated DL2 files of one telescope to its instrument response, with the tools of
# ctapipe. docs/irf.rst has the details.

set -euo pipefail

if (($# < 3)) || [[ $1 == -* ]]; then
    cat <<'EOF'
irf.sh GAMMA PROTON FOLDER [OPTION...]

Optimizes cuts for the sensitivity to a point source, computes the instrument response
after them, with and without the cut on the direction, and looks at it with gammapy.

  GAMMA, PROTON  simulated DL2 files
  FOLDER         where the results are written: cuts.fits, point-like.fits.gz,
                 full-enclosure.fits.gz, and benchmarks of both; those that are there
                 are replaced
  OPTION...      for both tools of ctapipe, for example
                     --electron-file electron.dl2.h5
                     --config examples/irf/hillas_rf.yaml
EOF
    exit 2
fi

gamma=$1 proton=$2 folder=${3%/}
shift 3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/irf
mkdir -p "$folder"

# Results get their names when they are whole.
work=$(mktemp -d "$folder/.irf.XXXXXX")
trap 'rm -rf "$work"' EXIT

# counted PARTICLE FILE: $inputs get a file that tells the number of thrown showers
inputs=()
counted() {
    python "$here/count_showers.py" "$2" "$work/$1.dl2.h5"
    inputs+=("--$1-file" "$work/$1.dl2.h5")
}

counted gamma "$gamma"
counted proton "$proton"
options=()
while (($#)); do
    case $1 in
        --electron-file=*) counted electron "${1#*=}" ;;
        --electron-file) counted electron "${2:?no file after --electron-file}" && shift ;;
        *) options+=("$1") ;;
    esac
    shift
done

# run TOOL [ARGUMENT...]
run() {
    echo "irf.sh: $1" >&2
    "$1" --config "$here/gammaphysnet.yaml" "${inputs[@]}" \
        --provenance-log "$work/provenance.log" "${@:2}" "${options[@]}"
}

run ctapipe-optimize-event-selection --output "$work/cuts.fits" || {
    echo "irf.sh: error: no cuts could be found. 'Optimal significance curve has internal" \
        "NaN bins' means that there are energies at which no simulated background is left:" \
        "use more events, or fewer bins of energy, see docs/irf.rst" >&2
    exit 1
}
for kind in point-like full-enclosure; do
    direction=--spatial-selection-applied
    [[ $kind == point-like ]] || direction=--no-spatial-selection-applied
    run ctapipe-compute-irf --cuts "$work/cuts.fits" "$direction" \
        --output "$work/$kind.fits.gz" --benchmark-output "$work/$kind-benchmark.fits.gz"
done
mv "$work"/*.fits "$work"/*.fits.gz "$folder"

for kind in point-like full-enclosure; do
    python "$here/look.py" "$folder/$kind.fits.gz"
done
