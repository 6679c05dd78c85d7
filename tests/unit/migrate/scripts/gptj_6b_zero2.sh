#!/bin/bash
#SBATCH -A ABC123
#SBATCH -J gptj
#SBATCH -t 00:20:00
#SBATCH -N 2

module load PrgEnv-gnu gcc/11.2.0 rocm/5.4.0
export NCCL_DEBUG=INFO OMP_NUM_THREADS=2
export MASTER_ADDR=$(hostname -i)

ranks_total=$((SLURM_JOB_NUM_NODES * 8))

srun -u -n$ranks_total -c2 --ntasks-per-node=8 --gpus-per-node=8 --gpu-bind=closest python -u gptJ_oscar_srun.py \
  --per_device_train_batch_size 4 \
  --gradient_accumulation_steps 8 \
  --max_len 128 \
  --learning_rate 2e-4 --adam_beta1 0.9 --adam_beta2 0.98 --adam_epsilon 1e-8 --weight_decay 0 \
  --max_steps 20 --warmup_steps 10 \
  --do_train=True --output_dir ./outputs \
  --deepspeed_config ds_config_zero.json \
  --master_addr $MASTER_ADDR
