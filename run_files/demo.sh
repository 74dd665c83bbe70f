#!/usr/bin/env bash
# All seven steps on built-in synthetic patients and a small built-in model; `make demo` calls this.
#   run_files/demo.sh [STORAGE]      (default: ./storage)
set -eo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
umask 077
unset MIMIC_DIR STORAGE_DIR

storage="${1:-storage}"
mkdir -p "$storage"
storage="$(cd "$storage" && pwd)"

manifest="$storage/subjects/manifest.json"
if [ -f "$manifest" ] && ! grep -q '"kind": "synthetic"' "$manifest"; then
  echo "error: $storage holds real patients, which the demo would replace:" \
    "run make demo STORAGE=storage-demo" >&2
  exit 2
fi

step() {  # step NUMBER COMMAND [ARGUMENT ...]
  local number="$1" began=$SECONDS
  shift
  printf '\n=== step %s: %s\n' "$number" "$*"
  "$@" || exit
  printf '=== step %s took %s s\n' "$number" $((SECONDS - began))
}

train() { python train_qlora.py "$@" | tee "$storage/train.log"; }
validate() { (cd run_files && ./run.sh "$@"); }
# given to each step, so that the commands that they end with name the folder where they must
place=(--storage "$storage")

question="I have had a bad headache since this morning. What should I do?"

step 1 python convert_to_jsonl.py "${place[@]}"
step 2 python summarize_jsonl.py "${place[@]}"
step 3 python feature_select_xgb_columns.py --seeds 3 "${place[@]}"
step 4 python make_symptom_prompts_ctx_dxpx.py --tasks guidance --token-budget 350 --max-total 80 \
  "${place[@]}"
step 5 train --validations 2 "${place[@]}"
step 6 python qa_by_subject.py --max-new-tokens 160 --once --subject-id random \
  --question "$question" "${place[@]}"
step 7 validate 8 --max-new-tokens 320 "${place[@]}"

printf '\nAll seven steps took %s s; what they left is in %s\n' $SECONDS "$storage"
if [ -f .venv/bin/activate ]; then
  echo "To go on from here, in this folder: source .venv/bin/activate"
fi
