// SPDX-License-Identifier: Apache-2.0
/**
 * A decoder whose single tokens are one launch of a recorded step. The step reads the tokens and updates the state in device memory;
 * where the device chooses it also writes its choice over the tokens, so that a series of launches follows each other
 * without the host, which reads their choices together, and launches the next series before it hands them on.
 */
import type { Rank, Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { copyInto, overwrite, type Recording, record } from '../backends/graphs.ts';
import { chooseLikeliest, NO_TOKEN, NOT_A_NUMBER, type RowDraws, sampleToken } from '../backends/token_choice.ts';
import { type MambaCache, makeState } from '../model/backbone.ts';
import type { MambaForCausalLM } from '../model/causal_lm.ts';
import { checkIds } from '../model/model_inputs.ts';
import type { DeviceChoice, TokenChooser } from './chooser.ts';
import type { Decoder } from './decoder.ts';
import { noToken, notANumber } from './sampling.ts';

/** Most launches between two readings: what a reading costs is little beside them, and few run beyond the end of a text. */
const MOST_LAUNCHES = 16;

/** What one recording reads and gives. */
interface RecordedStep {
  /** How it chooses; undefined: it leaves the tokens as they are. */
  choice: DeviceChoice | undefined;
  /** int32 [batch, 1]: read, then written over with the choice. */
  tokens: Tensor2D;
  /** int32 [MOST_LAUNCHES, batch]: the choice of each launch, in the slot of its number % MOST_LAUNCHES. */
  choices: Tensor2D;
  /** int32 [batch]: how many launches there were. */
  counts: Tensor1D;
  /** Where it draws. */
  draws: RowDraws | undefined;
  recording: Recording<[logits: Tensor2D]>;
}

/**
 * Puts recorded steps over a decoder.
 * @param base runs everything but steps, and the first step: what a model makes once must not be recorded
 * @param fromState a decoder like it, which continues a state of its own
 */
export function recordedDecoder(
  model: MambaForCausalLM,
  base: Decoder,
  fromState: (state: MambaCache) => Decoder,
): Decoder {
  let decoder = base;
  /** Set from the first recorded step on, in place of `decoder`'s state. */
  let recorded: { state: MambaCache; step: RecordedStep; launched: number } | undefined;
  let stepsTaken = 0;
  /** Of the next series. */
  let launches = 1;
  /** What has run beyond what the caller knows: a series that nobody has read, or choices that were read when rows were chosen. */
  let ahead: { after: readonly number[]; unread: number; read: Int32Array[] } | undefined;

  const start = (batch: number, choice?: DeviceChoice) => {
    if (recorded) return recorded;
    const state = decoder.copyState();
    decoder.dispose();
    recorded = { state, step: recordStep(model, state, batch, choice), launched: 0 };
    return recorded;
  };
  /** Goes back to steps that run as they come. */
  const stop = (): Decoder => {
    ahead = undefined;
    if (recorded) {
      const { state, step } = recorded;
      recorded = undefined;
      release(step);
      decoder = fromState(state);
      state.dispose();
    }
    stepsTaken = 0;
    launches = 1;
    return decoder;
  };
  const put = (step: RecordedStep, tokens: readonly number[]) => {
    const ids = Int32Array.from(tokens);
    checkIds(ids, 'inputIds', model.config.vocabSize);
    overwrite(step.tokens, ids);
  };
  const launch = (current: NonNullable<typeof recorded>) => {
    current.launched++;
    current.step.recording.launch();
  };
  const launchSeries = (current: NonNullable<typeof recorded>, after: readonly number[], most: number) => {
    const unread = Math.min(launches, most, MOST_LAUNCHES);
    launches *= 2;
    for (let i = 0; i < unread; i++) launch(current);
    ahead = unread > 0 ? { after, unread, read: [] } : undefined;
  };
  /** The choices of `ahead`, which is over then. */
  const takeAhead = (): Int32Array[] => {
    if (!ahead) return [];
    const { after, unread, read } = ahead;
    const batch = after.length;
    ahead = undefined;
    if (unread === 0 || !recorded) return read;
    const { step, launched } = recorded;
    const slots = step.choices.dataSync<'int32'>();
    const choices = Array.from({ length: unread }, (_, i) => {
      const slot = (launched - unread + i) % MOST_LAUNCHES;
      return slots.slice(slot * batch, (slot + 1) * batch);
    });
    if (choices.some((each) => each.includes(NOT_A_NUMBER))) throw notANumber();
    if (choices.some((each) => each.includes(NO_TOKEN))) throw noToken();
    return choices;
  };
  const refuseAhead = (call: string) => {
    if (ahead)
      throw new Error(
        `${call}: the decoder has run ahead; only runAhead by the same choice, selectRows and dispose can follow`,
      );
  };

  return {
    prefill(inputIds, attentionMask) {
      refuseAhead('prefill');
      return stop().prefill(inputIds, attentionMask);
    },
    leastPositions: (batch) => decoder.leastPositions(batch),
    async step(tokens) {
      refuseAhead('step');
      if (stepsTaken++ === 0) return decoder.step(tokens);
      const current = start(tokens.length);
      put(current.step, tokens);
      launch(current);
      return current.step.recording.outputs[0].data<'float32'>();
    },
    async runAhead(tokens, most, choosers, choice) {
      const { vocabSize } = model.config;
      if (ahead && tokens.some((token, row) => token !== ahead?.after[row]))
        throw new Error(
          `runAhead: found the tokens ${tokens}; expected ${ahead.after}, after which the decoder has run on`,
        );
      if (ahead && ahead.unread === 0) return takeAhead();
      if (recorded && recorded.step.choice !== choice) {
        refuseAhead('runAhead by another choice');
        stop();
      }
      if (stepsTaken++ === 0) {
        const logits = await decoder.step(tokens);
        return [
          Int32Array.from(choosers, (chooser, row) =>
            chooser.choose(logits.subarray(row * vocabSize, (row + 1) * vocabSize)),
          ),
        ];
      }
      const current = start(tokens.length, choice);
      if (!ahead) {
        put(current.step, tokens);
        if (current.step.draws) putRows(current.step.draws, choosers, vocabSize);
        launchSeries(current, tokens, most);
      }
      const choices = takeAhead();
      launchSeries(current, [...(choices.at(-1) as Int32Array)], most - choices.length);
      return choices;
    },
    selectRows(rows) {
      const after = ahead && rows.map((row) => ahead?.after[row] as number);
      const read = takeAhead().map((choices) => Int32Array.from(rows, (row) => choices[row] as number));
      stop().selectRows(rows);
      if (after && read.length > 0) ahead = { after, unread: 0, read };
    },
    copyState() {
      refuseAhead('copyState');
      return recorded ? copyState(recorded.state) : decoder.copyState();
    },
    dispose: () => stop().dispose(),
  };
}

function recordStep(
  model: MambaForCausalLM,
  state: MambaCache,
  batch: number,
  choice: DeviceChoice | undefined,
): RecordedStep {
  const zeros = <T extends Tensor>(shape: number[]) => tf.keep(tf.zeros(shape, 'int32')) as T;
  const tokens = zeros<Tensor2D>([batch, 1]);
  const choices = zeros<Tensor2D>([MOST_LAUNCHES, batch]);
  const counts = zeros<Tensor1D>([batch]);
  const draw = typeof choice === 'object' ? choice : undefined;
  const seenWords = draw && draw.repetitionPenalty !== 1 ? seenWordsOf(model.config.vocabSize) : 0;
  const draws = draw && {
    substreams: zeros([batch]),
    positions: zeros([batch]),
    seen: seenWords > 0 ? zeros([batch, seenWords]) : undefined,
  };
  const recording = record((): [Tensor2D] => {
    const logits = model.advance(tokens, state);
    if (choice === 'likeliest') chooseLikeliest(logits, { tokens, choices, counts });
    if (draw && draws) sampleToken(logits, draw, draws, { tokens, choices, counts });
    return [logits];
  });
  return { choice, tokens, choices, counts, draws, recording };
}

/** Writes what the rows draw with next. */
function putRows(
  { substreams, positions, seen }: RowDraws,
  choosers: readonly TokenChooser[],
  vocabSize: number,
): void {
  overwrite(
    substreams,
    Int32Array.from(choosers, ({ row }) => row),
  );
  overwrite(
    positions,
    Int32Array.from(choosers, ({ position }) => position),
  );
  if (!seen) return;
  const words = seenWordsOf(vocabSize);
  const bits = new Int32Array(choosers.length * words);
  for (const [i, chooser] of choosers.entries()) {
    for (const id of chooser.seen) {
      const word = i * words + (id >> 5);
      bits[word] = (bits[word] as number) | (1 << (id & 31));
    }
  }
  overwrite(seen, bits);
}

const seenWordsOf = (vocabSize: number) => Math.ceil(vocabSize / 32);

function release({ tokens, choices, counts, draws, recording }: RecordedStep): void {
  recording.release();
  tf.dispose([tokens, choices, counts]);
  if (draws) tf.dispose(Object.values(draws));
}

/** Of the values: recorded steps write over the original's. */
function copyState(state: MambaCache): MambaCache {
  const copy = (tensors: MambaCache['convStates']) =>
    tensors.map((tensor) => {
      const values = tf.zeros<Rank.R3>(tensor.shape);
      copyInto(values, 0, tensor);
      return values;
    });
  return makeState(copy(state.convStates), copy(state.ssmStates));
}
