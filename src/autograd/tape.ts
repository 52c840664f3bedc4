// SPDX-License-Identifier: Apache-2.0
/**
 * Recording and the reverse walk. Differs from tfjs-core's own backward in what it keeps alive: only nodes on a path from a leaf are
 * recorded, a node's saved tensors and upstream gradients are freed as soon as it has run, a leaf's gradient is handed out as soon as
 * it is final, and recordings nest, so that a segment can be recomputed inside a backward ({@link checkpoint}).
 */
import type { NamedTensorMap, Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { Attributes, GradientContext } from './definition.ts';
import { gradientOf } from './definition.ts';
import { recordingEngine as engine, runKernel } from './engine.ts';

type Backward = (dys: (Tensor | null)[]) => Record<string, Tensor>;

interface Node {
  kernelName: string;
  inputs: NamedTensorMap;
  outputs: Tensor[];
  saved: Tensor[];
  backward: Backward;
}

interface Recording {
  nodes: Node[];
  /** Ids of the tensors that depend on a leaf. */
  dependent: Set<number>;
}

let recording: Recording | undefined;

installRecorder();

/** Whether a gradient will be asked through this tensor: ops skip what only a backward would read when not. */
export function needsGradient(tensor: Tensor | null | undefined): boolean {
  return isRecording() && tensor != null && (recording?.dependent.has(tensor.id) ?? false);
}

function isRecording(): boolean {
  return recording !== undefined && engine.state.gradientDepth > 0;
}

/** Runs f without recording. */
export function noGradient<T>(f: () => T): T {
  const depth = engine.state.gradientDepth;
  engine.state.gradientDepth = 0;
  try {
    return f();
  } finally {
    engine.state.gradientDepth = depth;
  }
}

export interface ValueAndGradients<T> {
  value: T;
  /** Per leaf; null when no path leads to it, or when it was given to onGradient. */
  gradients: (Tensor | null)[];
}

/**
 * Computes f and the gradients of its output with respect to the leaves.
 *
 * @param f forward computation, returning one tensor or several
 * @param leaves tensors or variables; an input of f that is not listed is constant and costs nothing
 * @param options.upstream gradient of each output, in its shape; default ones
 * @param options.onGradient called with each leaf's gradient as soon as it is final; the gradient is disposed of afterwards
 * @throws when an op on a path to a leaf has no gradient definition
 */
export function valueAndGradients<T extends Tensor | Tensor[]>(
  f: () => T,
  leaves: readonly Tensor[],
  options: { upstream?: readonly Tensor[]; onGradient?: (index: number, gradient: Tensor) => void } = {},
): ValueAndGradients<T> {
  return engine.tidy('valueAndGradients', () => {
    const { value, nodes, dependent } = record(f, leaves);
    const outputs = Array.isArray(value) ? value : [value as Tensor];
    const gradients = walk(nodes, dependent, outputs, leaves, options);
    return { value, gradients };
  });
}

function record<T extends Tensor | Tensor[]>(f: () => T, leaves: readonly Tensor[]): { value: T } & Recording {
  const outer = recording;
  const { gradientDepth, kernelDepth } = engine.state;
  const inner: Recording = { nodes: [], dependent: new Set(leaves.map((leaf) => leaf.id)) };
  recording = inner;
  engine.state.gradientDepth = 1;
  engine.state.kernelDepth = 0;
  try {
    return { value: engine.tidy('forward', f), ...inner };
  } catch (error) {
    for (const node of inner.nodes) disposeAll(node.saved);
    throw error;
  } finally {
    recording = outer;
    engine.state.gradientDepth = gradientDepth;
    engine.state.kernelDepth = kernelDepth;
  }
}

function walk(
  nodes: Node[],
  dependent: Set<number>,
  outputs: Tensor[],
  leaves: readonly Tensor[],
  options: { upstream?: readonly Tensor[]; onGradient?: (index: number, gradient: Tensor) => void },
): (Tensor | null)[] {
  const gradients: (Tensor | null)[] = leaves.map(() => null);
  const leafIndex = new Map(leaves.map((leaf, index) => [leaf.id, index]));
  const uses = pruneAndCountUses(nodes, dependent, outputs);
  const pending = new Map<number, Tensor>();

  const finish = (tensor: Tensor) => {
    const index = leafIndex.get(tensor.id);
    const gradient = pending.get(tensor.id);
    if (index === undefined || !gradient) return;
    pending.delete(tensor.id);
    if (options.onGradient) {
      options.onGradient(index, gradient);
      gradient.dispose();
    } else {
      gradients[index] = gradient;
    }
  };

  try {
    return engine.tidy('backward', () => {
      for (const [i, output] of outputs.entries()) {
        const upstream = options.upstream?.[i];
        if (dependent.has(output.id))
          accumulate(pending, output, upstream ? identity(upstream) : tf.ones(output.shape));
      }
      for (const output of outputs) if (!uses.has(output.id)) finish(output);
      while (nodes.length > 0) {
        const node = nodes[nodes.length - 1] as Node;
        runBackward(node, dependent, pending);
        nodes.pop();
        for (const output of node.outputs) {
          if (leafIndex.has(output.id)) continue;
          pending.get(output.id)?.dispose();
          pending.delete(output.id);
        }
        for (const input of Object.values(node.inputs)) {
          const left = (uses.get(input.id) ?? 0) - 1;
          uses.set(input.id, left);
          if (left === 0) finish(input);
        }
      }
      return gradients;
    });
  } finally {
    for (const node of nodes) disposeAll(node.saved);
  }
}

/** Drops the nodes that lead to no output, frees what they saved, and counts how often each dependent tensor is consumed. */
function pruneAndCountUses(nodes: Node[], dependent: Set<number>, outputs: Tensor[]): Map<number, number> {
  const reaching = new Set(outputs.map((output) => output.id));
  const uses = new Map<number, number>();
  const live: Node[] = [];
  for (const node of nodes.slice().reverse()) {
    if (!node.outputs.some((output) => reaching.has(output.id))) {
      disposeAll(node.saved);
      continue;
    }
    live.push(node);
    for (const input of Object.values(node.inputs)) {
      if (!dependent.has(input.id)) continue;
      reaching.add(input.id);
      uses.set(input.id, (uses.get(input.id) ?? 0) + 1);
    }
  }
  nodes.splice(0, nodes.length, ...live.reverse());
  return uses;
}

function runBackward(node: Node, dependent: Set<number>, pending: Map<number, Tensor>): void {
  const dys = node.outputs.map((output) => pending.get(output.id) ?? null);
  const wanted = Object.entries(node.inputs).filter(([, input]) => dependent.has(input.id));
  if (dys.every((dy) => dy === null)) {
    disposeAll(node.saved);
    return;
  }
  const inputGradients = tf.tidy(() => {
    const computed = noGradient(() => node.backward(dys));
    return wanted.map(([name]) => {
      const gradient = computed[name];
      if (!gradient) throw new Error(`the gradient of ${node.kernelName} has none for its input '${name}'`);
      return identity(gradient);
    });
  });
  disposeAll(node.saved);
  for (const [i, [name, input]] of wanted.entries()) {
    const gradient = inputGradients[i] as Tensor;
    if (!tf.util.arraysEqual(gradient.shape, input.shape)) {
      throw new Error(
        `the gradient of ${node.kernelName} for '${name}' has shape [${gradient.shape}], the input has [${input.shape}]`,
      );
    }
    accumulate(pending, input, gradient);
  }
}

function accumulate(pending: Map<number, Tensor>, tensor: Tensor, gradient: Tensor): void {
  const sum = pending.get(tensor.id);
  if (!sum) {
    pending.set(tensor.id, gradient);
    return;
  }
  pending.set(
    tensor.id,
    noGradient(() => tf.add(sum, gradient)),
  );
  sum.dispose();
  gradient.dispose();
}

/** A tensor of its own on the same data, so that disposing of one leaves the other. */
function identity(x: Tensor): Tensor {
  return noGradient(() => runKernel<Tensor>('Identity', { x }));
}

function disposeAll(tensors: Iterable<Tensor>): void {
  for (const tensor of tensors) tensor.dispose();
}

/**
 * Runs `segment` without recording its inside; the backward runs it again with recording. Memory of one segment at a time instead of
 * all: activation checkpointing (Chen et al. 2016, section 3).
 *
 * @param segment pure function of `inputs` and of the tensors in `parameters`, returning one or several tensors
 * @param inputs activations that gradients flow through, and constants that may be gone by the time of the backward
 * @param parameters trainable tensors that the segment closes over
 */
export function checkpoint<T extends Tensor | Tensor[]>(
  segment: (...inputs: Tensor[]) => T,
  inputs: readonly Tensor[],
  parameters: readonly Tensor[],
): T {
  const value = noGradient(() => tf.tidy(() => segment(...inputs)));
  if (!isRecording()) return value;
  const outputs = Array.isArray(value) ? value : [value as Tensor];
  const named = Object.fromEntries([...inputs, ...parameters].map((tensor, i) => [String(i), tensor]));
  const needed = Object.keys(named).filter((name) => recording?.dependent.has((named[name] as Tensor).id));
  const saved = inputs.map(keepAlias);
  const backward: Backward = (dys) => {
    const again = saved.map(identity);
    const operands = [...again, ...parameters];
    const rerun = valueAndGradients(
      () => {
        const result = segment(...again);
        return (Array.isArray(result) ? result : [result as Tensor]).filter((_, i) => dys[i]);
      },
      needed.map((name) => operands[Number(name)] as Tensor),
      { upstream: dys.filter((dy) => dy !== null) },
    );
    disposeAll(rerun.value);
    return Object.fromEntries(
      needed.map((name, i) => [name, rerun.gradients[i] ?? tf.zerosLike(operands[Number(name)] as Tensor)]),
    );
  };
  push({ kernelName: 'Checkpoint', inputs: named, outputs, saved, backward });
  return value;
}

/** Appends a node when it depends on a leaf; otherwise frees what it saved. */
function push(node: Node): void {
  if (!recording || !Object.values(node.inputs).some((input) => recording?.dependent.has(input.id))) {
    disposeAll(node.saved);
    return;
  }
  for (const output of node.outputs) recording.dependent.add(output.id);
  recording.nodes.push(node);
}

/** A second tensor on x's data that no tidy disposes of. */
function keepAlias(x: Tensor): Tensor {
  return engine.keep(identity(x));
}

/** Replaces the engine's recording while one of ours runs; tfjs-core's own `tf.grad` keeps working outside. */
function installRecorder(): void {
  const original = {
    getTensorsForGradient: engine.getTensorsForGradient.bind(engine),
    saveTensorsForBackwardMode: engine.saveTensorsForBackwardMode.bind(engine),
    addTapeNode: engine.addTapeNode.bind(engine),
  };
  engine.getTensorsForGradient = (...args) => (recording ? [] : original.getTensorsForGradient(...args));
  engine.saveTensorsForBackwardMode = (tensors) => (recording ? [] : original.saveTensorsForBackwardMode(tensors));
  engine.addTapeNode = (kernelName, inputs, outputs, gradientsFunc, saved, attrs) => {
    if (!recording) return original.addTapeNode(kernelName, inputs, outputs, gradientsFunc, saved, attrs);
    const { dependent } = recording;
    if (!Object.values(inputs).some((input) => dependent.has(input.id))) return disposeAll(saved);
    push(
      gradientsFunc
        ? customNode(kernelName, inputs, outputs, gradientsFunc, saved)
        : kernelNode(kernelName, inputs, outputs, attrs),
    );
  };
}

function kernelNode(kernelName: string, inputs: NamedTensorMap, outputs: Tensor[], attrs: Attributes): Node {
  const definition = gradientOf(kernelName);
  if (!definition) {
    return { kernelName, inputs, outputs, saved: [], backward: () => missingGradient(kernelName) };
  }
  const needed = new Set(Object.keys(inputs).filter((name) => recording?.dependent.has((inputs[name] as Tensor).id)));
  const context: GradientContext = { inputs, attrs: attrs ?? {}, needs: (name) => needed.has(name) };
  const saved = definition.save(context, outputs).map((tensor) => tensor && keepAlias(tensor));
  return {
    kernelName,
    inputs,
    outputs,
    saved: saved.filter((tensor) => tensor !== null),
    backward: (dys) => definition.grad(dys, saved, context),
  };
}

function missingGradient(kernelName: string): never {
  throw new Error(`the kernel ${kernelName} has no gradient definition (src/autograd/gradients)`);
}

/** A tf.customGrad op: its gradients come as thunks. */
function customNode(
  kernelName: string,
  inputs: NamedTensorMap,
  outputs: Tensor[],
  gradientsFunc: (dy: Tensor | Tensor[], saved: Tensor[]) => NamedTensorMap,
  saved: Tensor[],
): Node {
  const backward: Backward = (dys) => {
    const filled = dys.map((dy, i) => dy ?? tf.zerosLike(outputs[i] as Tensor));
    const thunks = gradientsFunc(outputs.length > 1 ? filled : (filled[0] as Tensor), saved) as unknown as Record<
      string,
      () => Tensor
    >;
    return Object.fromEntries(Object.entries(thunks).map(([name, thunk]) => [name, thunk()]));
  };
  return { kernelName, inputs, outputs, saved, backward };
}
