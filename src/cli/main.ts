#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
/** The `mambatune` command. */
import { main } from './program.ts';

// Whoever reads the output may stop early, as `head` does.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

process.exitCode = await main(process.argv.slice(2), process);
