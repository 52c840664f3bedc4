// SPDX-License-Identifier: Apache-2.0
/** The command line: parses, runs a command, and turns how it ended into an exit code. */
import { join } from 'node:path';
import { Command, CommanderError } from 'commander';
import { packageRoot } from '../backends/addon.ts';
import { readJsonFile } from '../files.ts';
import { adapterCommand } from './commands/adapter.ts';
import { dataCommand } from './commands/data.ts';
import { doctorCommand } from './commands/doctor.ts';
import { evalCommand } from './commands/eval.ts';
import { generateCommand } from './commands/generate.ts';
import { initCommand } from './commands/init.ts';
import { mergeCommand } from './commands/merge.ts';
import { quickstartCommand } from './commands/quickstart.ts';
import { reportCommand } from './commands/report.ts';
import { trainCommand } from './commands/train.ts';
import { type CliContext, type CliIo, createContext, writeJson } from './context.ts';
import { jsonOption } from './options.ts';
import { type ExitCode, reportError } from './report_error.ts';

/**
 * Runs one command.
 *
 * @param argv the arguments after the program's name
 * @returns the exit code: 0 done, 1 failed, 2 bad usage or config, 130 interrupted. Does not throw.
 */
export async function main(argv: readonly string[], io: CliIo): Promise<ExitCode> {
  const context = createContext(io, wantsJson(argv));
  const written: string[] = [];
  const program = createProgram(context, (text) => written.push(text));
  try {
    await program.parseAsync(argv, { from: 'user' });
    return context.exitCode;
  } catch (error) {
    const text = written.join('');
    if (error instanceof CommanderError && error.exitCode === 0) {
      if (!context.json) io.stdout.write(text);
      else writeJson(io, error.code === 'commander.version' ? { version: text.trim() } : { help: text });
      return 0;
    }
    if (error instanceof CommanderError && error.code === 'commander.help') io.stderr.write(`${text}\n`);
    return reportError(describeMissingCommand(error), context, commandIn(argv, program));
  }
}

/** @param write gets help and version texts */
function createProgram(context: CliContext, write: (text: string) => void): Command {
  const program = new Command('mambatune')
    .description('Fine-tunes Mamba language models with LoRA, and runs them.')
    .version(packageVersion(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .addOption(jsonOption())
    .exitOverride()
    .configureOutput({ writeOut: write, writeErr: write, outputError: () => {} })
    .addHelpText(
      'after',
      '\nExample: train, then write with the result\n' +
        '  $ mambatune train configs/quickstart.yaml\n' +
        '  $ mambatune generate --adapter runs/quickstart/adapter --prompt "politician, n."\n\n' +
        'Exit codes: 0 done, 1 failed, 2 bad usage or config, 130 interrupted.',
    );
  for (const command of [
    quickstartCommand,
    trainCommand,
    evalCommand,
    generateCommand,
    mergeCommand,
    adapterCommand,
    dataCommand,
    reportCommand,
    initCommand,
    doctorCommand,
  ]) {
    addTo(program, command(context));
  }
  return program.helpCommand(false);
}

/** Adds a command and those in it, with what is the same for all. */
function addTo(parent: Command, command: Command): void {
  parent.addCommand(command.copyInheritedSettings(parent));
  if (command.commands.length === 0) {
    command.addOption(jsonOption());
    return;
  }
  for (const child of command.commands) child.addOption(jsonOption()).copyInheritedSettings(command);
  command.helpCommand(false);
}

/** Whether --json is among the options, which has to be known before they are parsed: parsing may fail. */
function wantsJson(argv: readonly string[]): boolean {
  const end = argv.indexOf('--');
  return argv.slice(0, end === -1 ? undefined : end).includes('--json');
}

function commandIn(argv: readonly string[], program: Command): string | undefined {
  const names: string[] = [];
  let { commands } = program;
  for (const word of argv) {
    const command = commands.find((candidate) => candidate.name() === word);
    if (!command) continue;
    names.push(word);
    commands = command.commands;
  }
  return names.length > 0 ? names.join(' ') : undefined;
}

function describeMissingCommand(error: unknown): unknown {
  const isMissing = error instanceof CommanderError && error.code === 'commander.help';
  return isMissing ? new CommanderError(2, error.code, 'found no command; expected one of those above') : error;
}

function packageVersion(): string {
  return String(readJsonFile(join(packageRoot(), 'package.json')).version);
}
