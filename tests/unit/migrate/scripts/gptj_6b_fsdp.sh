#!/bin/bash
#SBATCH -t 00:20:00
#SBATCH -N 2
srun -u -n16 -c2 --ntasks-per-node=8 python -u gptJ_oscar_fsdp.py \
  --per_device_train_batch_size 4 --max_len 128 \
  --learning_rate 2e-4 --adam_beta1 0.9 --adam_beta2 0.98 --adam_epsilon 1e-8 --weight_decay 0 \
  --max_steps 100 --warmup_steps 10 --do_train=True --output_dir ./outputs
