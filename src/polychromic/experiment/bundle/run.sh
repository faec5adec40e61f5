#!/usr/bin/env bash
# Sets up, checks and runs the experiment @NAME@. Run it again after a preemption or a kill: it continues from the last
# checkpoint. Arguments are overrides that may differ between starts, such as budget.max_dollars=20.
#
#   POLYCHROMIC_OUT     where the run folder lives (default: runs, beside this file); storage that outlives the machine
#   POLYCHROMIC_PYTHON  an interpreter that has all packages already, as in an image; nothing is installed then
#   PYTHON              the interpreter that the environment is made with, 3.11 or newer (default: python3)
#   HF_TOKEN, WANDB_API_KEY and the like are read from the environment: the bundle holds no secret.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
name=@NAME@
out=${POLYCHROMIC_OUT:-$PWD/runs}

# A damaged copy would fail in hours, or train on something else.
sha256sum --check --quiet @SUMS@ >&2

if [ -n "${POLYCHROMIC_PYTHON:-}" ]; then
  python=$POLYCHROMIC_PYTHON
else
  python=$PWD/.venv/bin/python
  if [ ! -f .venv/.complete ]; then  # also where an installation was cut short
    "${PYTHON:-python3}" -m venv --clear .venv
    "$python" -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -r requirements.txt
    touch .venv/.complete
  fi
fi
# The bundled code first, whatever the interpreter has; then the folders that the experiment's own code imports from.
export PYTHONPATH=$PWD/package/src@PYTHONPATH@${PYTHONPATH:+:$PYTHONPATH}

# Whatever ends the work, what is done is packed for the way home.
pack() { "$python" -m polychromic pack "$out/$name" || true; }
trap pack EXIT

# `run` begins with preflight on its first start, and continues on every other.
"$python" -m polychromic run experiment.yaml "$@" --out "$out" &
job=$!
trap 'kill -TERM "$job" 2>/dev/null || true' TERM INT  # a spot machine's warning: the run saves a checkpoint and ends
status=0
wait "$job" || status=$?
while kill -0 "$job" 2>/dev/null; do status=0; wait "$job" || status=$?; done
exit "$status"
