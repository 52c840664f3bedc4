// SPDX-License-Identifier: Apache-2.0
/** The config's trainer section. */
import { z } from 'zod';
import { LR_SCHEDULER_TYPES, lrSchedulerKwargsSchema } from './lr_schedules.ts';

const name = z.string().min(1);
const count = z.int().min(1);
const fraction = z.number().min(0).max(1);

export const trainerSchema = z
  .strictObject({
    output_dir: name.describe('Run folder (relative to the current directory): metrics, checkpoints, the adapter.'),
    backend: z
      .enum(['auto', 'cuda', 'native', 'tensorflow', 'wasm', 'cpu'])
      .default('auto')
      .describe('What computes. auto: the fastest that works here.'),
    seed: z.int().min(0).default(42).describe('Seed of the order of records, of fresh weights and of dropout.'),
    num_train_epochs: z
      .number()
      .gt(0)
      .default(3)
      .describe('Passes over the training records; may be a fraction. max_steps, when set, wins.'),
    max_steps: z
      .union([z.literal(-1), count])
      .default(-1)
      .describe('Optimizer steps to train for; -1 means num_train_epochs decides.'),
    per_device_train_batch_size: count
      .default(8)
      .describe('Records (with data.packing, rows) of one forward and backward pass in training.'),
    per_device_eval_batch_size: count.default(8).describe('Records of one forward pass in evaluation.'),
    group_by_length: z
      .boolean()
      .default(false)
      .describe('Batches of records of about one length, so that less of them is padding.'),
    gradient_accumulation_steps: count
      .default(1)
      .describe('Passes whose gradients make one optimizer step, weighted by their numbers of tokens.'),
    gradient_checkpointing: z
      .boolean()
      .default(false)
      .describe('Keep one activation per layer and recompute the others in the backward pass: less memory, more time.'),
    cuda_graphs: z
      .boolean()
      .default(true)
      .describe(
        'On the cuda backend, record each shape of a step as a CUDA graph and launch that; false runs every step as it comes.',
      ),
    learning_rate: z.number().gt(0).default(5e-5).describe('Peak learning rate.'),
    lr_scheduler_type: z
      .enum(LR_SCHEDULER_TYPES)
      .default('linear')
      .describe('Course of the learning rate, by the names of transformers; docs/training.md has each of them.'),
    lr_scheduler_kwargs: lrSchedulerKwargsSchema
      .nullable()
      .default(null)
      .describe(
        'Settings of the schedule, with the names and defaults of transformers; each schedule takes its own; null is none.',
      ),
    warmup_ratio: fraction.default(0).describe('Share of all steps in which the learning rate rises from 0.'),
    warmup_steps: z
      .int()
      .min(0)
      .default(0)
      .describe('Steps in which the learning rate rises from 0; instead of warmup_ratio.'),
    optim: z
      .enum(['adamw', 'adamw_torch'])
      .default('adamw')
      .transform(() => 'adamw' as const)
      .describe('Optimizer. adamw_torch is the same under the name TrainingArguments gives it.'),
    weight_decay: z.number().min(0).default(0).describe('Decoupled weight decay of AdamW.'),
    adam_beta1: z.number().min(0).lt(1).default(0.9).describe('Decay of the first moment.'),
    adam_beta2: z.number().min(0).lt(1).default(0.999).describe('Decay of the second moment.'),
    adam_epsilon: z.number().gt(0).default(1e-8).describe('Added to the root of the second moment.'),
    loraplus_lr_ratio: z
      .number()
      .gt(0)
      .nullable()
      .default(null)
      .describe(
        'LoRA+ (arXiv 2402.12354): learning rate of lora_B and of vectors, as a multiple of learning_rate; 16 is usual. null: one rate for all.',
      ),
    loraplus_lr_embedding: z
      .number()
      .gt(0)
      .default(1e-6)
      .describe('With loraplus_lr_ratio, the peak learning rate of an adapter of the embeddings.'),
    max_grad_norm: z
      .number()
      .min(0)
      .default(1)
      .describe('Largest global norm of the gradients, clipped beyond; 0 means never.'),
    label_smoothing_factor: z
      .number()
      .min(0)
      .lt(1)
      .default(0)
      .describe('Share of the target that is spread over the whole vocabulary, in training alone; 0 is none.'),
    z_loss: z
      .number()
      .min(0)
      .default(0)
      .describe(
        "Factor of the square of the log of the normalizer that is added to each token's loss, in training alone; 0 is none (PaLM has 1e-4).",
      ),
    neftune_noise_alpha: z
      .number()
      .gt(0)
      .nullable()
      .default(null)
      .describe('Strength of the noise on the embeddings in training (NEFTune, arXiv 2310.05914); null is none.'),
    on_divergence: z
      .enum(['stop', 'skip', 'rollback'])
      .default('stop')
      .describe(
        'When a loss or gradient is not finite, or loss_watchdog_threshold is passed. stop: end the run with an error; skip: leave the step out, at most 10 in a row; rollback: go back to the last checkpoint and on with the data that follows.',
      ),
    loss_watchdog_threshold: z
      .number()
      .gt(0)
      .nullable()
      .default(null)
      .describe('Loss of a step that counts as divergence when loss_watchdog_patience steps in a row are above it.'),
    loss_watchdog_patience: count
      .nullable()
      .default(null)
      .describe('Steps in a row above loss_watchdog_threshold; null is 3.'),
    logging_steps: count.default(10).describe('Steps from one line of metrics to the next.'),
    eval_strategy: z
      .enum(['no', 'steps', 'epoch'])
      .default('no')
      .describe('When to evaluate on data.eval in training.'),
    eval_steps: count
      .nullable()
      .default(null)
      .describe('Steps from one evaluation to the next; for eval_strategy: steps.'),
    sample_prompts: z
      .array(name)
      .min(1)
      .nullable()
      .default(null)
      .describe(
        'Texts that the model continues before the first step and at each evaluation, to see what it learns; null is none.',
      ),
    sample_max_new_tokens: count.default(64).describe('Most tokens of a continuation of sample_prompts.'),
    sample_temperature: z
      .number()
      .min(0)
      .default(0)
      .describe('Temperature of the continuations, drawn from trainer.seed; 0 takes the likeliest token each time.'),
    save_strategy: z.enum(['no', 'steps', 'epoch']).default('epoch').describe('When to save a checkpoint in training.'),
    save_steps: count
      .nullable()
      .default(null)
      .describe('Steps from one checkpoint to the next; for save_strategy: steps.'),
    save_total_limit: count.nullable().default(null).describe('Checkpoints to keep, the oldest go; null keeps all.'),
    load_best_model_at_end: z
      .boolean()
      .default(false)
      .describe('End with the adapter of the best evaluation instead of the last step; its checkpoint is kept.'),
    metric_for_best_model: z
      .enum(['eval_loss', 'eval_perplexity', 'loss', 'perplexity'])
      .transform((name) => `eval_${name.replace('eval_', '')}` as 'eval_loss' | 'eval_perplexity')
      .nullable()
      .default(null)
      .describe('What the best model, early stopping and reduce_lr_on_plateau go by; null is eval_loss.'),
    greater_is_better: z
      .boolean()
      .nullable()
      .default(null)
      .describe('Whether a greater metric is better; null: it is not, for a loss and a perplexity.'),
    early_stopping_patience: count
      .nullable()
      .default(null)
      .describe('Evaluations in a row without improvement after which the run ends; null never.'),
    early_stopping_threshold: z
      .number()
      .min(0)
      .default(0)
      .describe('Smallest improvement that counts for early stopping.'),
  })
  .describe('How to train.');
