// SPDX-License-Identifier: Apache-2.0
/** What native/cuda/allocator.cu says first when the card has no more memory. */
const BEGINNING = 'out of memory on the GPU';

/** Whether an error is the device's that its memory is full. What was computed before stays valid, and work that needs less can go on. */
export function isOutOfMemory(error: unknown): error is Error {
  return error instanceof Error && error.message.includes(BEGINNING);
}
