// SPDX-License-Identifier: Apache-2.0
/**
 * Proof that everything which should train does: each trainable tensor must receive a finite, non-zero gradient. The gradient of
 * one factor of an adapter is zero while the other is all zeros, so such a tensor is looked at once its partner has moved.
 */
import type { Tensor, Variable } from '@tensorflow/tfjs-core';
import { UserError } from '../src/errors.ts';
import { writeFileAtomic } from '../src/files.ts';
import { globalNorm } from '../src/ops/adamw_step.ts';
import type { CoverageState } from './trainer_state.ts';

/** One line of coverage.json. */
export interface CoverageRow {
  name: string;
  shape: number[];
  /** Norm of its first gradient that counted; null when it was not checked. */
  grad_norm: number | null;
  /** Optimizer step, from 1, of that gradient; null when it was not checked. */
  step: number | null;
}

export interface Coverage {
  /** Whether every tensor has been seen to learn. */
  isComplete(): boolean;
  /**
   * Looks at a step's gradients; call it before the parameters change. Gradients that are not finite are left unchecked.
   * @param step counted from 1
   * @throws UserError naming each tensor that gets no gradient
   */
  observe(step: number, gradients: ReadonlyMap<string, Tensor>): void;
  /** All tensors, in the model's order. */
  rows(): CoverageRow[];
  /** What a checkpoint keeps. */
  state(): CoverageState;
  /** Goes back to a kept state of the same tensors. */
  restore(state: CoverageState): void;
}

/**
 * Tries for a lora_embedding_B: it learns through the tokens that earlier batches have moved in lora_embedding_A, which one
 * batch may share none of.
 */
const EMBEDDING_TRIES = 10;
/** Tries for rows of single tokens: where the head is not tied they learn only from batches that hold one of the tokens. */
const TOKEN_TRIES = 100;
const TOKENS = 'trainable_tokens_delta';

/** @param parameters the trainable tensors, adapter tensors under peft's names */
export function createCoverage(parameters: ReadonlyMap<string, Variable>): Coverage {
  const rows = new Map<string, CoverageRow>();
  const pending = new Map<string, { tries: number }>();
  for (const [name, { shape }] of parameters) {
    rows.set(name, { name, shape: [...shape], grad_norm: null, step: null });
    pending.set(name, { tries: triesOf(name) });
  }
  const waitsForPartner = (name: string): boolean => {
    const partner = parameters.get(partnerOf(name) ?? '');
    return partner?.dataSync().every((value) => value === 0) ?? false;
  };

  return {
    isComplete: () => pending.size === 0,
    observe: (step, gradients) => {
      const dead: string[] = [];
      for (const [name, state] of pending) {
        if (waitsForPartner(name)) continue;
        const norm = normOf(gradients.get(name));
        if (!Number.isFinite(norm)) continue;
        if (norm > 0) {
          Object.assign(rows.get(name) as CoverageRow, { grad_norm: norm, step });
          pending.delete(name);
        } else if (--state.tries === 0) dead.push(name);
      }
      if (dead.length > 0) throw deadError(dead, step);
    },
    rows: () => [...rows.values()],
    state: () =>
      Array.from(rows.values(), ({ name, grad_norm, step }) => ({
        name,
        grad_norm,
        step,
        tries: pending.get(name)?.tries ?? 0,
      })),
    restore: (state) => {
      pending.clear();
      for (const { name, grad_norm, step, tries } of state) {
        Object.assign(rows.get(name) as CoverageRow, { grad_norm, step });
        if (step === null) pending.set(name, { tries });
      }
    },
  };
}

function triesOf(name: string): number {
  if (name.endsWith(TOKENS)) return TOKEN_TRIES;
  return name.endsWith('lora_embedding_B') ? EMBEDDING_TRIES : 1;
}

/** Writes coverage.json. */
export function writeCoverage(path: string, rows: readonly CoverageRow[]): void {
  writeFileAtomic(path, `${JSON.stringify(rows, null, 2)}\n`);
}

/** What a person should know when a run ends before everything was checked; undefined when all was. */
export function coverageMessage(rows: readonly CoverageRow[], steps: number): string | undefined {
  const unchecked = rows.filter((row) => row.step === null);
  if (unchecked.length === 0) return undefined;
  const [first] = unchecked;
  const ran = steps === 1 ? 'only 1 step ran' : `${steps} steps ran`;
  const reason = unchecked.every(({ name }) => name.endsWith(TOKENS))
    ? 'no batch held one of their tokens'
    : 'the other factor of their adapter was still zero';
  return `gradient coverage: ${unchecked.length} of ${rows.length} trainable tensors were not checked, because ${ran} and ${reason} (the first: ${first?.name})`;
}

/** The other factor of the same adapter. */
function partnerOf(name: string): string | undefined {
  const match = /^(.*\.lora_(?:embedding_)?)([AB])(\.weight)?$/.exec(name);
  if (!match) return undefined;
  const [, head, factor, tail = ''] = match;
  return `${head}${factor === 'A' ? 'B' : 'A'}${tail}`;
}

function normOf(gradient: Tensor | undefined): number {
  if (!gradient) return 0;
  const norm = globalNorm([gradient]);
  const value = norm.dataSync<'float32'>()[0] ?? Number.NaN;
  norm.dispose();
  return value;
}

function deadError(names: readonly string[], step: number): UserError {
  const [many, their] =
    names.length === 1
      ? ['a trainable tensor gets', 'its module']
      : [`${names.length} trainable tensors get`, 'their modules'];
  if (names.every((name) => name.endsWith(TOKENS)))
    return new UserError(
      `step ${step}: no batch so far held one of the tokens of adapter.trainable_token_indices, so that their rows do not learn:\n  ${names[0]}\nCheck the ids against the tokenizer and the data.`,
    );
  const rate = step === 1 ? '' : ' A learning rate so high that the first update drowned every signal looks the same.';
  return new UserError(
    `step ${step}: ${many} no gradient and would never learn:${names.map((name) => `\n  ${name}`).join('')}\nTake ${their} out of the adapter's target_modules, or check that the adapter it starts from is whole.${rate}`,
  );
}
