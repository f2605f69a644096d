#!/usr/bin/env bash
# A campaign of faults, in a Python environment that has what it needs (README.md beside this file).
#
#   tests/campaign/run.sh --minutes 60 --seed 7
#   tests/campaign/run.sh --short                  about three minutes with start and end; what `.ci/run campaign` runs
#
# Environment: ALLUVIUM_PYTHON (a Python with tests/python/requirements.txt; default: one is made in the cache folder).
set -euo pipefail
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [ -z "${ALLUVIUM_PYTHON:-}" ]; then
  pins=$tests/python/requirements.txt
  folder=${XDG_CACHE_HOME:-$HOME/.cache}/alluvium/python-$(sha256sum "$pins" | cut -c 1-16)
  if [ ! -e "$folder/complete" ]; then
    rm -rf -- "$folder"
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check --requirement "$pins"
    touch "$folder/complete"
  fi
  ALLUVIUM_PYTHON=$folder/bin/python
fi
# Paths on the command line are seen from where the command is given.
export PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1 PYTHONPATH=$tests${PYTHONPATH:+:$PYTHONPATH}
exec "$ALLUVIUM_PYTHON" -m campaign "$@"
