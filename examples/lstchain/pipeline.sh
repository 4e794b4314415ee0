#!/usr/bin/env bash
#
# From simulated air showers to the instrument response, DL3 and converted DL2 files that
# the tools of lstchain make of results of γ-PhysNet. docs/lstchain.rst has the details.

set -euo pipefail

if (($# < 1)) || [[ $1 == -* ]]; then
    cat <<'EOF'
pipeline.sh FOLDER [EVENTS [PROCESSES]]

Simulates events, writes them as lstchain's DL1, reconstructs them with γ-PhysNet, and runs
lstchain_create_irf_files, lstchain_create_dl3_file and lstchain_dl2_converter on the
results. There are no observations in it: the DL3 file is of simulated gamma rays and
protons that are made to look like a run.

  FOLDER     where all is written; what is there already is not made again
  EVENTS     gamma rays and protons to simulate, 20000 if not given, and a fifth of it
             electrons
  PROCESSES  how many to simulate with, 2 if not given

  LSTCHAIN   environment variable: folder with the commands of lstchain, in an environment
             of their own (python3.11 -m venv lst && lst/bin/pip install lstchain==0.12.3,
             then LSTCHAIN=lst/bin)
  MODEL      environment variable: model file; that of the package if not given
EOF
    exit 2
fi

folder=${1%/} events=${2:-20000} processes=${3:-2}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${LSTCHAIN:?is not set: the folder with the commands of lstchain}"
lstchain=$(cd "$LSTCHAIN" && pwd)
model=${MODEL:-lst1-mono-zenith20}
[[ -x $lstchain/lstchain_create_irf_files ]] || {
    echo "pipeline.sh: error: no lstchain_create_irf_files in $lstchain" >&2
    exit 1
}
mkdir -p "$folder"
log=$folder/provenance.log

# missing FILE: whether it has to be made
missing() {
    [[ -e $folder/$1 ]] && return 1
    echo "pipeline.sh: $1" >&2
}

# simulate NAME CARD EVENTS RUN: DL1 files, of ctapipe and of lstchain
simulate() {
    if missing "$1.dl1.h5"; then
        gphysnet-simulate "$2" -o "$folder/$1.dl1.h5" --n-events "$3" --run-number "$4" \
            --processes "$processes" --provenance-log "$log"
    fi
    if missing "dl1_$1.h5"; then
        python "$here/to_lstchain_dl1.py" "$folder/$1.dl1.h5" "$folder/dl1_$1.h5"
    fi
}

# reconstruct NAME: DL2 of lstchain
reconstruct() {
    if missing "dl2_$1.h5"; then
        gphysnet-apply -i "$folder/dl1_$1.h5" -o "$folder/dl2_$1.h5" -m "$model" \
            --provenance-log "$log"
    fi
}

simulate gamma_point gamma_point "$events" 1
simulate gamma_diffuse gamma_diffuse "$events" 1001
simulate proton proton "$events" 2001
simulate electron electron $((events / 5)) 3001
run=LST-1.Run00001
if missing "dl1_$run.h5"; then
    python "$here/observe.py" "$folder"/dl1_{gamma_point,proton}.h5 "$folder/dl1_$run.h5"
fi
for name in gamma_point gamma_diffuse proton electron "$run"; do
    reconstruct "$name"
done

# irf FILE GAMMA [OPTION...]: instrument response with background
irf() {
    missing "$1" || return 0
    "$lstchain/lstchain_create_irf_files" --input-gamma-dl2 "$folder/dl2_$2.h5" \
        --input-proton-dl2 "$folder/dl2_proton.h5" \
        --input-electron-dl2 "$folder/dl2_electron.h5" \
        --output-irf-file "$folder/$1" --global-gh-cut 0.7 "${@:3}"
}

irf irf_point-like.fits.gz gamma_point --point-like --global-theta-cut 0.2
irf irf_diffuse.fits.gz gamma_diffuse

if missing "dl3_$run.fits"; then
    # what is 20 degrees south of the zenith of La Palma at the time of the "run"
    "$lstchain/lstchain_create_dl3_file" --input-dl2 "$folder/dl2_$run.h5" \
        --output-dl3-path "$folder" --input-irf-path "$folder" \
        --irf-file-pattern irf_diffuse.fits.gz \
        --source-name simulated --source-ra 67.26deg --source-dec 8.71deg
fi
if missing converted.dl2.h5; then
    "$lstchain/lstchain_dl2_converter" -i "$folder/dl2_$run.h5" \
        -o "$folder/converted.dl2.h5"
fi
"$lstchain/python" "$here/look.py" "$folder"/irf_*.fits.gz "$folder/dl3_$run.fits"
