#!/bin/bash
#SBATCH -t 01:00:00
#SBATCH --nodes=64
OUTPUT_ARGS="--log-interval 10 --save-interval 500 --eval-interval 100 --eval-iters 10"
srun -u -N 64 --ntasks-per-node=8 -c2 --gpus-per-node=8 python pretrain_gpt.py \
  --tensor-model-parallel-size 8 --pipeline-model-parallel-size 64 \
  --num-layers 128 --hidden-size 25600 --num-attention-heads 128 \
  --seq-length 2048 --max-position-embeddings 2048 \
  --micro-batch-size 1 --global-batch-size 8 --rampup-batch-size 2 2 1000 --train-samples 100000 \
  --lr 6e-5 --min-lr 6e-6 --lr-decay-samples 10000 --lr-warmup-samples 100 --lr-decay-style cosine \
  --adam-beta1 0.9 --adam-beta2 0.95 --weight-decay 0.1 --clip-grad 1.0 --init-method-std 0.006 --fp16 \
  --data-path /lustre/orion/abc123/gpttext_article_document --split 98,2,0 --num-workers 1 \
  --vocab-file dataset/gpt2-vocab.json --merge-file dataset/gpt2-merges.txt \
  --save-interval 1000 --eval-iters 40 --save checkpoints/gpt2_345m \
  $OUTPUT_ARGS
