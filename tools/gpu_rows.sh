#!/usr/bin/env bash
# What a rented GPU is for, prepared: tests, step times, then rows in the order of their worth, as many as fit.
#
#     tools/gpu_rows.sh tests|times|rows MODEL DATA FOLDER     with SECONDS_LEFT, SHARE and PYTHON from the environment
#
# FOLDER keeps networks, checkpoints, counts and tables: bring it back, and give it again, and the rows go on where they
# were cut off. SECONDS_LEFT (540) is how long this call may take; a row that is under way then is stopped, and its last
# checkpoint stays. SHARE is the part of the images that the rows see: 0.01 is the dry run on a CPU, at a hundredth of
# the length, whose figures mean nothing. The tests need no MODEL.
set -euo pipefail

part=${1:?tests, times or rows} model=${2:?the float ResNet-20} data=${3:?CIFAR-10 as an .npz} folder=${4:?a folder}
left=${SECONDS_LEFT:-540} share=${SHARE:-1} python=${PYTHON:-python}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH=$root
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
end=$((SECONDS + left))

# Whether time is left; a command that is stopped by it is no error, and one that fails does not stop the others.
within() {
    local rest=$((end - SECONDS)) status=0
    if ((rest < 5)); then
        echo "not begun for want of time: ${*:2}"
        return 0
    fi
    timeout --signal INT --kill-after 20 "$rest" "$@" || status=$?
    ((status == 0)) || echo "ended with $status: ${*:2}"
}

few_images() {
    "$python" - "$data" "$folder/few.npz" "$share" <<'PY'
import sys

import numpy as np

source, target, share = sys.argv[1], sys.argv[2], float(sys.argv[3])
with np.load(source) as arrays:
    # Names of classes and the like are short, and stay.
    kept = {name: int(len(arrays[name]) * share) if len(arrays[name]) * share > 50 else None for name in arrays}
    np.savez(target, **{name: arrays[name][:count] for name, count in kept.items()})
PY
}

# tool | epochs | seeds | names of rows: the order of worth, each on the file that ships.
rows='
reproduce_ag.py | 30 | 3 | 2/2 plain, refitted, recipe plain, [0-9]*
reproduce_ag.py | 30 | 3 | 2/2 baseline, recipe distilled-4bit, [0-9]*
reproduce_ag.py | 5 | 3 | 8/8 plain, refitted, recipe plain, [0-9]*
reproduce_ag.py | 30 | 3 | 4/4 plain, refitted, recipe plain, [0-9]*
reproduce_ag.py | 30 | 3 | 4/4 residual, recipe distilled-4bit, [0-9]*
reproduce_ag.py | 10 | 1 | BiReal-Net, [0-9]* epochs*
reproduce_ag.py | 10 | 1 | BiReal-Net + AG, [0-9]*
reproduce_ag.py | 10 | 1 | GroupNet, 5 bases, [0-9]*
reproduce_ag.py | 10 | 1 | GroupNet, 5 bases + AG, [0-9]*
reproduce_ag.py | 10 | 1 | LQ-Net 2/2 plain, [0-9]*
reproduce_ag.py | 10 | 1 | LQ-Net 2/2 plain + AG, [0-9]*
reproduce_faq.py | | 1 | 4/4, FAQ, 10 epochs
reproduce_faq.py | | 1 | 4/4, FAQ, 30 epochs
reproduce_faq.py | | 1 | W4A8, FAQ*
reproduce_faq.py | | 1 | 3/3, FAQ*
'

case $part in
tests)
    cd "$root"
    within "$python" -m pytest -q -n 0 -rs tests/qpipe/train/test_devices.py tests/qpipe/train/test_checkpoint.py \
        tests/qpipe/train/test_executor.py tests/qpipe/train/companions 2>&1 | tee "$folder/tests.txt"
    ;;
times)
    device=$("$python" -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')
    rounds=10 runs=10
    if [[ $share != 1 ]]; then rounds=1 runs=1; fi
    within "$python" "$root/tools/bench_finetune_step.py" --model "$model" --device "$device" --rounds "$rounds" \
        --runs "$runs" --name gpu_step 2>&1 | tee "$folder/times.txt"
    ;;
rows)
    if [[ $share != 1 ]]; then
        few_images
        data=$folder/few.npz
    fi
    while IFS='|' read -r tool epochs seeds names; do
        read -r tool <<<"$tool"
        [[ -n $tool ]] || continue
        read -r epochs <<<"$epochs"
        read -r seeds <<<"$seeds"
        read -r names <<<"$names"
        if [[ $share != 1 ]]; then epochs=${epochs:+1} seeds=1; fi
        within "$python" "$root/tools/$tool" "$model" "$data" "$folder/${tool%.py}" --rows "$names" \
            --seeds "$seeds" ${epochs:+--epochs "$epochs"} --name "gpu_${tool%.py}" </dev/null
    done <<<"$rows"
    ;;
*)
    echo "gpu_rows.sh: '$part', expected tests, times or rows" >&2
    exit 2
    ;;
esac
if compgen -G "$root/artifacts/results/gpu_*.json" >/dev/null; then mv "$root"/artifacts/results/gpu_*.json "$folder"; fi
