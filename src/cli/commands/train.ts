// SPDX-License-Identifier: Apache-2.0
/** mambatune train: trains the adapter that a config describes. */
import { join } from 'node:path';
import { Command } from 'commander';
import type { RunConfig } from '../../config/schema.ts';
import { ConfigError } from '../../errors.ts';
import type { CliContext } from '../context.ts';
import { setOption, wholeNumber } from '../options.ts';
import { runCommand } from '../run_command.ts';

export function trainCommand(context: CliContext): Command {
  return new Command('train')
    .summary('trains an adapter as a config file says')
    .description('Trains a LoRA adapter as a config file says.')
    .argument(
      '[config]',
      'YAML file; configs/reference.yaml has every key, explained. With --resume DIR alone: the config.yaml of that run.',
    )
    .option(
      '--resume [dir]',
      'go on from the newest whole checkpoint of the run in trainer.output_dir, or in DIR; or from the checkpoint DIR',
    )
    .option(
      '--dry-run',
      'plan the run and report every problem of the config, without the weights; writes nothing into trainer.output_dir',
    )
    .option(
      '--time-steps <n>',
      'with --dry-run: load the model, take n steps and tell how long the run will be',
      wholeNumber(1),
    )
    .addOption(setOption())
    .addHelpText(
      'after',
      '\nExample:\n' +
        '  $ mambatune train configs/quickstart.yaml --set trainer.max_steps=50 --set trainer.output_dir=runs/short\n\n' +
        '  $ mambatune train --resume runs/short\n\n' +
        '  $ mambatune train configs/quickstart.yaml --dry-run --time-steps 2\n\n' +
        'Ctrl-C finishes the step, saves a checkpoint and the adapter, and exits with 130; a second one ends at once.',
    )
    .action((path: string | undefined, options: TrainOptions) =>
      runCommand(context, () => (options.dryRun ? plan : train)(context, path, options)),
    );
}

interface TrainOptions {
  set: string[];
  resume?: true | string;
  dryRun?: true;
  timeSteps?: number;
}

async function plan(
  context: CliContext,
  path: string | undefined,
  { set, resume, timeSteps = 0 }: TrainOptions,
): Promise<object> {
  if (path === undefined || resume !== undefined) {
    throw new ConfigError('train --dry-run: expected a config file, and no --resume.');
  }
  const { dryRun } = await import('../../../trainer/index.ts');
  const { createTokenizeProgress } = await import('../../logging/tokenize_progress.ts');
  const { formatDryRun } = await import('../format_dry_run.ts');
  const io = { onMessage: context.logger.info, onTokenize: createTokenizeProgress(context.io.stderr) };
  const result = await dryRun(path, set, { ...io, timedSteps: timeSteps });
  context.print(formatDryRun(result));
  return result;
}

async function train(context: CliContext, path: string | undefined, options: TrainOptions): Promise<object> {
  if (options.timeSteps !== undefined) throw new ConfigError('train: --time-steps goes with --dry-run.');
  const config = await configOf(path, options);
  const { runTraining } = await import('../../../trainer/index.ts');
  const { createTokenizeProgress } = await import('../../logging/tokenize_progress.ts');
  const onTokenize = createTokenizeProgress(context.io.stderr);
  const { createProgress } = await import('../../logging/progress.ts');
  const { formatDuration } = await import('../../logging/format.ts');
  const { onMessage, ...progress } = { onMessage: context.logger.info, progress: createProgress(context.io.stderr) };
  const resume = options.resume ?? false;
  const result = await runTraining(config, { onMessage, ...progress, onTokenize, handleSignals: true, resume });

  const evalLoss = result.evalLosses.at(-1);
  const losses = `loss ${result.losses[0]?.toFixed(4)} → ${result.losses.at(-1)?.toFixed(4)}`;
  const evaluated = evalLoss ? `, on data.eval ${evalLoss.loss.toFixed(4)}` : '';
  context.print(`trained ${result.steps} steps in ${formatDuration(result.seconds)}: ${losses}${evaluated}\n`);
  const what = config.adapter.type === 'full' ? 'model' : 'adapter';
  context.print(`${`${what}:`.padEnd(9)}${result.adapterFolder}\n`);
  context.print(`try it:  mambatune generate --${what} ${result.adapterFolder} --prompt "…"\n`);
  return result;
}

/** The config that was named; or, of a run to resume, the one in its folder. */
async function configOf(path: string | undefined, { set, resume }: TrainOptions): Promise<RunConfig> {
  const { loadConfig } = await import('../../config/load.ts');
  if (path !== undefined) return loadConfig(path, set).config;
  if (typeof resume !== 'string') {
    throw new ConfigError('train: expected a config file, or --resume DIR with the folder of a run.');
  }
  const { runFolderOf } = await import('../../../trainer/index.ts');
  const folder = runFolderOf(resume);
  return loadConfig(join(folder, 'config.yaml'), [`trainer.output_dir=${JSON.stringify(folder)}`, ...set]).config;
}
