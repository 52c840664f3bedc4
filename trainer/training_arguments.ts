// SPDX-License-Identifier: Apache-2.0
/** TrainingArguments: the config's trainer keys in camelCase, with those of trl's SFTConfig that say how data is read. */
import { z } from 'zod';
import { crossFieldProblems } from '../src/config/checks.ts';
import { schemaProblems } from '../src/config/problems.ts';
import { type RunConfig, runConfigSchema } from '../src/config/schema.ts';
import { ConfigError } from '../src/errors.ts';

const trainerSchema = runConfigSchema.shape.trainer;
const dataSchema = runConfigSchema.shape.data.pick({
  max_length: true,
  completion_only_loss: true,
  assistant_turns: true,
  chat_template: true,
  append_eos: true,
  shuffle: true,
  packing: true,
});
const argumentsSchema = z.object({ trainer: trainerSchema, data: dataSchema });

type Settings = z.output<typeof trainerSchema> & z.output<typeof dataSchema>;
type CamelCase<Name> = Name extends `${infer Head}_${infer Tail}` ? `${Head}${Capitalize<CamelCase<Tail>>}` : Name;
type CamelCaseKeys<T> = { [Key in keyof T as CamelCase<Key>]: T[Key] };

/** Every field with its value; what each means stands in src/config/schema.ts. */
export type TrainingArgumentsFields = CamelCaseKeys<Settings> & {
  /** Folder of metrics.jsonl and tensorboard/; null (default) is outputDir. */
  loggingDir: string | null;
  /** Who reads the run beside metrics.jsonl. Default tensorboard. */
  reportTo: (typeof REPORTED)[number];
};

/** What a caller gives: the folder, and what differs from the defaults. */
export type TrainingArgumentsInput = Partial<TrainingArgumentsFields> & Pick<TrainingArgumentsFields, 'outputDir'>;

const REPORTED = ['tensorboard', 'none'] as const;

/** Fields of transformers' TrainingArguments and trl's SFTConfig that people bring along, and why they are refused. */
const REFUSED: Readonly<Record<string, string>> = {
  fp16: 'training is in float32, which state-space models need; remove it',
  bf16: 'training is in float32, which state-space models need; remove it',
  resumeFromCheckpoint: 'give it to train(): trainer.train({ resumeFromCheckpoint: true })',
  pushToHub: 'the adapter is written to outputDir alone',
  deepspeed: 'one process trains on one device',
  fsdp: 'one process trains on one device',
};

