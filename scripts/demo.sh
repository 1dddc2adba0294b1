#!/usr/bin/env bash
# The paper, small: all five stages on the embedded world, with the very commands that one calls on real data.
# Two CPU cores, no GPU, nothing downloaded but Python packages. Stop it at any time; the same command goes on.
#
#   bash scripts/demo.sh            RUN=folder puts it elsewhere than runs/demo; NPROC=1 uses one process
#   bash scripts/demo.sh --fast     every command on a tiny world: shows that all works, learns next to nothing
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/env.sh train
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

if [ "${1:-}" = --fast ]; then
    RUN="${RUN:-runs/demo-fast}"
    preset=nano
    style_options=(--clusters.kmeans 4 --clusters.ups 4 --clusters.nearest 20)
    tune_options=(--num_train_epochs 1 --logging_steps 2)
    reid_options=(--epochs 1 --warmup-epochs 0 --batch-size 16)
elif [ $# -gt 0 ]; then
    echo "usage: scripts/demo.sh [--fast]" >&2
    exit 2
else
    RUN="${RUN:-runs/demo}"
    preset=demo style_options=() tune_options=() reid_options=()
fi
NPROC="${NPROC:-2}"
SECONDS=0 current='' began=0
mkdir -p "$RUN"
record() { [ -z "$current" ] || printf '{"step": "%s", "seconds": %d}\n' "$current" $((SECONDS - began)) >>"$RUN/steps.jsonl"; }
step() {
    record
    current="$1" began=$SECONDS
    printf '\n\033[1m== %s\033[0m   (%d s since the start)\n%s\n' "$1" "$SECONDS" "$2"
}
run() { printf '$ %s\n' "$*"; "$@"; }

step "The world" \
    "The paper takes CUHK-PEDES, ICFG-PEDES, RSTPReid and SYNTH-PEDES. They cannot be shipped: we draw pedestrians and simulate annotators."
run python -m ham.world build --out "$RUN/world" --preset "$preset" --seed 0
run python -m ham.datasets verify "$RUN/world" --dataset CUHK-PEDES

step "1. Styles" \
    "What remains of a human caption when the person's attributes are made vague is how it is said. Those features are clustered: KMeans + UPS."
run python scripts/build_styles.py --config configs/styles_world.yaml --root "$RUN/world" --out "$RUN/styles" \
    ${style_options[@]+"${style_options[@]}"}
run python scripts/build_styles.py inspect "$RUN/styles"

step "2. Style prompts" \
    "Ten tokens for each cluster are learned inside a LLaVA whose language model and vision tower stay frozen."
if [ -f "$RUN/captioner/manifest.json" ]; then
    echo "done before: $RUN/captioner"
else
    MODEL=ham/world/weights/llava DATA="$RUN/styles/instructions.json" IMAGES="$RUN/world" OUT="$RUN/captioner" NPROC="$NPROC" \
        run bash scripts/v1_5/finetune_task.sh --style_init vocab --style_prompt_lr 1e-2 --mm_projector_lr 1e-4 \
        --per_device_train_batch_size 16 --dataloader_num_workers 0 --save_steps 200 \
        ${tune_options[@]+"${tune_options[@]}"}
fi

step "3. Captions" \
    "The captioner describes the pool, each image in two of the styles, drawn from the seed and the image's path."
run torchrun --nproc-per-node "$NPROC" caption.py --model-path "$RUN/captioner" --image-root "$RUN/world/SYNTH-PEDES" \
    --out "$RUN/captions" --max-new-tokens 120

step "Beside them" \
    "What HAM is compared with: the untuned LLaVA, asked plainly, and asked with one of 46 textual hints. What was drawn is known: who is right?"
run python caption.py --model-path ham/world/weights/llava --styles none --captions-per-image 1 --limit 600 \
    --image-root "$RUN/world/SYNTH-PEDES" --out "$RUN/captions_static" --max-new-tokens 120
run python -m scripts.world.write_templates --world "$RUN/world" --out "$RUN/captions_template"
run python -m scripts.world.judge_captions --captions "$RUN/captions" --beside "$RUN/captions_static" --world "$RUN/world"

step "4. Pretraining and direct transfer" \
    "A CLIP, trained on these pairs with SDM alone, is measured on three benchmarks that it has never seen."
run python train_reid.py eval --config configs/reid/world_transfer.yaml --checkpoint ham/world/weights/clip \
    --data-root "$RUN/world" --output-dir "$RUN/transfer_start"
run torchrun --nproc-per-node "$NPROC" train_reid.py pretrain --config configs/reid/world_pretrain.yaml --data-root "$RUN/world" \
    --train-captions "[$RUN/captions/captions.json]" --train-images "$RUN/world/SYNTH-PEDES" --output-dir "$RUN/pretrain" \
    ${reid_options[@]+"${reid_options[@]}"}
run python train_reid.py eval --config configs/reid/world_transfer.yaml --checkpoint "$RUN/pretrain/last" \
    --data-root "$RUN/world" --output-dir "$RUN/transfer"

step "5. Finetuning" \
    "From there, IRRA and RDE go on; in the paper at half their learning rate."
run torchrun --nproc-per-node "$NPROC" train_reid.py finetune --config configs/reid/world_finetune_irra.yaml --data-root "$RUN/world" \
    --weights "$RUN/pretrain/last" --output-dir "$RUN/finetune_irra" \
    ${reid_options[@]+"${reid_options[@]}"}
run torchrun --nproc-per-node "$NPROC" train_reid.py finetune --config configs/reid/world_finetune_rde.yaml --data-root "$RUN/world" \
    --weights "$RUN/pretrain/last" --output-dir "$RUN/finetune_rde" \
    ${reid_options[@]+"${reid_options[@]}"}

step "Search" "Finding a person by a sentence."
run python train_reid.py search --checkpoint "$RUN/finetune_irra/last" --gallery "$RUN/world/CUHK-PEDES/imgs" \
    "a woman with long brown hair, a red coat and black boots" --output "$RUN/search.png"

step "The report" "All of it on one page."
run python -m scripts.demo_report --run "$RUN" --out "$RUN/report.html"
record

printf '\nThe whole paper, small, in %d s.\n  report     %s\n  search     %s\n  captions   %s\n' "$SECONDS" \
    "$RUN/report.html" "$RUN/search.png" "$RUN/captions/samples.html"
