#!/usr/bin/env bash
# Stage 2: learn one style prompt per cluster inside a frozen LLaVA-1.6, with the paper's values
# (4 GPUs x 20, 2 epochs, learning rate 4e-4, cosine, bf16, ZeRO-3 with offload).
#
#   hf download liuhaotian/llava-v1.6-vicuna-7b --local-dir models/llava-v1.6-vicuna-7b
#   MODEL=models/llava-v1.6-vicuna-7b DATA=styles/instructions.json IMAGES=data OUT=checkpoints/ham \
#       bash scripts/v1_5/finetune_task.sh [any flag of python -m ham.captioner.train, e.g. --num_train_epochs 1]
#
#   MODEL      folder of a LLaVA-1.5/1.6, HAM or llava-hf checkpoint        DATA    instructions.json of build_styles.py
#   IMAGES     folder that the records' image paths are relative to         OUT     where the adapter and checkpoints go
#   GPUS       0,1,2,3 (default: all)       NPROC   processes per node (default: one per GPU; 1 without)
#   DEEPSPEED  a config, or none for plain DistributedDataParallel (default: configs/deepspeed/zero3_offload.json on GPUs,
#              none without)
#   several nodes: NNODES=4 NODE_RANK=0..3 MASTER_ADDR=host0 [MASTER_PORT=29500], the same command on each
#
# The same command again resumes from the newest whole checkpoint in OUT; other data, base model or rates are refused by name.
# All flags of LLaVA's own finetune scripts are accepted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/env.sh train

: "${MODEL:?set MODEL to the folder of a LLaVA checkpoint}"
: "${DATA:?set DATA to instructions.json}"
: "${IMAGES:?set IMAGES to the folder that holds the images}"
OUT="${OUT:-checkpoints/ham}"

if [ -n "${GPUS:-}" ]; then export CUDA_VISIBLE_DEVICES="$GPUS"; fi
gpu_count="$(python -c 'import torch; print(torch.cuda.device_count())')"
if [ "$gpu_count" -gt 0 ]; then
    machine=(--bf16 True --tf32 True --gradient_checkpointing True)
    DEEPSPEED="${DEEPSPEED:-configs/deepspeed/zero3_offload.json}"
else
    machine=(--use_cpu True)
    DEEPSPEED="${DEEPSPEED:-none}"
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" DS_ACCELERATOR="${DS_ACCELERATOR:-cpu}"
fi
if [ "$DEEPSPEED" != none ]; then machine+=(--deepspeed "$DEEPSPEED"); fi
NPROC="${NPROC:-$((gpu_count > 0 ? gpu_count : 1))}"

if [ "${NNODES:-1}" = 1 ]; then
    meet=(--standalone)      # any free port
else
    meet=(--nnodes "$NNODES" --node-rank "${NODE_RANK:?set NODE_RANK, 0 to NNODES - 1}"
        --master-addr "${MASTER_ADDR:?set MASTER_ADDR to the first node}" --master-port "${MASTER_PORT:-29500}")
fi

exec python scripts/launch.py "${meet[@]}" --nproc-per-node "$NPROC" \
    -m ham.captioner.train \
    --model_name_or_path "$MODEL" \
    --data_path "$DATA" \
    --image_folder "$IMAGES" \
    --output_dir "$OUT" \
    --version v1 \
    --num_train_epochs 2 \
    --per_device_train_batch_size 20 \
    --gradient_accumulation_steps 1 \
    --learning_rate 4e-4 \
    --weight_decay 0. \
    --warmup_ratio 0.03 \
    --lr_scheduler_type cosine \
    --model_max_length 2048 \
    --group_by_modality_length True \
    --save_strategy steps \
    --save_steps 1000 \
    --save_total_limit 2 \
    --logging_steps 10 \
    --dataloader_num_workers 4 \
    "${machine[@]}" "$@"
