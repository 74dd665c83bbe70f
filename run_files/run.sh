#!/usr/bin/env bash
# Step 7: base against adapter on held-out patients. n is the number of trials (default 20).
#   cd run_files && ./run.sh 50
#   ./run.sh 50 --run NAME --model meta-llama/Meta-Llama-3-8B-Instruct --final
# ./run.sh --help lists all options.
set -eu
# `sh run.sh` may be another shell, which does not read what follows
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" ${1+"$@"}; fi
self="$0"
while [ -L "$self" ]; do  # a link in a folder of the user's
  target="$(readlink "$self")"
  case "$target" in /*) self="$target" ;; *) self="$(dirname "$self")/$target" ;; esac
done
here="$(cd "$(dirname "$self")" && pwd)"
root="$(dirname "$here")"
if [ ! -f "$here/validate.py" ]; then
  echo "error: $here holds no validate.py: call run.sh by its path in run_files/" >&2
  exit 2
fi

# An environment that the user has activated comes first; conda's base is on in every shell and
# means nothing.
activated=""
if [ -n "${VIRTUAL_ENV:-}" ] || [ "${CONDA_DEFAULT_ENV:-base}" != base ]; then activated=python; fi

python=""
own="$root/.venv"
for candidate in $activated "$own/bin/python" "$own/Scripts/python.exe" python3 python; do
  if command -v "$candidate" >/dev/null 2>&1; then python="$candidate"; break; fi
done
if [ -z "$python" ]; then
  echo "error: there is no Python here: install Python 3.10 or newer," \
    "or activate the environment that has it" >&2
  exit 2
fi

# a Python without the environment would fail later, and less plainly
missing="$("$python" -c '
import importlib.util
names = "bitsandbytes filelock jinja2 numpy peft pyarrow pydantic scipy torch tqdm transformers"
print(", ".join(name for name in names.split() if importlib.util.find_spec(name) is None))
')"
if [ -n "$missing" ]; then
  echo "error: $(command -v "$python") lacks the packages $missing: activate the environment" \
    "that has them, or run \`pip install -r \"$root/requirements.txt\"\`" >&2
  exit 2
fi

# The other steps ran in the folder above, so that is where their ./storage is; paths that are given
# stay relative to this folder.
export STORAGE_DIR="${STORAGE_DIR:-$root/storage}"
# bash 3.2, which macOS has, takes an empty "$@" for unset
exec "$python" "$here/validate.py" ${1+"$@"}
