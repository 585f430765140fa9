#!/usr/bin/env bash
# Prune in any CI: upload, prune, gate, download, and a summary in markdown. Needs `pip install` of the client alone
# (with torch where MODEL is code of yours). The exit code is that of `espalier prune`: 0 passed, 1 a gate failed, ...
#
#   ESPALIER_URL             the service
#   ESPALIER_API_KEY         a key; or ESPALIER_OIDC_AUDIENCE (GitHub Actions), ESPALIER_OIDC_TOKEN (others)
#   MODEL, DATA              as `espalier prune` takes them: net.py:Net or net.pt2, digits.npz
#   STRATEGY, SPARSITY, MIN_ACCURACY_RATIO, RECIPE, TIMEOUT    optional
#   SETTINGS                 more fields of the recipe, one a line: training.steps=300
#   OUT                      a folder for the results, pruned if left out
set -euo pipefail
: "${ESPALIER_URL:?give the URL of the service}" "${MODEL:?give a model}" "${DATA:?give a dataset}"
OUT=${OUT:-pruned}

arguments=("$MODEL" "$DATA" --out "$OUT" --cancel-on-interrupt --output json)
option() { if [ -n "$2" ]; then arguments+=("$1" "$2"); fi; }
option --strategy "${STRATEGY:-}"
option --recipe "${RECIPE:-}"
option --sparsity "${SPARSITY:-}"
option --min-accuracy-ratio "${MIN_ACCURACY_RATIO:-}"
option --timeout "${TIMEOUT:-}"
option --label "${GITHUB_SHA:+sha=$GITHUB_SHA}"
while IFS= read -r setting; do option --set "$setting"; done <<< "${SETTINGS:-}"

mkdir -p "$OUT"
code=0
espalier prune "${arguments[@]}" > "$OUT/job.json" || code=$?
job=$(python3 -c 'import json, sys; job = json.load(sys.stdin); print(job["id"] if job.get("object") == "job" else "")' \
    < "$OUT/job.json" || true)
if [ -n "$job" ]; then
    espalier summary "$job" > "$OUT/summary.md"
    cat "$OUT/summary.md" >> "${GITHUB_STEP_SUMMARY:-/dev/stdout}"
fi
if [ -n "${GITHUB_OUTPUT:-}" ]; then
    printf '%s\n' "job=$job" "exit-code=$code" "folder=$OUT" >> "$GITHUB_OUTPUT"
fi
exit "$code"
