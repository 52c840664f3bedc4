// SPDX-License-Identifier: Apache-2.0
/** mambatune doctor: what this machine offers, and what mambatune makes of it. */
import { Command } from 'commander';
import type { CliContext } from '../context.ts';
import { runCommand } from '../run_command.ts';

export function doctorCommand(context: CliContext): Command {
  return new Command('doctor')
    .summary('what mambatune finds on this machine')
    .description(
      'Prints in full what mambatune finds on this machine: processor, native addon, CUDA, each backend with the reason ' +
        'why it is not usable, compiler, caches and package versions.',
    )
    .addHelpText('after', '\nExample: what to attach to a bug report\n  $ mambatune doctor > doctor.txt')
    .action(() =>
      runCommand(context, async () => {
        const { examineMachine, formatFindings } = await import('../examine_machine.ts');
        const findings = await examineMachine();
        context.print(formatFindings(findings));
        return findings;
      }),
    );
}
