// SPDX-License-Identifier: Apache-2.0
/** Ctrl-C: the first asks for a clean end, the second ends the process at once. */

/** A run that was ended by a signal after a clean save. */
export class InterruptedError extends Error {
  override name = 'InterruptedError';
  /** Process exit code. */
  readonly exitCode = 130;
}

export interface InterruptWatch {
  /** Whether a signal has come. */
  isInterrupted(): boolean;
  /** Stops watching. */
  stop(): void;
}

const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

/**
 * Watches for SIGINT and SIGTERM. After the first one the system's own handling is back, so a second ends the process even in
 * the middle of a kernel.
 *
 * @param onSignal called once, when the first signal comes
 */
export function watchInterrupts(onSignal: (signal: NodeJS.Signals) => void): InterruptWatch {
  let interrupted = false;
  const stop = () => {
    for (const signal of SIGNALS) process.removeListener(signal, handle);
  };
  const handle = (signal: NodeJS.Signals) => {
    interrupted = true;
    stop();
    onSignal(signal);
  };
  for (const signal of SIGNALS) process.on(signal, handle);
  return { isInterrupted: () => interrupted, stop };
}

/** Makes a write beyond `ulimit -f` fail with an error, where by default the system ends the process. */
export function watchFileSizeLimit(): { stop(): void } {
  const ignore = () => {};
  process.on('SIGXFSZ', ignore);
  return { stop: () => process.removeListener('SIGXFSZ', ignore) };
}
