#!/bin/bash
#SBATCH -A ABC123
#SBATCH -t 00:20:00
#SBATCH -N 4

TP=4
PP=8
MICRO_BATCH=2
GLOBAL_BATCH=20
DATA_PATH=/lustre/orion/abc123/gpttext_article_document
CHECKPOINT_PATH=checkpoints/gpt2_345m

GPT_ARGS="--tensor-model-parallel-size ${TP} \
  --pipeline-model-parallel-size ${PP} \
  --num-layers 48 \
  --hidden-size 6144 \
  --num-attention-heads 96 \
  --seq-length 2048 \
  --max-position-embeddings 2048 \
  --micro-batch-size $MICRO_BATCH \
  --global-batch-size $GLOBAL_BATCH \
  --train-samples 100000 \
  --lr 6e-5 \
  --min-lr 6e-6 \
  --lr-decay-samples 10000 \
  --lr-warmup-samples 100 \
  --lr-decay-style cosine \
  --adam-beta1 0.9 --adam-beta2 0.95 \
  --weight-decay 0.1 \
  --clip-grad 1.0 \
  --init-method-std 0.006 \
  --loss-scale-window 1000 --hysteresis 2 \
  --fp16"
DATA_ARGS="--data-path $DATA_PATH --vocab-file dataset/gpt2-vocab.json --merge-file dataset/gpt2-merges.txt \
  --split 98,2,0 --num-workers 1"
OUTPUT_ARGS="--log-interval 10 --save-interval 1000 --eval-interval 100 --eval-iters 40"
DS_ARGS="--deepspeed --deepspeed_config ds_config_4N_22B.json \
  --deepspeed-activation-checkpointing --checkpoint-activations"

srun -u -n32 -c2 --ntasks-per-node=8 --gpus-per-node=8 --gpu-bind=closest python pretrain_gpt_deepspeed.py \
  $GPT_ARGS $DATA_ARGS $DS_ARGS \
  --log-interval 10 --eval-interval 100 --eval-iters 40 --save-interval 1000 \
  --save $CHECKPOINT_PATH --load $CHECKPOINT_PATH --tensorboard-dir logs/test-profiles
