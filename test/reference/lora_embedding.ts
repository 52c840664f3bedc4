// SPDX-License-Identifier: Apache-2.0
/** An embedding lookup with a low-rank adapter and its gradients in float64 (native/include/lora_embedding.h). */

export interface LoraEmbeddingProblem {
  rows: number;
  vocabSize: number;
  dModel: number;
  /** 0: no adapter. */
  r: number;
  ids: ArrayLike<number>;
  W: ArrayLike<number>;
  loraA?: ArrayLike<number>;
  loraB?: ArrayLike<number>;
  scaling: number;
}

export function loraEmbedding(p: LoraEmbeddingProblem): Float64Array {
  const out = new Float64Array(p.rows * p.dModel);
  for (let i = 0; i < p.rows; i++) {
    const id = p.ids[i] as number;
    for (let j = 0; j < p.dModel; j++) {
      let update = 0;
      for (let k = 0; k < p.r; k++)
        update += (p.loraB?.[j * p.r + k] as number) * (p.loraA?.[k * p.vocabSize + id] as number);
      out[i * p.dModel + j] = (p.W[id * p.dModel + j] as number) + p.scaling * update;
    }
  }
  return out;
}

/** Gradients of sum(dout * out). */
export function loraEmbeddingGradients(
  p: LoraEmbeddingProblem,
  dout: ArrayLike<number>,
): { W: Float64Array; loraA: Float64Array; loraB: Float64Array } {
  const g = {
    W: new Float64Array(p.vocabSize * p.dModel),
    loraA: new Float64Array(p.r * p.vocabSize),
    loraB: new Float64Array(p.dModel * p.r),
  };
  for (let i = 0; i < p.rows; i++) {
    const id = p.ids[i] as number;
    for (let j = 0; j < p.dModel; j++) {
      const d = dout[i * p.dModel + j] as number;
      g.W[id * p.dModel + j] = (g.W[id * p.dModel + j] as number) + d;
      for (let k = 0; k < p.r; k++) {
        const [a, b] = [k * p.vocabSize + id, j * p.r + k];
        g.loraA[a] = (g.loraA[a] as number) + p.scaling * d * (p.loraB?.[b] as number);
        g.loraB[b] = (g.loraB[b] as number) + p.scaling * d * (p.loraA?.[a] as number);
      }
    }
  }
  return g;
}
