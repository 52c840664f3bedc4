// SPDX-License-Identifier: Apache-2.0
/** mambatune eval: measures a model, its adapters and merged models, as a config file says. */
import { Command, Option } from 'commander';
import type { EvalConfig } from '../../config/schema.ts';
import { ConfigError } from '../../errors.ts';
import type { CliContext } from '../context.ts';
import { setOption } from '../options.ts';
import { interruptible, runCommand } from '../run_command.ts';

interface EvalOptions {
  set: string[];
  adapter?: string;
}

export function evalCommand(context: CliContext): Command {
  return new Command('eval')
    .summary('loss, multiple choice and written answers, of a model and its adapters')
    .description(
      'Runs the jobs of the eval section on the base model, its adapters and merged models, each on the same data, and compares. ' +
        'Without an eval section: loss and perplexity on the records of data.eval, every token counting the same.',
    )
    .argument('<config>', 'YAML file, the one of a training or one with only model and eval, or model and data.eval')
    .addOption(
      new Option(
        '--adapter <folder>',
        'without an eval section: evaluate with this adapter; by default the base model alone',
      ),
    )
    .addOption(setOption())
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  $ mambatune eval configs/quickstart.yaml --adapter runs/quickstart/adapter\n' +
        '  $ mambatune eval configs/eval.yaml\n\n' +
        'Exit code 1 when a gate fails.',
    )
    .action((path: string, options: EvalOptions) => runCommand(context, () => evaluateConfig(context, path, options)));
}

async function evaluateConfig(context: CliContext, path: string, options: EvalOptions): Promise<object> {
  const { loadEvalConfig } = await import('../../config/load.ts');
  const { config } = loadEvalConfig(path, options.set);
  if (config.eval === null) return evaluateRecords(context, config, options.adapter);
  if (options.adapter === undefined) return evaluateJobs(context, config, config.eval);
  throw new ConfigError(
    `--adapter: ${path} has an eval section, which names its adapters; use --set eval.adapters.NAME=${options.adapter}`,
  );
}

async function evaluateRecords(context: CliContext, config: EvalConfig, adapter: string | undefined): Promise<object> {
  const { evaluateWith } = await import('../evaluate_with.ts');
  const { formatCount, formatDuration, formatNumber } = await import('../../logging/format.ts');
  const result = await interruptible((signal) => evaluateWith({ config, adapter, signal }, context.logger.info));
  context.print(
    `loss ${result.loss.toFixed(4)}  perplexity ${formatNumber(result.perplexity)}  ` +
      `(${formatCount(result.tokens)} tokens of ${formatCount(result.examples)} records, ${formatDuration(result.seconds)})\n`,
  );
  return result;
}

async function evaluateJobs(
  context: CliContext,
  config: EvalConfig,
  section: NonNullable<EvalConfig['eval']>,
): Promise<object> {
  const { formatReport, runEvaluation } = await import('../../../trainer/index.ts');
  const { createJobProgress } = await import('../job_progress.ts');
  const progress = createJobProgress(context.io.stderr);
  const report = await interruptible(async (signal) => {
    try {
      return await runEvaluation(config, section, { onMessage: progress.message, onProgress: progress.update, signal });
    } finally {
      progress.finish();
    }
  });
  context.print(`${formatReport(report).join('\n')}\n`);
  if (section.output_dir !== null) context.print(`\nwritten to ${section.output_dir}\n`);
  if (!report.passed) {
    context.logger.error('a gate failed: a model is worse than the base by more than its max_regression');
    context.exitCode = 1;
  }
  return report;
}
