// SPDX-License-Identifier: Apache-2.0
/** SFTTrainer and TrainingArguments: the same run as the command's, and refusals by name. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { getPeftModel, LoraConfig, PeftModel } from '../../adapters/index.ts';
import { loadDataset } from '../../datasets/index.ts';
import { selectBackend } from '../../src/backends/select.ts';
import { runConfigSchema } from '../../src/config/schema.ts';
import { ConfigError, UserError } from '../../src/errors.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { loadTokenizer } from '../../src/tokenizer/tokenizer.ts';
import { runTraining, SFTTrainer, TrainingArguments, type TrainingArgumentsInput } from '../../trainer/index.ts';
import { bestBackend } from '../helpers/backends.ts';
import { readMetrics, readRecord, type TinyProject, tinyProject } from './tiny_project.ts';

beforeAll(async () => {
  await selectBackend(bestBackend);
});

const onMessage = () => {};

async function parts(project: TinyProject) {
  return {
    model: await MambaForCausalLM.fromPretrained(project.modelFolder, { backend: bestBackend }),
    tokenizer: loadTokenizer(project.modelFolder),
    trainDataset: await loadDataset(project.trainFile),
    evalDataset: await loadDataset(project.evalFile),
    onMessage,
  };
}

describe('SFTTrainer', () => {
  it('trains as the command does, and evaluates', async () => {
    const project = await tinyProject();
    const config = project.config({ adapter: { lora_dropout: 0.2 } });
    const expected = await runTraining(config, { onMessage });
    const outputDir = join(project.folder, 'by-program');
    const loggingDir = join(project.folder, 'logs');
    const args = new TrainingArguments({
      outputDir,
      loggingDir,
      seed: 1,
      numTrainEpochs: 2,
      perDeviceTrainBatchSize: 2,
      learningRate: 0.01,
      loggingSteps: 3,
      evalStrategy: 'epoch',
      maxLength: 24,
    });
    const peftConfig = new LoraConfig({ r: 2, loraDropout: 0.2 });
    const trainer = new SFTTrainer({ ...(await parts(project)), args, peftConfig });
    const before = await trainer.evaluate();
    const result = await trainer.train();
    expect(result.losses).toEqual(expected.losses);
    expect(result.evalLosses).toEqual(expected.evalLosses);
    const after = await trainer.evaluate();
    expect(after.loss).toBe(result.evalLosses.at(-1)?.loss);
    expect(after.loss).not.toBe(before.loss);
    expect(readMetrics(loggingDir)).toHaveLength(6);
    expect(readFileSync(join(outputDir, 'report.html'), 'utf8')).toContain('<figcaption><b>Loss</b>');
    expect(existsSync(join(outputDir, 'metrics.jsonl'))).toBe(false);
    expect(existsSync(join(outputDir, 'adapter', 'adapter_model.safetensors'))).toBe(true);
    expect(readRecord(outputDir).status).toBe('finished');
    trainer.model.model.dispose();
  });

  it('refuses what would train nothing', async () => {
    const project = await tinyProject();
    const { evalDataset: _, ...options } = await parts(project);
    const args = new TrainingArguments({ outputDir: project.outputDir });
    expect(() => new SFTTrainer({ ...options, args })).toThrow(/no adapter; give peftConfig/);
    const evaluating = new TrainingArguments({ outputDir: project.outputDir, evalStrategy: 'epoch' });
    const peftConfig = new LoraConfig({ r: 2 });
    expect(() => new SFTTrainer({ ...options, args: evaluating, peftConfig })).toThrow(/needs evalDataset/);
    const adapted = getPeftModel(options.model, peftConfig);
    expect(() => new SFTTrainer({ ...options, model: adapted, args, peftConfig })).toThrow(/adapter already/);
    const trainer = new SFTTrainer({ ...options, model: adapted, args });
    expect(trainer.model).toBe(adapted);
    await expect(trainer.evaluate()).rejects.toThrow(UserError);
    const folder = join(project.folder, 'adapter');
    await adapted.savePretrained(folder);
    options.model.dispose();
    const model = await MambaForCausalLM.fromPretrained(project.modelFolder, { backend: bestBackend });
    const frozen = PeftModel.fromPretrained(model, folder);
    expect(() => new SFTTrainer({ ...options, model: frozen, args })).toThrow(/adapter is frozen/);
    model.dispose();
  });
});

describe('TrainingArguments', () => {
  const problem = (fields: object) => {
    try {
      new TrainingArguments({ outputDir: 'x', ...fields } as TrainingArgumentsInput);
    } catch (error) {
      expect(error).toBeInstanceOf(ConfigError);
      return String((error as Error).message);
    }
    return 'accepted';
  };

  it('has every trainer key of the config, with its default', () => {
    const args = new TrainingArguments({ outputDir: 'x', weightDecay: 0.1, maxLength: 64 });
    const { trainer } = runConfigSchema.parse({
      model: { path: 'm' },
      data: { train: { path: 'd' } },
      trainer: { output_dir: 'x', weight_decay: 0.1 },
    });
    expect(args.settings).toEqual(trainer);
    expect(args).toMatchObject({ outputDir: 'x', perDeviceTrainBatchSize: 8, learningRate: 5e-5, weightDecay: 0.1 });
    expect(args).toMatchObject({ maxLength: 64, completionOnlyLoss: null, appendEos: true, shuffle: true });
    expect(args).toMatchObject({ assistantTurns: 'all', chatTemplate: null });
    expect(args).toMatchObject({ packing: false, loggingDir: null, reportTo: 'tensorboard' });
    const fields = Object.keys(args).filter((key) => !['settings', 'loggingDir', 'reportTo'].includes(key));
    expect(fields).toHaveLength(Object.keys(trainer).length + 7);
  });

  it('names what it does not know or take', () => {
    expect(problem({ learningrate: 1 })).toMatch(
      /^TrainingArguments: learningrate: unknown field; did you mean learningRate\?/,
    );
    expect(problem({ fp16: true })).toBe(
      'TrainingArguments: fp16: training is in float32, which state-space models need; remove it',
    );
    expect(problem({ reportTo: 'wandb' })).toBe(
      'TrainingArguments: reportTo: found "wandb"; expected one of: tensorboard, none',
    );
    expect(problem({ learningRate: -1, maxLength: 1 })).toMatch(/learningRate: found -1.*\n {2}maxLength: found 1;/);
    expect(problem({ outputDir: undefined })).toMatch(/outputDir: missing/);
    expect(problem({ evalStrategy: 'steps' })).toMatch(/evalStrategy: steps needs trainer.evalSteps/);
    expect(problem({ warmupSteps: 3, warmupRatio: 0.1 })).toMatch(/warmupSteps: warmupRatio is set too/);
    expect(problem({ groupByLength: true, packing: true })).toMatch(/groupByLength: rows of data.packing are of about/);
    expect(problem({ evalStrategy: 'epoch' })).toBe('accepted');
  });
});
