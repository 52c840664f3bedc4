// SPDX-License-Identifier: Apache-2.0
/** Numerical gradients. */

/**
 * Gradient of a scalar function by the five-point stencil, whose error falls with the fourth power of the step.
 * @param step distance of the inner points
 */
export function numericalGradient(f: (x: Float64Array) => number, x: ArrayLike<number>, step: number): Float64Array {
  const point = Float64Array.from(x);
  const gradient = new Float64Array(point.length);
  for (let i = 0; i < point.length; i++) {
    const centre = point[i] as number;
    const valueAt = (distance: number) => {
      point[i] = centre + distance * step;
      return f(point);
    };
    gradient[i] = (8 * (valueAt(1) - valueAt(-1)) - (valueAt(2) - valueAt(-2))) / (12 * step);
    point[i] = centre;
  }
  return gradient;
}
