// SPDX-License-Identifier: Apache-2.0
/** The reverse walk: what it computes, keeps alive, hands out and cleans up. */
import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import { defineGradient, gradientOf } from '../../src/autograd/definition.ts';
import { checkpoint, needsGradient, noGradient, valueAndGradients } from '../../src/autograd/index.ts';
import { splitChannels } from '../../src/ops/split_channels.ts';
import { forEachBackend, onBackend } from '../helpers/backends.ts';
import { expectNoLeak, liveMemory } from '../helpers/memory.ts';

const numbers = (tensor: Tensor | null | undefined) => Array.from((tensor as Tensor).dataSync());

/** A chain of blocks with one weight each, whose gradient needs what every block saved. */
function chain(
  x: Tensor,
  weights: readonly Tensor[],
  each: (block: (h: Tensor) => Tensor, h: Tensor, weight: Tensor) => Tensor,
): Tensor {
  let h = x;
  for (const weight of weights) {
    const next = each((input) => tf.tanh(tf.add(tf.mul(input, weight), tf.sigmoid(input))), h, weight);
    if (h !== x) h.dispose();
    h = next;
  }
  return h;
}

const plain = (x: Tensor, weights: readonly Tensor[]) => chain(x, weights, (block, h) => tf.tidy(() => block(h)));
const checkpointed = (x: Tensor, weights: readonly Tensor[]) =>
  chain(x, weights, (block, h, weight) => checkpoint(block, [h], [weight]));

