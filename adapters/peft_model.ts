// SPDX-License-Identifier: Apache-2.0
/** A model with adapters, one of them attached at a time; answers to get_peft_model and PeftModel of peft. */
import type { Variable } from '@tensorflow/tfjs-core';
import { ConfigError, nearestName } from '../src/errors.ts';
import type { MambaForCausalLM } from '../src/model/causal_lm.ts';
import { adapterTensors } from '../src/model/modules.ts';
import { type DetachedAdapter, detach, disposeDetached, mergeInPlace, reattach } from './detached_adapter.ts';
import { attachFresh, attachStored } from './inject.ts';
import type { LoraConfig } from './lora_config.ts';
import { writeAdapter } from './peft_files.ts';
import { savedParameters } from './saved_parameters.ts';

export interface ParameterCounts {
  trainable: number;
  all: number;
  /** 100 * trainable / all */
  percent: number;
}

export interface LoadAdapterOptions {
  /** Whether its tensors train further; default false. */
  trainable?: boolean;
  /** Default 'default'. */
  adapterName?: string;
}

/** Name of an adapter that is given none. */
const DEFAULT_NAME = 'default';

/**
 * A model with adapters: one is active, and computes with the base; the others wait. The base's own tensors are never written, so that
 * whatever is switched, disabled, merged and unmerged, the base is bit for bit what it was.
 */
export class PeftModel {
  readonly model: MambaForCausalLM;
  /** What is not in the model at present, by name; null for the adapter that is attached. */
  private readonly adapters = new Map<string, { config: LoraConfig; detached: DetachedAdapter | null }>();
  private active: string;
  /** Weights in the place of the base's while the active adapter is merged. */
  private merged: Variable[] | null = null;

  /** Use {@link getPeftModel} or {@link PeftModel.fromPretrained}. @param config of the adapter that is attached to the model */
  constructor(model: MambaForCausalLM, config: LoraConfig, adapterName: string = DEFAULT_NAME) {
    this.model = model;
    this.adapters.set(adapterName, { config, detached: null });
    this.active = adapterName;
  }

  /**
   * Attaches an adapter in peft's format.
   *
   * @param folder with adapter_config.json and adapter_model.safetensors
   * @throws UserError when files are missing or damaged, or when the adapter does not fit: one error with every mismatch
   */
  static fromPretrained(model: MambaForCausalLM, folder: string, options: LoadAdapterOptions = {}): PeftModel {
    return new PeftModel(model, attachStored(model, folder, options.trainable ?? false), options.adapterName);
  }

  /** The active adapter's. */
  get config(): LoraConfig {
    return this.find(this.active).config;
  }

  /** Name of the active adapter, also while it is disabled or merged. */
  get activeAdapter(): string {
    return this.active;
  }

  get adapterNames(): string[] {
    return [...this.adapters.keys()];
  }

  /** Whether the active adapter is folded into the weights ({@link mergeAdapter}). */
  get isMerged(): boolean {
    return this.merged !== null;
  }

  /**
   * Loads a further adapter, which waits until {@link setAdapter}. Also with a name, of which there may be one.
   * @throws UserError as {@link fromPretrained}; ConfigError when the name is taken. What was attached stays attached.
   */
  loadAdapter(folder: string, adapterName: string, options: Pick<LoadAdapterOptions, 'trainable'> = {}): void {
    if (this.adapters.has(adapterName)) {
      throw new ConfigError(`there is an adapter ${adapterName} already; choose another name, or delete that one.`);
    }
    this.aside(() => {
      const config = attachStored(this.model, folder, options.trainable ?? false);
      this.adapters.set(adapterName, { config, detached: detach(this.model) });
    });
  }

  /**
   * Makes an adapter the active one, unmerged and enabled.
   * @throws ConfigError when there is none of this name
   */
  setAdapter(adapterName: string): void {
    const next = this.find(adapterName);
    this.detachActive();
    if (next.detached) reattach(this.model, next.detached);
    next.detached = null;
    this.active = adapterName;
  }

  /**
   * Runs something with the base model alone; then the active adapter is back as it was.
   * @returns what `run` does; when it is a promise, the adapter is back when that is settled
   */
  disableAdapter<T>(run: () => T): T {
    return this.aside(run);
  }

