// SPDX-License-Identifier: Apache-2.0
/** mambatune report: a page about one run, or several compared. */
import { join } from 'node:path';
import { Command } from 'commander';
import type { CliContext } from '../context.ts';
import { runCommand } from '../run_command.ts';

export function reportCommand(context: CliContext): Command {
  return new Command('report')
    .summary('writes a page about a run, or compares runs')
    .description(
      'Writes one HTML page with the curves, samples, adapter norms, gradient coverage and facts of a run, or of several in the ' +
        'same pictures. The page needs neither network nor server: open it, or send it to someone.',
    )
    .argument('<runs...>', 'run folders (trainer.output_dir of their configs); a run still going is one too')
    .option('--output <file>', 'page to write; by default report.html in the folder of the first run')
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  $ mambatune report runs/quickstart\n' +
        '  $ mambatune report runs/r8 runs/r16 --output comparison.html',
    )
    .action((runs: string[], options: { output?: string }) =>
      runCommand(context, async () => {
        const { writeReport } = await import('../../logging/report/page.ts');
        const report = options.output ?? join(runs[0] as string, 'report.html');
        writeReport(runs, report);
        context.print(`${report}\n`);
        return { report, runs };
      }),
    );
}