forEachBackend(() => {
  it('computes gradients of several leaves, null where no path leads', () => {
    expectNoLeak(() =>
      tf.tidy(() => {
        const [a, b, c] = [tf.tensor1d([1, 2]), tf.tensor1d([3, 5]), tf.tensor1d([7, 7])];
        const { value, gradients } = valueAndGradients(() => tf.mul(tf.square(a), b), [a, b, c]);
        expect(numbers(value)).toEqual([3, 20]);
        expect(numbers(gradients[0])).toEqual([6, 20]);
        expect(numbers(gradients[1])).toEqual([1, 4]);
        expect(gradients[2]).toBeNull();
      }),
    );
  });

  it('owes its caller the value and the gradients, and nothing else', () => {
    const x = tf.tensor1d([1, 2]);
    const before = liveMemory();
    const { value, gradients } = valueAndGradients(() => tf.exp(tf.mul(x, x)), [x]);
    expect(liveMemory().numTensors).toBe((before.numTensors as number) + 2);
    value.dispose();
    gradients[0]?.dispose();
    expect(liveMemory()).toEqual(before);
    x.dispose();
  });

  it('adds up every use of a tensor, also twice in one op', () => {
    tf.tidy(() => {
      const x = tf.tensor1d([3, -2]);
      const { gradients } = valueAndGradients(() => tf.add(tf.mul(x, x), tf.sub(x, tf.neg(x))), [x]);
      expect(numbers(gradients[0])).toEqual([8, -2]);
    });
  });

  it('takes upstream gradients, one for each output', () => {
    tf.tidy(() => {
      const x = tf.tensor1d([1, 2]);
      const upstream = [tf.tensor1d([10, 100]), tf.tensor1d([1, 1])];
      const { value, gradients } = valueAndGradients(() => [tf.mul(x, 2), tf.square(x)], [x], { upstream });
      expect(value.map(numbers)).toEqual([
        [2, 4],
        [1, 4],
      ]);
      expect(numbers(gradients[0])).toEqual([22, 204]);
      expect(upstream.map(numbers)).toEqual([
        [10, 100],
        [1, 1],
      ]);
    });
  });

  it('a leaf that is an output itself, once and twice', () => {
    tf.tidy(() => {
      const x = tf.tensor1d([1, 2]);
      expect(numbers(valueAndGradients(() => x, [x]).gradients[0])).toEqual([1, 1]);
      expect(numbers(valueAndGradients(() => [x, x], [x]).gradients[0])).toEqual([2, 2]);
      expect(numbers(valueAndGradients(() => [x, tf.mul(x, 3)], [x]).gradients[0])).toEqual([4, 4]);
    });
  });

  it('several outputs of one op, some without an upstream gradient', () => {
    expectNoLeak(() =>
      tf.tidy(() => {
        const x = tf.tensor2d([[1, 2, 3, 4]]);
        const { gradients } = valueAndGradients(() => tf.square(splitChannels(x, [1, 1, 2])[2] as Tensor), [x]);
        expect(numbers(gradients[0])).toEqual([0, 0, 6, 8]);
      }),
    );
  });

  it('frees branches that lead to no output', () => {
    expectNoLeak(() =>
      tf.tidy(() => {
        const x = tf.tensor1d([1, 2]);
        const { gradients } = valueAndGradients(() => {
          tf.exp(tf.mul(x, x));
          return tf.mul(x, 5);
        }, [x]);
        expect(numbers(gradients[0])).toEqual([5, 5]);
      }),
    );
  });

  it('records nothing before the first leaf: a frozen prefix is freed as it goes', () => {
    tf.tidy(() => {
      const x = tf.ones([4, 4]);
      const trainable = tf.tensor1d([2]);
      const during = (leaf: Tensor) => {
        let peak = 0;
        valueAndGradients(() => {
          let h = tf.tidy(() => tf.mul(x, 1));
          for (let i = 0; i < 10; i++) {
            const next = tf.tidy(() => tf.tanh(tf.mul(h, h)));
            h.dispose();
            h = next;
          }
          peak = tf.memory().numTensors;
          return tf.mul(h, leaf);
        }, [leaf]);
        return peak - tf.memory().numTensors;
      };
      expect(during(trainable)).toBeLessThan(3);
    });
  });

  it('tells ops whether a gradient will be asked for', () => {
    tf.tidy(() => {
      const [x, frozen] = [tf.tensor1d([1]), tf.tensor1d([2])];
      const seen: Record<string, boolean> = { outside: needsGradient(x) };
      valueAndGradients(() => {
        const y = tf.mul(x, frozen);
        Object.assign(seen, {
          leaf: needsGradient(x),
          result: needsGradient(y),
          frozen: needsGradient(frozen),
          prefix: needsGradient(tf.square(frozen)),
        });
        noGradient(() => Object.assign(seen, { off: needsGradient(x) }));
        return y;
      }, [x]);
      expect(seen).toEqual({ outside: false, leaf: true, result: true, frozen: false, prefix: false, off: false });
    });
  });

  it('noGradient makes constants', () => {
    tf.tidy(() => {
      const x = tf.tensor1d([3]);
      const { gradients } = valueAndGradients(
        () =>
          tf.mul(
            x,
            noGradient(() => tf.square(x)),
          ),
        [x],
      );
      expect(numbers(gradients[0])).toEqual([9]);
    });
  });

  describe('onGradient', () => {
    it('hands each gradient out as soon as it is final, last layer first, and frees it afterwards', () => {
      expectNoLeak(() =>
        tf.tidy(() => {
          const x = tf.tensor1d([0.5, 1]);
          const weights = [0.1, 0.2, 0.3].map((w) => tf.scalar(w));
          const expected = valueAndGradients(() => plain(x, weights), weights).gradients.map(numbers);
          const order: number[] = [];
          const given: Tensor[] = [];
          const { gradients } = valueAndGradients(() => plain(x, weights), weights, {
            onGradient(index, gradient) {
              order.push(index);
              given.push(gradient);
              expect(numbers(gradient)).toEqual(expected[index]);
              expect(given.slice(0, -1).every((earlier) => earlier.isDisposed)).toBe(true);
            },
          });
          expect(order).toEqual([2, 1, 0]);
          expect(given.every((gradient) => gradient.isDisposed)).toBe(true);
          expect(gradients).toEqual([null, null, null]);
        }),
      );
    });

    it('waits for the last use', () => {
      tf.tidy(() => {
        const [shared, once] = [tf.tensor1d([2]), tf.tensor1d([3])];
        const seen: [number, number[]][] = [];
        valueAndGradients(() => tf.mul(tf.mul(shared, once), shared), [shared, once], {
          onGradient: (index, gradient) => seen.push([index, numbers(gradient)]),
        });
        expect(seen.sort(([i], [j]) => i - j)).toEqual([
          [0, [12]],
          [1, [4]],
        ]);
      });
    });

    it('may keep what it makes of a gradient', () => {
      const x = tf.tensor1d([2]);
      let kept: Tensor | undefined;
      const { value } = valueAndGradients(() => tf.square(x), [x], {
        onGradient: (_index, gradient) => (kept = tf.keep(tf.mul(gradient, 10))),
      });
      expect(numbers(kept)).toEqual([40]);
      for (const tensor of [value, kept as Tensor, x]) tensor.dispose();
    });
  });

  describe('checkpoint', () => {
    const make = () => ({
      x: tf.randomNormal([8, 16], 0, 1, 'float32', 3),
      weights: Array.from({ length: 9 }, (_, i) => tf.scalar(0.3 + 0.1 * i)),
    });

    it('gives the same value and gradients bit for bit', () => {
      expectNoLeak(() =>
        tf.tidy(() => {
          const { x, weights } = make();
          const [a, b] = [plain, checkpointed].map((run) => valueAndGradients(() => run(x, weights), [x, ...weights]));
          expect(numbers(b?.value)).toEqual(numbers(a?.value));
          expect(b?.gradients.map(numbers)).toEqual(a?.gradients.map(numbers));
        }),
      );
    });

    it('holds one tensor a block instead of all that a block saves', () => {
      const heldAfterForward = (run: typeof plain) =>
        tf.tidy(() => {
          const { x, weights } = make();
          let held = 0;
          const before = tf.memory().numDataBuffers;
          valueAndGradients(() => {
            const y = run(x, weights);
            held = tf.memory().numDataBuffers - before;
            return y;
          }, weights);
          return held as unknown as Tensor;
        }) as unknown as number;
      expect(heldAfterForward(checkpointed)).toBeLessThanOrEqual(10);
      expect(heldAfterForward(plain)).toBeGreaterThanOrEqual(17);
    });

    it('nests', () => {
      expectNoLeak(() =>
        tf.tidy(() => {
          const { x, weights } = make();
          const nested = (input: Tensor) => {
            const outer = (from: number) => (h: Tensor) => checkpointed(h, weights.slice(from, from + 3));
            return [0, 3, 6].reduce((h, from) => checkpoint(outer(from), [h], weights.slice(from, from + 3)), input);
          };
          const a = valueAndGradients(() => plain(x, weights), [x, ...weights]);
          const b = valueAndGradients(() => nested(x), [x, ...weights]);
          expect(b.gradients.map(numbers)).toEqual(a.gradients.map(numbers));
        }),
      );
    });

    it('several inputs and outputs, some outputs not used', () => {
      expectNoLeak(() =>
        tf.tidy(() => {
          const [a, b, w] = [tf.tensor1d([1, 2]), tf.tensor1d([3, 4]), tf.tensor1d([5, 6])];
          const run = (wrap: boolean) =>
            valueAndGradients(() => {
              const segment = (...[p, q]: Tensor[]) => [
                tf.mul(p as Tensor, q as Tensor),
                tf.mul(p as Tensor, w),
                tf.exp(q as Tensor),
              ];
              const [first, second] = wrap ? checkpoint(segment, [a, b], [w]) : segment(a, b);
              return tf.add(first as Tensor, tf.square(second as Tensor));
            }, [a, b, w]).gradients.map(numbers);
          expect(run(true)).toEqual(run(false));
        }),
      );
    });

    it('computes no gradient for an input or parameter that needs none', () => {
      tf.tidy(() => {
        const [constant, frozen, w] = [tf.tensor1d([1, 2]), tf.tensor1d([3, 4]), tf.tensor1d([5, 6])];
        const seen: boolean[] = [];
        valueAndGradients(() => {
          const segment = (c: Tensor) => {
            seen.push(needsGradient(c), needsGradient(frozen), needsGradient(w));
            return tf.mul(tf.mul(c, frozen), w);
          };
          return checkpoint(segment as (...inputs: Tensor[]) => Tensor, [constant], [frozen, w]);
        }, [w]);
        expect(seen).toEqual([false, false, false, false, false, true]);
      });
    });

    it('gives zeros to an input that its segment does not use, disposed of or not', () => {
      expectNoLeak(() =>
        tf.tidy(() => {
          const x = tf.tensor1d([1, 2]);
          const { gradients } = valueAndGradients(() => {
            const unused = tf.mul(x, 2);
            const y = checkpoint((a) => tf.square(a as Tensor), [x, unused], []);
            unused.dispose();
            return y;
          }, [x]);
          expect(numbers(gradients[0])).toEqual([2, 4]);
        }),
      );
    });

    it('outside of a recording only runs the segment', () => {
      expectNoLeak(() =>
        tf.tidy(() => {
          const x = tf.tensor1d([2]);
          expect(numbers(checkpoint((h) => tf.square(h as Tensor), [x], []))).toEqual([4]);
        }),
      );
    });
  });

  describe('nested recordings', () => {
    it('leave the outer one as it was; their results are constants to it', () => {
      expectNoLeak(() =>
        tf.tidy(() => {
          const x = tf.tensor1d([3]);
          const { gradients } = valueAndGradients(() => {
            const before = tf.square(x);
            const inner = valueAndGradients(() => tf.mul(tf.square(x), x), [x]);
            expect(numbers(inner.gradients[0])).toEqual([27]);
            return tf.mul(before, inner.gradients[0] as Tensor);
          }, [x]);
          expect(numbers(gradients[0])).toEqual([6 * 27]);
        }),
      );
    });
  });

  describe('errors', () => {
    it('in the forward computation leak nothing and end the recording', () => {
      const x = tf.tensor1d([1, 2]);
      expectNoLeak(() => {
        expect(() =>
          valueAndGradients(() => {
            tf.exp(tf.mul(x, x));
            throw new Error('the forward failed');
          }, [x]),
        ).toThrow('the forward failed');
      });
      expect(needsGradient(x)).toBe(false);
      x.dispose();
    });

    it('in the backward computation leak nothing, whatever was computed before', () => {
      const [x, w] = [tf.tensor1d([1, 2]), tf.tensor1d([3, 4])];
      expectNoLeak(() => {
        expect(() => valueAndGradients(() => tf.mul(tf.sin(tf.mul(x, x)), w), [w, x])).toThrow(
          /kernel Sin has no gradient definition/,
        );
      });
      tf.dispose([x, w]);
    });

    it('in onGradient leak nothing', () => {
      const [x, w] = [tf.tensor1d([1, 2]), tf.tensor1d([3, 4])];
      expectNoLeak(() => {
        const onGradient = () => {
          throw new Error('no room');
        };
        expect(() => valueAndGradients(() => tf.mul(tf.exp(x), w), [w, x], { onGradient })).toThrow('no room');
      });
      tf.dispose([x, w]);
    });

    it('in a checkpointed segment, forward or backward, leak nothing', () => {
      const x = tf.tensor1d([1, 2]);
      for (const failing of [1, 2]) {
        expectNoLeak(() => {
          let calls = 0;
          const segment = (h: Tensor) => {
            const y = tf.exp(tf.mul(h, h));
            if (++calls === failing) throw new Error(`run ${failing} failed`);
            return y;
          };
          expect(() =>
            valueAndGradients(() => checkpoint(segment as (...inputs: Tensor[]) => Tensor, [tf.mul(x, 2)], []), [x]),
          ).toThrow(`run ${failing} failed`);
        });
      }
      x.dispose();
    });

    it('do not dispose of what the caller owns', () => {
      const [x, given] = [tf.tensor1d([1, 2]), tf.tensor1d([1, 1])];
      expect(() => valueAndGradients(() => [tf.sin(x), x, given], [x])).toThrow(/Sin/);
      expect([x.isDisposed, given.isDisposed]).toEqual([false, false]);
      tf.dispose([x, given]);
    });
  });
});

