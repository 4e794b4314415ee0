#!/usr/bin/env bash
#
# Hillas parameters and random forests, the classical analysis, with the tools of ctapipe:
# train the forests on simulated DL1 files and apply them to others. docs/hillas_rf.rst
# has the details, `examples/hillas_rf.sh --help` the options. Needs bash 4.4 or newer.

set -euo pipefail

usage() {
    cat <<'EOF'
Train random forests on Hillas parameters, and apply them.

    hillas_rf.sh --models DIR [--gamma FILE... --proton FILE...] [--apply INPUT OUTPUT]...

To train, give gamma rays and protons. To apply forests that are there, leave them out.

  --models DIR             the forests: energy.pkl, disp.pkl, classifier.pkl
  --gamma FILE...          DL1 files of simulated gamma rays, best diffuse ones
  --proton FILE...         DL1 files of simulated protons
  --regression-gamma FILE...
                           more gamma rays, for energy and direction alone
  --apply INPUT OUTPUT     DL1 or DL2 file to reconstruct, and the DL2 file to write,
                           with all that INPUT has; may be given several times
  --config DIR             folder of energy.yaml, disp.yaml and classifier.yaml
                           (default: hillas_rf beside this script)
  --n-jobs N               CPU cores to use (default: 1)
  --overwrite              replace forests and outputs that are there
  -h, --help               show this text
EOF
}

fail() {
    echo "hillas_rf.sh: error: $*" >&2
    exit 1
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
config=$here/hillas_rf
models=
n_jobs=1
overwrite=
gamma=()
proton=()
regression_gamma=()
inputs=()
outputs=()

while (($#)); do
    option=$1
    shift
    values=()
    while (($#)) && [[ $1 != -* ]]; do
        values+=("$1")
        shift
    done
    case $option:${#values[@]} in
        --help:0 | -h:0) usage && exit ;;
        --overwrite:0) overwrite=yes ;;
        --models:1) models=${values[0]} ;;
        --config:1) config=${values[0]} ;;
        --n-jobs:1) n_jobs=${values[0]} ;;
        --apply:2) inputs+=("${values[0]}") outputs+=("${values[1]}") ;;
        --gamma:[1-9]*) gamma+=("${values[@]}") ;;
        --proton:[1-9]*) proton+=("${values[@]}") ;;
        --regression-gamma:[1-9]*) regression_gamma+=("${values[@]}") ;;
        *) fail "'$option ${values[*]}' is no option with its values; see --help" ;;
    esac
done

# What is missing is said before anything is computed.

# readable FILE...: stop if a file is not there.
readable() {
    local file
    for file; do
        [[ -f $file ]] || fail "there is no file $file"
    done
}

# writable FILE: stop if a file cannot be written.
writable() {
    [[ -d $(dirname "$1") ]] || fail "$1 cannot be written: its folder does not exist"
    [[ ! -e $1 || $overwrite ]] || fail "$1 exists; give --overwrite to replace it"
}

# fit FILE [truth]: stop if a file has not what is needed of it.
fit() {
    local nodes
    nodes=$(ptdump "$1" 2> /dev/null) || fail "$1 is not an HDF5 file"
    [[ $nodes == */dl1/event/telescope/parameters/* ]] ||
        fail "$1 has no image parameters; make them with ctapipe-process"
    [[ $# == 1 || $nodes == */simulation/event/subarray/* ]] ||
        fail "$1 has no simulated truth to train on"
    # ctapipe-apply-models would append to them, which no tool can read
    [[ $nodes != */HillasRF* ]] || fail "$1 has results of these forests already"
}

[[ $models ]] || fail "no folder for the forests; give --models"
[[ $n_jobs =~ ^[1-9][0-9]*$ ]] || fail "--n-jobs $n_jobs is not a number of cores"
training=("${gamma[@]}" "${proton[@]}" "${regression_gamma[@]}")
if ((${#training[@]})); then
    ((${#gamma[@]})) || fail "no gamma rays to train on; give --gamma"
    ((${#proton[@]})) || fail "no protons to train on; give --proton"
    readable "${training[@]}" "$config"/{energy,disp,classifier}.yaml
    mkdir -p "$models"
    for forest in energy disp classifier; do
        writable "$models/$forest.pkl"
    done
else
    ((${#inputs[@]})) || fail "nothing to do; give --gamma and --proton, or --apply"
    readable "$models"/{energy,disp,classifier}.pkl
fi
for i in "${!inputs[@]}"; do
    readable "${inputs[i]}"
    [[ ! ${inputs[i]} -ef ${outputs[i]} ]] || fail "${outputs[i]} is the input as well"
    writable "${outputs[i]}"
done

for file in "${training[@]}"; do
    fit "$file" truth
done
for file in "${inputs[@]}"; do
    fit "$file"
done

# Files appear in their places when they are whole; what is not is removed at the end.

aside=()
trap 'rm -rf "${aside[@]}"' EXIT
trap 'exit 130' INT TERM

# work_in FOLDER: make a hidden folder there, $work, from which to move what is whole.
work_in() {
    work=$(mktemp -d "$1/.hillas_rf.XXXXXX")
    aside+=("$work")
}

# run TOOL [ARGUMENT...]: a tool of ctapipe, with its records out of the way
run() {
    echo "hillas_rf.sh: $1" >&2
    "$@" --provenance-log "$work/provenance.log"
}

# apply INPUT OUTPUT FOREST...
apply() {
    local pickles=("${@:3}")
    run ctapipe-apply-models --input "$1" --output "$2" --n-jobs "$n_jobs" \
        "${pickles[@]/#/--reconstructor=}"
}

train() {
    work_in "$models"
    local no_images=(--no-dl1-images --no-true-images)
    python "$here/hillas_rf/training_sets.py" --gamma "${gamma[@]}" \
        --regression-gamma "${regression_gamma[@]}" \
        --regression "$work/regression.dl1.h5" \
        --classification "$work/classification.dl1.h5"

    run ctapipe-train-energy-regressor --config "$config/energy.yaml" \
        --input "$work/regression.dl1.h5" --output "$work/energy.pkl" --n-jobs "$n_jobs"
    run ctapipe-train-disp-reconstructor --config "$config/disp.yaml" \
        --input "$work/regression.dl1.h5" --output "$work/disp.pkl" --n-jobs "$n_jobs"

    run ctapipe-merge "${no_images[@]}" --output "$work/proton.dl1.h5" "${proton[@]}"
    apply "$work/classification.dl1.h5" "$work/gamma.dl2.h5" "$work"/{energy,disp}.pkl
    apply "$work/proton.dl1.h5" "$work/proton.dl2.h5" "$work"/{energy,disp}.pkl
    run ctapipe-train-particle-classifier --config "$config/classifier.yaml" \
        --signal "$work/gamma.dl2.h5" --background "$work/proton.dl2.h5" \
        --output "$work/classifier.pkl" --n-jobs "$n_jobs"

    mv "$work"/{energy,disp,classifier}.pkl "$models"
}

if ((${#training[@]})); then
    train
fi
for i in "${!inputs[@]}"; do
    work_in "$(dirname "${outputs[i]}")"
    apply "${inputs[i]}" "$work/output.dl2.h5" "$models"/{energy,disp,classifier}.pkl
    mv "$work/output.dl2.h5" "${outputs[i]}"
done
