// SPDX-License-Identifier: Apache-2.0
/** The progress of evaluation jobs: one line redrawn in place on a terminal, a line for each job elsewhere. */
import { formatCount } from '../logging/format.ts';
import type { MessageStream } from '../logging/logger.ts';

export interface JobProgressState {
  variant: string;
  job: string;
  done: number;
  total: number;
}

export interface JobProgress {
  update(state: JobProgressState): void;
  /** A line of its own, above the progress line. */
  message(line: string): void;
  /** Removes the progress line. */
  finish(): void;
}

export function createJobProgress(stream: MessageStream): JobProgress {
  const isTerminal = stream.isTTY === true && process.env.TERM !== 'dumb';
  const clear = () => isTerminal && stream.write('\r\x1b[K');
  return {
    update: ({ variant, job, done, total }) => {
      const text = `${job} on ${variant}: ${formatCount(done)} of ${formatCount(total)}`;
      if (isTerminal) stream.write(`\r\x1b[K${text.slice(0, (stream.columns ?? 80) - 1)}`);
      else if (done === total) stream.write(`${text}\n`);
    },
    message: (line) => {
      clear();
      stream.write(`${line}\n`);
    },
    finish: clear,
  };
}
