#!/usr/bin/env bash
#
# Train by several recipes on the same events, and compare what comes out on others.
# docs/training.rst tells of it, `examples/compare_recipes.sh --help` the options.

set -euo pipefail

usage() {
    cat <<'EOF'
Train by several recipes, apply all models to test events, and evaluate them together.

    compare_recipes.sh --output DIR --gamma FILE... --proton FILE... \
        --test-gamma FILE --test-proton FILE [options] NAME=CONFIG[,CONFIG...]...

For every NAME the models DIR/NAME_seed1.safetensors ... are trained with the
configurations in their order. What is complete is not made again; what was interrupted
goes on. The report is DIR/report/report.html, the curves DIR/curves.png.

  --output DIR             where all goes
  --gamma FILE...          DL1 files of simulated gamma rays to train on
  --proton FILE...         DL1 files of simulated protons to train on
  --regression-gamma FILE...
                           more gamma rays, for energy, direction and impact alone
  --test-gamma FILE        DL1 file of gamma rays of other showers
  --test-proton FILE       DL1 file of protons of other showers
  --seeds N                trainings by each recipe, at least 2 (default: 3)
  --config CONFIG          goes behind those of every NAME; may be given several times
                           (default: recipes/small.yaml beside this script)
  --cuts NAME              of gphysnet-evaluate (default: low)
  -h, --help               show this text
EOF
}

fail() {
    echo "compare_recipes.sh: error: $*" >&2
    exit 1
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
output= test_gamma= test_proton= cuts=low seeds=3
inputs=() configs=() recipes=()
while (($#)); do
    option=$1
    shift
    case $option in
        -h | --help) usage; exit ;;
        --output) output=$1; shift ;;
        --test-gamma) test_gamma=$1; shift ;;
        --test-proton) test_proton=$1; shift ;;
        --cuts) cuts=$1; shift ;;
        --seeds) seeds=$1; shift ;;
        --config) configs+=("$1"); shift ;;
        --gamma | --proton)
            while (($#)) && [[ $1 != -* && $1 != *=* ]]; do
                inputs+=(--input "$1")
                shift
            done ;;
        --regression-gamma)
            while (($#)) && [[ $1 != -* && $1 != *=* ]]; do
                inputs+=(--regression-input "$1")
                shift
            done ;;
        -*) fail "unknown option $option; see --help" ;;
        *=*) recipes+=("$option") ;;
        *) fail "$option is no recipe: NAME=CONFIG[,CONFIG...]" ;;
    esac
done
[[ -n $output && -n $test_gamma && -n $test_proton ]] ||
    fail "--output, --test-gamma and --test-proton are needed; see --help"
((seeds > 1)) || fail "--seeds is $seeds; it must be 2 or more"
name_of() { local file=${1##*/}; echo "${file%%.*}"; }
[[ $(name_of "$test_gamma") != "$(name_of "$test_proton")" ]] ||
    fail "results are named by the test files up to the first dot: both are" \
        "$(name_of "$test_gamma")"
((${#inputs[@]})) || fail "no events to train on: give --gamma and --proton"
((${#recipes[@]})) || fail "no recipe: give NAME=CONFIG[,CONFIG...]"
((${#configs[@]})) || configs=("$here/recipes/small.yaml")

mkdir -p "$output"
results=() trainings=()
for recipe in "${recipes[@]}"; do
    name=${recipe%%=*}
    options=()
    IFS=, read -ra files <<<"${recipe#*=}"
    for file in "${files[@]}" "${configs[@]}"; do
        options+=(--config "$file")
    done
    if compgen -G "$output/${name}_seed*.training/last.ckpt" >/dev/null; then
        options+=(--resume)
    fi
    gphysnet-train "${options[@]}" "${inputs[@]}" -o "$output/$name.safetensors" \
        --n-seeds "$seeds"
    for model in "$output/${name}"_seed*.safetensors; do
        seed=${model##*_seed}
        seed=${seed%.safetensors}
        trainings+=("$name=${model%.safetensors}.training")
        for events in "$test_gamma" "$test_proton"; do
            result=$output/${name}_seed$seed.$(name_of "$events").dl2.h5
            results+=("$result")
            [[ $result -nt $events && $result -nt $model ]] || gphysnet-apply \
                --input "$events" --output "$result" --model "$model" --overwrite \
                --prefix "${name}Seed$seed" --no-dl1-images --no-true-images
        done
    done
done
gphysnet-evaluate "${results[@]}" --output "$output/report" --cuts "$cuts" --overwrite \
    --no-response
python "$here/training_curves.py" "${trainings[@]}" --output "$output/curves.png"
