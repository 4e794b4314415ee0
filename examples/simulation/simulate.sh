#!/usr/bin/env bash
#
# Training and test files of LST-1 from the simulation that comes with the package.
# docs/simulation_run.rst has the details.

set -euo pipefail

if (($# < 1)) || [[ $1 == -* ]]; then
    cat <<'EOF'
simulate.sh FOLDER [EVENTS [PROCESSES]]

Simulates gamma rays and protons to train with, and others to test with, with electrons.

  FOLDER     where the files are written: train_gamma.dl1.h5, train_proton.dl1.h5,
             train_hard_gamma.dl1.h5 (above 300 GeV, for energy and direction),
             test_gamma.dl1.h5 (a point source 0.4 degrees off axis), test_proton.dl1.h5,
             test_electron.dl1.h5; those that are there already are left as they are
  EVENTS     gamma rays, and protons, for training, 100000 if not given; a fifth as many
             hard gamma rays, a quarter for each test and a tenth as many electrons
  PROCESSES  how many to start, 2 if not given
EOF
    exit 2
fi

folder=${1%/} events=${2:-100000} processes=${3:-2}
mkdir -p "$folder"

# simulate FILE CARD EVENTS RUN [OPTION...]: files have runs of their own, so that none shares a shower
# with another and any of them can be merged
simulate() {
    [[ -e $folder/$1 ]] && return
    echo "simulate.sh: $1" >&2
    gphysnet-simulate "$2" --output "$folder/$1" --n-events "$3" --run-number "$4" \
        --processes "$processes" --provenance-log "$folder/provenance.log" "${@:5}"
}

simulate train_gamma.dl1.h5 gamma_diffuse "$events" 10001
simulate train_proton.dl1.h5 proton "$events" 20001
simulate train_hard_gamma.dl1.h5 gamma_diffuse $((events / 5)) 50001 \
    --ParticleGenerator.energy_min='300 GeV'
simulate test_gamma.dl1.h5 gamma_point $((events / 4)) 30001
simulate test_proton.dl1.h5 proton $((events / 4)) 40001
simulate test_electron.dl1.h5 electron $((events / 10)) 60001
