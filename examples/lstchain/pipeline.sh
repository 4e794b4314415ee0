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
