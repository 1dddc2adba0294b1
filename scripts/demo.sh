#!/usr/bin/env bash
# The paper in miniature: all five stages on the synthetic dataset, with the commands that are used on real data.
# Two CPU cores, no GPU, nothing downloaded except Python packages. After an interruption, the same command continues.
#
#   bash scripts/demo.sh            RUN=folder selects another folder than runs/demo; NPROC=1 uses one process
#   bash scripts/demo.sh --fast     every command on a tiny dataset: checks that everything works, learns next to nothing
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ "${1:-}" = --fast ] && [ $# -eq 1 ]; then
    RUN="${RUN:-runs/demo-fast}"
    preset=nano
    style_options=(--clusters.kmeans 4 --clusters.ups 4 --clusters.nearest 20)
    tune_options=(--num_train_epochs 1 --logging_steps 2)
    reid_options=(--epochs 1 --warmup-epochs 0 --batch-size 16)
elif [ $# -gt 0 ]; then
    echo "usage: bash scripts/demo.sh [--fast]" >&2
    exit 2
else
    RUN="${RUN:-runs/demo}"
    preset=demo style_options=() tune_options=() reid_options=()
fi
NPROC="${NPROC:-2}"
mkdir -p "$RUN"

# One demo per folder: the lock is held until this process and its children end.
if command -v flock >/dev/null; then
    exec 9>"$RUN/.lock"
    if ! flock --nonblock 9; then
        echo "error: another demo is running in $RUN; wait for it, or select another folder: RUN=folder bash scripts/demo.sh" >&2
        exit 2
    fi
fi
if [ -f "$RUN/preset" ] && [ "$(cat "$RUN/preset")" != "$preset" ]; then
    echo "error: $RUN holds a demo of preset $(cat "$RUN/preset"), not $preset; select another folder with RUN=folder" >&2
    exit 2
fi
echo "$preset" >"$RUN/preset"

steps="$RUN/steps.jsonl" current='' began=0
is_done() { [ -f "$steps" ] && grep -qF "{\"step\": \"$1\", \"complete\": true" "$steps"; }
where() { printf '  report     %s\n  search     %s\n  captions   %s\n' "$RUN/report.html" "$RUN/search.png" "$RUN/captions/samples.html"; }

if is_done "Report" && [ -f "$RUN/report.html" ]; then
    printf 'This demo is finished; nothing to do. Delete %s to run it again.\n' "$RUN"
    where
    exit 0
fi

source scripts/env.sh train
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
SECONDS=0

# begin NAME TEXT: print the heading of a step; fails if the step is complete, so that its commands are skipped.
begin() {
    if is_done "$1"; then
        printf '\n== %s: complete\n' "$1"
        return 1
    fi
    current="$1" began=$SECONDS
    printf '\n\033[1m== %s\033[0m   (%d s since the start)\n%s\n' "$1" "$SECONDS" "$2"
}
record() { printf '{"step": "%s", "complete": %s, "seconds": %d}\n' "$current" "$1" $((SECONDS - began)) >>"$steps"; }
complete() { record true; current=''; }
trap '[ -z "$current" ] || record false' EXIT      # the time of an interrupted step counts as well
run() { printf '$ %s\n' "$*"; "$@" || exit $?; }
launch() { run python scripts/launch.py --standalone --nproc-per-node "$NPROC" "$@"; }

if begin "Synthetic dataset" \
    "The paper uses CUHK-PEDES, ICFG-PEDES, RSTPReid and SYNTH-PEDES. They cannot be shipped: pedestrians are drawn, annotators simulated."; then
    run python -m ham.world build --out "$RUN/world" --preset "$preset" --seed 0
    run python -m ham.datasets verify "$RUN/world" --dataset CUHK-PEDES
    complete
fi

if begin "1. Styles" \
    "Captions are made content-neutral, so that only the style is left. Their features are clustered: KMeans + UPS."; then
    run python scripts/build_styles.py --config configs/styles_world.yaml --root "$RUN/world" --out "$RUN/styles" \
        ${style_options[@]+"${style_options[@]}"}
    run python scripts/build_styles.py inspect "$RUN/styles"
    complete
fi

if begin "2. Style prompts" \
    "Ten tokens for each style are trained inside a LLaVA whose language model and vision tower stay frozen."; then
    if [ ! -f "$RUN/captioner/manifest.json" ]; then
        MODEL=ham/world/weights/llava DATA="$RUN/styles/instructions.json" IMAGES="$RUN/world" OUT="$RUN/captioner" NPROC="$NPROC" \
            run bash scripts/v1_5/finetune_task.sh --style_init vocab --style_prompt_lr 1e-2 --mm_projector_lr 1e-4 \
            --per_device_train_batch_size 16 --dataloader_num_workers 0 --save_steps 200 \
            ${tune_options[@]+"${tune_options[@]}"}
    fi
    complete
fi

if begin "3. Captions" \
    "The captioner describes the pool, each image in two random styles, drawn from the seed and the path of the image."; then
    launch caption.py --model-path "$RUN/captioner" --image-root "$RUN/world/SYNTH-PEDES" \
        --out "$RUN/captions" --max-new-tokens 120
    complete
fi

if begin "Comparison captions" \
    "What HAM is compared with: the untuned LLaVA with one instruction, and with 46 textual hints. Drawn images tell who is right."; then
    run python caption.py --model-path ham/world/weights/llava --styles none --captions-per-image 1 --limit 600 \
        --image-root "$RUN/world/SYNTH-PEDES" --out "$RUN/captions_static" --max-new-tokens 120
    run python -m scripts.world.write_templates --world "$RUN/world" --out "$RUN/captions_template"
    run python -m scripts.world.judge_captions --captions "$RUN/captions" --beside "$RUN/captions_static" --world "$RUN/world"
    complete
fi

if begin "4. Direct transfer before pretraining" "The CLIP that pretraining starts from, on three benchmarks."; then
    run python train_reid.py eval --config configs/reid/world_transfer.yaml --checkpoint ham/world/weights/clip \
        --data-root "$RUN/world" --output-dir "$RUN/transfer_start"
    complete
fi

if begin "4. Pretraining" "The CLIP is trained on the generated pairs with SDM alone; it never sees the benchmarks."; then
    launch train_reid.py pretrain --config configs/reid/world_pretrain.yaml --data-root "$RUN/world" \
        --train-captions "[$RUN/captions/captions.json]" --train-images "$RUN/world/SYNTH-PEDES" --output-dir "$RUN/pretrain" \
        ${reid_options[@]+"${reid_options[@]}"}
    run python train_reid.py eval --config configs/reid/world_transfer.yaml --checkpoint "$RUN/pretrain/last" \
        --data-root "$RUN/world" --output-dir "$RUN/transfer"
    complete
fi

for method in irra rde; do
    if begin "5. Fine-tuning ($method)" "From the pretrained weights, on one benchmark; in the paper at half the method's learning rate."; then
        launch train_reid.py finetune --config "configs/reid/world_finetune_$method.yaml" --data-root "$RUN/world" \
            --weights "$RUN/pretrain/last" --output-dir "$RUN/finetune_$method" \
            ${reid_options[@]+"${reid_options[@]}"}
        complete
    fi
done

if begin "5. Fine-tuning from CLIP (irra)" "The same from the CLIP that pretraining started from: the difference is what pretraining is worth."; then
    launch train_reid.py finetune --config configs/reid/world_finetune_irra_clip.yaml --data-root "$RUN/world" \
        --weights ham/world/weights/clip --output-dir "$RUN/finetune_clip" \
        ${reid_options[@]+"${reid_options[@]}"}
    complete
fi

if begin "Search" "Find a person by a sentence."; then
    run python train_reid.py search --checkpoint "$RUN/finetune_irra/last" --gallery "$RUN/world/CUHK-PEDES/imgs" \
        "a woman with long brown hair, a red coat and black boots" --output "$RUN/search.png"
    complete
fi

if begin "Report" "All results on one page."; then
    run python -m scripts.demo_report --run "$RUN" --out "$RUN/report.html"
    complete
fi

printf '\nFinished in %d s.\n' "$SECONDS"
where
