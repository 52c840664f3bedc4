// SPDX-License-Identifier: Apache-2.0
/** Finds a Python that has the programs to compare with; without one the parity tests are skipped, and say so. */
import { spawnSync } from 'node:child_process';
import type { TestProject } from 'vitest/node';

declare module 'vitest' {
  export interface ProvidedContext {
    /** Path of the interpreter; null when there is none. */
    python: string | null;
  }
}

const PACKAGES = [
  'torch',
  'transformers',
  'peft',
  'safetensors',
  'tokenizers',
  'numpy',
  'tensorboard',
  'pyarrow',
  'pandas',
];

export function setup(project: TestProject): void {
  const asked = process.env.MAMBATUNE_PYTHON;
  const python = asked ?? 'python3';
  const reason = whyNot(python);
  if (reason !== undefined && asked !== undefined) throw new Error(`MAMBATUNE_PYTHON=${asked}: ${reason}`);
  project.provide('python', reason === undefined ? python : null);
  if (reason !== undefined) {
    process.stderr.write(
      `\n${'='.repeat(100)}\nPARITY TESTS RAN NOTHING: ${python}: ${reason}\nThey need Python with ${PACKAGES.join(', ')}; set MAMBATUNE_PYTHON to its interpreter.\n${'='.repeat(100)}\n\n`,
    );
  }
}

/** Why this interpreter cannot be used; undefined when it can. */
function whyNot(python: string): string | undefined {
  const { error, status, stderr } = spawnSync(python, ['-c', `import ${PACKAGES.join(', ')}`], { encoding: 'utf8' });
  if (error) return error.message;
  return status === 0 ? undefined : (stderr.trim().split('\n').at(-1) ?? `exit status ${status}`);
}