export class TrainingArguments implements Readonly<TrainingArgumentsFields> {
  declare readonly outputDir: string;
  declare readonly backend: TrainingArgumentsFields['backend'];
  declare readonly seed: number;
  declare readonly numTrainEpochs: number;
  declare readonly maxSteps: number;
  declare readonly perDeviceTrainBatchSize: number;
  declare readonly perDeviceEvalBatchSize: number;
  declare readonly groupByLength: boolean;
  declare readonly gradientAccumulationSteps: number;
  declare readonly gradientCheckpointing: boolean;
  /** On the cuda backend, record each shape of a step as a CUDA graph. Default true. */
  declare readonly cudaGraphs: boolean;
  declare readonly learningRate: number;
  declare readonly lrSchedulerType: TrainingArgumentsFields['lrSchedulerType'];
  /** Under its snake_case keys, as in transformers. */
  declare readonly lrSchedulerKwargs: TrainingArgumentsFields['lrSchedulerKwargs'];
  declare readonly warmupRatio: number;
  declare readonly warmupSteps: number;
  declare readonly optim: 'adamw';
  declare readonly weightDecay: number;
  declare readonly adamBeta1: number;
  declare readonly adamBeta2: number;
  declare readonly adamEpsilon: number;
  declare readonly loraplusLrRatio: number | null;
  declare readonly loraplusLrEmbedding: number;
  declare readonly maxGradNorm: number;
  declare readonly loggingSteps: number;
  declare readonly evalStrategy: TrainingArgumentsFields['evalStrategy'];
  declare readonly evalSteps: number | null;
  declare readonly saveStrategy: TrainingArgumentsFields['saveStrategy'];
  declare readonly saveSteps: number | null;
  declare readonly saveTotalLimit: number | null;
  declare readonly loadBestModelAtEnd: boolean;
  declare readonly metricForBestModel: TrainingArgumentsFields['metricForBestModel'];
  declare readonly greaterIsBetter: boolean | null;
  declare readonly earlyStoppingPatience: number | null;
  declare readonly earlyStoppingThreshold: number;
  declare readonly labelSmoothingFactor: number;
  declare readonly zLoss: number;
  declare readonly neftuneNoiseAlpha: number | null;
  declare readonly samplePrompts: string[] | null;
  declare readonly sampleMaxNewTokens: number;
  declare readonly sampleTemperature: number;
  declare readonly onDivergence: TrainingArgumentsFields['onDivergence'];
  declare readonly lossWatchdogThreshold: number | null;
  declare readonly lossWatchdogPatience: number | null;
  declare readonly maxLength: number;
  declare readonly completionOnlyLoss: boolean | null;
  declare readonly assistantTurns: TrainingArgumentsFields['assistantTurns'];
  declare readonly chatTemplate: TrainingArgumentsFields['chatTemplate'];
  declare readonly appendEos: boolean;
  declare readonly shuffle: boolean;
  declare readonly packing: boolean;
  declare readonly loggingDir: string | null;
  declare readonly reportTo: TrainingArgumentsFields['reportTo'];
  /** The same under the config's names. */
  readonly settings: RunConfig['trainer'];

  /**
   * @param fields `outputDir`, and those that differ from the defaults
   * @throws ConfigError naming every field that is unknown, refused, or holds what it may not
   */
  constructor(fields: TrainingArgumentsInput) {
    const { loggingDir = null, reportTo = 'tensorboard', ...rest } = fields;
    const input = sections(rest);
    const parsed = argumentsSchema.safeParse(input);
    const given = { trainer: input.trainer, data: { ...input.data, eval: 'checked by the trainer' } };
    const problems = parsed.success ? crossFieldProblems(given, 'train') : schemaProblems(parsed.error.issues, input);
    const own = problems.filter(({ path }) => path.length > 1);
    const faults = own.map(({ path, message }) => fault(String(path[1]), message));
    if (!REPORTED.includes(reportTo)) {
      faults.push(`reportTo: found ${JSON.stringify(reportTo)}; expected one of: ${REPORTED.join(', ')}`);
    }
    if (!parsed.success || faults.length > 0) throw new ConfigError(`TrainingArguments: ${faults.join('\n  ')}`);
    this.settings = parsed.data.trainer;
    Object.assign(this, camelCaseKeys({ ...parsed.data.trainer, ...parsed.data.data }), { loggingDir, reportTo });
  }
}

/** camelCase fields as the config's sections. */
function sections(fields: object): { trainer: Record<string, unknown>; data: Record<string, unknown> } {
  const trainer: Record<string, unknown> = {};
  const data: Record<string, unknown> = {};
  for (const [field, value] of Object.entries(fields)) {
    const key = field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    if (value !== undefined) (Object.hasOwn(dataSchema.shape, key) ? data : trainer)[key] = value;
  }
  return { trainer, data };
}

function camelCaseKeys(values: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).map(([key, value]) => [camelCase(key), value]));
}

function camelCase(key: string): string {
  return key.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

/** A problem of the config, in the words of the fields. */
function fault(key: string, message: string): string {
  const field = camelCase(key);
  const refused = REFUSED[field];
  if (refused !== undefined) return `${field}: ${refused}`;
  const keys = [...Object.keys(trainerSchema.shape), ...Object.keys(dataSchema.shape)];
  const text = message.replace(/[a-z]+(?:_[a-z0-9]+)+/g, (word) => (keys.includes(word) ? camelCase(word) : word));
  return `${field}: ${text.replace('unknown key', 'unknown field').replace('Known keys in trainer', 'Known fields')}`;
}
