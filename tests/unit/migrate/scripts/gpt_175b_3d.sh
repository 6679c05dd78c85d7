#!/bin/bash
#SBATCH -t 01:00:00
#SBATCH -N 24
TP=8
PP=12
CHECKPOINT_PATH=checkpoints/gpt2_345m
GPT_ARGS=(
  --tensor-model-parallel-size $TP
  --pipeline-model-parallel-size $PP
  --num-layers 96 --hidden-size 12288 --num-attention-heads 96
  --seq-length 2048 --max-position-embeddings 2048
  --micro-batch-size 1 --global-batch-size 12
  --rampup-batch-size 2 2 1000
  --train-samples 100000
  --lr 6e-5 --min-lr 6e-6
  --lr-decay-samples 10000 --lr-warmup-samples 100 --lr-decay-style cosine
  --adam-beta1 0.9 --adam-beta2 0.95 --weight-decay 0.1 --clip-grad 1.0
  --init-method-std 0.006
  --fp16
)
DATA_ARGS="--data-path /lustre/orion/abc123/gpttext_article_document --vocab-file dataset/gpt2-vocab.json
  --merge-file dataset/gpt2-merges.txt --split 98,2,0 --num-workers 1"
OUTPUT_ARGS="--log-interval 10 --save-interval 1000 --eval-interval 100 --eval-iters 40"

srun -u -n$((SLURM_NNODES * 8)) -c2 --ntasks-per-node=8 --gpus-per-node=8 python pretrain_gpt_owt3.py \
  "${GPT_ARGS[@]}" $DATA_ARGS $OUTPUT_ARGS --save $CHECKPOINT_PATH