  /**
   * Folds the active adapter into the weights that the model computes with, which makes it as fast as the base; the base's own stay in memory.
   * @throws ConfigError when it is merged already; UserError when the base has no place for a bias of the adapter
   */
  mergeAdapter(): void {
    if (this.merged) throw new ConfigError(`the adapter ${this.active} is merged already.`);
    const adapter = this.find(this.active);
    const { detached, merged } = mergeInPlace(this.model);
    adapter.detached = detached;
    this.merged = merged;
  }

  /**
   * Takes a merged adapter out again and attaches it.
   * @throws ConfigError when none is merged
   */
  unmergeAdapter(): void {
    if (!this.merged) throw new ConfigError('no adapter is merged.');
    this.setAdapter(this.active);
  }

  /**
   * Frees an adapter that is not the active one.
   * @throws ConfigError when there is none of this name, or it is active
   */
  deleteAdapter(adapterName: string): void {
    const { detached } = this.find(adapterName);
    if (adapterName === this.active || !detached) {
      throw new ConfigError(`the adapter ${adapterName} is active; set another first, or unload all of them.`);
    }
    disposeDetached(detached);
    this.adapters.delete(adapterName);
  }

  /** Frees all adapters. @returns the base model, as it was before the first of them; this object has no more use */
  unload(): MambaForCausalLM {
    this.detachActive();
    for (const { detached } of this.adapters.values()) if (detached) disposeDetached(detached);
    this.adapters.clear();
    return this.model;
  }

  /** Frees all adapters and the model. */
  dispose(): void {
    this.unload().dispose();
  }

  /**
   * Writes the active adapter in peft's format: adapter_config.json, adapter_model.safetensors, README.md.
   * @throws UserError when the folder cannot be written
   */
  async savePretrained(folder: string): Promise<void> {
    await writeAdapter(folder, this.config, this.tensors(), this.model.source.fingerprint);
  }

  /**
   * The active adapter's tensors under peft's names.
   * @throws ConfigError while it is merged or disabled
   */
  tensors(): Map<string, Variable> {
    if (this.find(this.active).detached) {
      throw new ConfigError(`the adapter ${this.active} is not attached at present: unmerge it first.`);
    }
    const saved = savedParameters(this.model, this.config).map(({ name, key }): [string, Variable] => [
      key,
      this.model.parameters.get(name) as Variable,
    ]);
    return new Map([...this.loraTensors(), ...saved]);
  }

  /** What trains, out of all parameters with the adapter's. */
  counts(): ParameterCounts {
    const sum = (variables: Iterable<Variable>) => [...variables].reduce((total, variable) => total + variable.size, 0);
    const trainable = sum(this.model.trainableParameters().values());
    const all = sum(this.model.parameters.values()) + sum(new Map(this.loraTensors()).values());
    return { trainable, all, percent: (100 * trainable) / all };
  }

  private loraTensors(): [string, Variable][] {
    return [...this.model.modules.values()].flatMap(adapterTensors);
  }

  private find(adapterName: string): { config: LoraConfig; detached: DetachedAdapter | null } {
    const adapter = this.adapters.get(adapterName);
    if (adapter) return adapter;
    const near = nearestName(adapterName, this.adapters.keys());
    throw new ConfigError(
      `there is no adapter ${adapterName}${near ? `; did you mean ${near}?` : '.'} There are: ${this.adapterNames.join(', ') || 'none'}.`,
    );
  }

  /** Leaves the base model alone. */
  private detachActive(): void {
    const adapter = this.adapters.get(this.active);
    if (this.merged) {
      this.model.backbone.restoreParameters();
      for (const variable of this.merged) variable.dispose();
      this.merged = null;
    } else if (adapter && !adapter.detached) {
      adapter.detached = detach(this.model);
    }
  }

  /** Runs something on the base model alone, and puts the active adapter back, merged if it was. */
  private aside<T>(run: () => T): T {
    const wasMerged = this.isMerged;
    this.detachActive();
    const back = () => {
      this.setAdapter(this.active);
      if (wasMerged) this.mergeAdapter();
    };
    let result: T;
    try {
      result = run();
    } catch (error) {
      back();
      throw error;
    }
    if (result instanceof Promise) return result.finally(back) as T;
    back();
    return result;
  }
}

/**
 * Attaches a fresh adapter that trains; the base parameters do not.
 *
 * @param options.seed of its random values; default 0
 * @throws ConfigError when a target module matches nothing (it lists what exists), or an adapter is attached already
 */
export function getPeftModel(model: MambaForCausalLM, config: LoraConfig, options: { seed?: number } = {}): PeftModel {
  return new PeftModel(model, attachFresh(model, config, options.seed ?? 0));
}
