// SPDX-License-Identifier: Apache-2.0
/** Numbers for people to read. */
import { expect, it } from 'vitest';
import { formatBytes, formatCount, formatDuration, formatNumber } from '../../src/logging/format.ts';

it('formats counts, bytes, durations and numbers', () => {
  expect([0, 999, 1234567].map(formatCount)).toEqual(['0', '999', '1,234,567']);
  expect([0, 1023, 1024, 1.5 * 2 ** 20, 123.4 * 2 ** 30].map(formatBytes)).toEqual([
    '0 B',
    '1023 B',
    '1.00 KiB',
    '1.50 MiB',
    '123 GiB',
  ]);
  expect([0, 9.94, 9.96, 59.4, 59.6, 65, 3599.6, 7384].map(formatDuration)).toEqual([
    '0.0s',
    '9.9s',
    '10s',
    '59s',
    '1:00',
    '1:05',
    '1:00:00',
    '2:03:04',
  ]);
  expect(formatDuration(Number.POSITIVE_INFINITY)).toBe('-');
  expect([0, 0.002, 1.2345, 45.67, 999.4, 12345.6, -0.00001234, 2e-4, Number.NaN].map(formatNumber)).toEqual([
    '0',
    '0.002',
    '1.23',
    '45.7',
    '999',
    '12,346',
    '-1.23e-5',
    '2e-4',
    'NaN',
  ]);
});
