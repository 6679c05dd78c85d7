#!/bin/bash
#SBATCH -t 00:20:00
#SBATCH -N 4
GPT_ARGS="--tensor-model-parallel-size 8 --pipeline-model-parallel-size 2 \
  --num-layers 24 --hidden-size 2064 --num-attention-heads 24 \
  --seq-length 2048 --max-position-embeddings 2048 \
  --micro-batch-size 2 --train-iters 1000 \
  --lr 1.5e-4 --lr-decay-iters 50 --lr-warmup-fraction .01 --lr-decay-style cosine \
  --data-path /lustre/orion/abc123/gpttext_article_document \
  --vocab-file dataset/gpt2-vocab.json --merge-file dataset/gpt2-merges.txt --num-workers 0"
srun -u -n32 -c2 --ntasks-per-node=8 python pretrain_gpt_deepspeed.py $GPT_ARGS \
  --log-interval 10 --save-interval 500 --eval-interval 100 --eval-iters 10 --save checkpoints/gpt2_345m \
  --tensorboard-dir logs/profiles-with-zero-0 \
  --deepspeed --deepspeed_config ds_config_1p3b.json --zero-stage 0 \
  --deepspeed-activation-checkpointing --checkpoint-activations
