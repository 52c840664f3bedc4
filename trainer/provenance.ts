// SPDX-License-Identifier: Apache-2.0
/** What a run was made of: versions, machine, and hashes of what went in. */
import { createRequire } from 'node:module';
import { availableParallelism, cpus, totalmem } from 'node:os';
import * as tf from '@tensorflow/tfjs-core';
import type { TokenizedDataset } from '../datasets/index.ts';
import { hashFolder } from '../src/files.ts';
import type { ModelSource } from '../src/model/mamba_model.ts';

/** The beginning of run.json. */
export interface RunFacts {
  /** This package's version. */
  mambatune: string;
  started_at: string;
  /** Each time it was taken up again, and the step of the checkpoint it went on from. */
  resumes: { at: string; step: number }[];
  backend: string;
  versions: Record<string, string>;
  machine: Record<string, string | number>;
  model: { name: string | null; revision: string | null; sha256: Record<string, string> };
  /** The adapter that training started from; null for fresh weights. */
  init_from: { folder: string; sha256: Record<string, string> } | null;
  data: { train: DataFacts; eval: DataFacts | null };
  /** Folder of metrics.jsonl, where it is not the run's own. */
  logging_dir?: string;
}

export interface DataFacts {
  name: string;
  examples: number;
  tokens: number;
  loss_tokens: number;
  /** Over ids and labels of all examples, in their order. */
  sha256: string;
}

/** Collects the facts; reads each hashed file once. */
export async function collectFacts(
  model: ModelSource,
  initFrom: string | null,
  data: RunFacts['data'],
): Promise<RunFacts> {
  const { version } = createRequire(import.meta.url)('mambatune/package.json') as { version: string };
  return {
    mambatune: version,
    started_at: new Date().toISOString(),
    resumes: [],
    backend: tf.getBackend(),
    versions: { node: process.versions.node, 'tfjs-core': tf.version_core },
    machine: {
      platform: `${process.platform}-${process.arch}`,
      cpu: cpus()[0]?.model ?? 'unknown',
      threads: availableParallelism(),
      memory_bytes: totalmem(),
    },
    model: { name: model.name, revision: model.revision, sha256: await hashesOf(model.folder) },
    init_from: initFrom === null ? null : { folder: initFrom, sha256: await hashFolder(initFrom) },
    data,
  };
}

/** Facts of a tokenized dataset. */
export function dataFacts({ examples, report }: TokenizedDataset): DataFacts {
  return {
    name: report.name,
    examples: examples.length,
    tokens: report.tokens,
    loss_tokens: report.lossTokens,
    sha256: report.sha256,
  };
}

async function hashesOf(folder: string | null): Promise<Record<string, string>> {
  return folder === null ? {} : hashFolder(folder);
}