onBackend('cpu', () => {
  it('refuses a gradient definition that answers with another shape or without an input', () => {
    const original = gradientOf('Cos');
    expect(original).toBeUndefined();
    tf.tidy(() => {
      const x = tf.tensor1d([1, 2]);
      defineGradient('Cos', { save: () => [], grad: () => ({ x: tf.scalar(1) }) });
      expect(() => valueAndGradients(() => tf.cos(x), [x])).toThrow(
        "the gradient of Cos for 'x' has shape [], the input has [2]",
      );
      defineGradient('Cos', { save: () => [], grad: () => ({}) });
      expect(() => valueAndGradients(() => tf.cos(x), [x])).toThrow("the gradient of Cos has none for its input 'x'");
    });
  });

  it('takes ops made by tf.customGrad', () => {
    const triple = tf.customGrad((x, save) => {
      (save as tf.GradSaveFunc)([x as Tensor]);
      return {
        value: tf.mul(x as Tensor, 3),
        gradFunc: (dy: Tensor, saved: Tensor[]) => [tf.mul(dy, tf.add(tf.mul(saved[0] as Tensor, 0), 30))],
      };
    });
    expectNoLeak(() =>
      tf.tidy(() => {
        const [x, constant] = [tf.tensor1d([1, 2]), tf.tensor1d([1, 2])];
        const { value, gradients } = valueAndGradients(() => tf.add(triple(x), triple(constant)), [x]);
        expect(numbers(value)).toEqual([6, 12]);
        expect(numbers(gradients[0])).toEqual([30, 30]);
      }),
    );
  });

  it("leaves tfjs-core's own tf.grad as it was", () => {
    const square = tf.customGrad((x, save) => {
      (save as tf.GradSaveFunc)([x as Tensor]);
      return {
        value: tf.square(x as Tensor),
        gradFunc: (dy: Tensor, saved: Tensor[]) => [tf.mul(dy, tf.mul(saved[0] as Tensor, 2))],
      };
    });
    expectNoLeak(() =>
      tf.tidy(() => {
        const x = tf.tensor1d([5, 7]);
        valueAndGradients(() => tf.square(x), [x]);
        expect(numbers(tf.grad((input) => square(input))(x))).toEqual([10, 14]);
      }),
    );
  });
});
