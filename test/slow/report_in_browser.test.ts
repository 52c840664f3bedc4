// SPDX-License-Identifier: Apache-2.0
/** The report in Chromium: on a desk and on a phone, light and dark. Screenshots stay in build/report for a person to look at. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { selectBackend } from '../../src/backends/select.ts';
import { writeReport } from '../../src/logging/report/page.ts';
import { runTraining } from '../../trainer/index.ts';
import { bestBackend } from '../helpers/backends.ts';
import { findChromium, openPage, type View } from '../helpers/chromium.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { writeRun } from '../logging/report/run_files.ts';
import { tinyProject } from '../trainer/tiny_project.ts';

const chromium = findChromium();
const SCREENSHOTS = 'build/report';
const DESK: View = { width: 1280, height: 900 };
const PHONE: View = { width: 390, height: 844 };

interface Box {
  text: string;
  top: number;
  bottom: number;
  left: number;
  right: number;
}

/** Boxes of all elements that a selector finds. */
const boxes = (selector: string) =>
  `[...document.querySelectorAll(${JSON.stringify(selector)})].map((e) => { const { top, bottom, left, right } = e.getBoundingClientRect(); return { text: e.textContent, top, bottom, left, right }; })`;

/** A report of one made-up run, or of two. */
function writePage(name: 'one' | 'several'): string {
  mkdirSync(SCREENSHOTS, { recursive: true });
  const folder = temporaryFolder();
  const runs = [writeRun(join(folder, 'long-run'), { steps: 500, layers: 24 })];
  if (name === 'several') {
    runs.push(writeRun(join(folder, 'other-run'), { steps: 300, layers: 24, learningRate: 0.01 }));
  }
  const path = join(folder, 'page.html');
  writeReport(runs, path);
  return path;
}

async function open(path: string, view: View) {
  const page = await openPage(chromium as string, path, view);
  onTestFinished(() => page.close());
  return page;
}

describe.runIf(chromium)('the report in a browser', () => {
  it.each([
    ['one', 'desk-light', DESK],
    ['one', 'desk-dark', { ...DESK, dark: true }],
    ['one', 'phone', PHONE],
    ['several', 'desk-light', DESK],
    ['several', 'phone-dark', { ...PHONE, dark: true }],
  ] as const)('%s, %s: everything is there, in its place, and readable', async (name, look, view) => {
    const page = await open(writePage(name), view);
    writeFileSync(join(SCREENSHOTS, `${name}-${look}.png`), await page.screenshot());
    expect(page.errors).toEqual([]);
    expect(page.requests.filter((url) => !url.endsWith('.html'))).toEqual([]);

    const widths = await page.evaluate<[number, number]>('[document.documentElement.scrollWidth, innerWidth]');
    expect(widths[0], 'nothing reaches beyond the window').toBeLessThanOrEqual(widths[1]);
    const plots = await page.evaluate<Box[]>(boxes('.plot'));
    expect(plots).toHaveLength(name === 'one' ? 5 : 6);
    for (const plot of plots) {
      expect(plot.right - plot.left).toBeGreaterThan(230);
      expect(plot.bottom - plot.top).toBeGreaterThan(150);
    }
    const lines = await page.evaluate<Box[]>(boxes('.plot .line'));
    expect(lines.length).toBeGreaterThanOrEqual(8);
    for (const line of lines) {
      expect(line.right - line.left).toBeGreaterThan(100);
      const isInside = plots.some((plot) => line.top >= plot.top - 4 && line.bottom <= plot.bottom + 4);
      expect(isInside, 'a curve stays in its chart').toBe(true);
    }

    for (const selector of ['.plot i.y', '.plot i.x']) {
      const labels = await page.evaluate<Box[]>(boxes(selector));
      expect(labels.length).toBeGreaterThan(10);
      const isOver = (a: Box, b: Box) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
      const clashes = labels.flatMap((a, i) => labels.slice(i + 1).flatMap((b) => (isOver(a, b) ? [[a, b]] : [])));
      expect(clashes, selector).toEqual([]);
      for (const { left, right } of labels) {
        expect(left).toBeGreaterThanOrEqual(0);
        expect(right).toBeLessThanOrEqual(view.width);
      }
    }
    expect(await page.evaluate<string[]>(POOR_CONTRAST), 'text of poor contrast').toEqual([]);
    const paper = await page.evaluate<number>(`luminance(getComputedStyle(document.body).backgroundColor)`);
    expect(paper > 0.5).toBe(!('dark' in view));
  });

  it('shows the values under the pointer, and under the arrow keys', async () => {
    const page = await open(writePage('one'), DESK);
    const [plot] = await page.evaluate<Box[]>(boxes('.plot'));
    const { left, right, top } = plot as Box;
    await page.movePointer(left + 0.5 * (right - left), top + 50);
    const tip = () =>
      page.evaluate<string>(
        `[...document.querySelectorAll('.tip')].filter((e) => e.offsetWidth > 0).map((e) => e.innerText).join('|')`,
      );
    expect(await tip()).toMatch(/^step 250\s+training [\d.]+\s+evaluation [\d.]+$/);
    await page.movePointer(5, 5);
    expect(await tip()).toBe('');
    const key = (name: string) =>
      page.evaluate(`document.querySelector('.plot').dispatchEvent(new KeyboardEvent('keydown', { key: '${name}' }))`);
    await key('ArrowRight');
    expect(await tip()).toMatch(/^step 1\s+training/);
    await key('ArrowRight');
    expect(await tip()).toMatch(/^step 2\s+training/);
  });

  it('is there at the end of a real run', async () => {
    await selectBackend(bestBackend);
    const project = await tinyProject();
    await runTraining(project.config({ trainer: { logging_steps: 1 } }), { onMessage: () => {} });
    const page = await open(join(project.outputDir, 'report.html'), DESK);
    expect(page.errors).toEqual([]);
    const text = await page.evaluate<string>('document.body.innerText');
    for (const part of ['finished', 'Loss', 'Gradient norm', 'Throughput', 'Adapter norms', '14 of 14', 'embeddings']) {
      expect(text).toContain(part);
    }
    expect(await page.evaluate<number>(`document.querySelectorAll('.heat td').length`)).toBe(2 * 3 + 1);
  });
});

/** Texts whose contrast to what is behind them is below 3.5 : 1 (WCAG 2.2 asks 4.5 of small text and 3 of large). */
const POOR_CONTRAST = `
globalThis.rgb = (color) => { const c = document.createElement('canvas').getContext('2d', { willReadFrequently: true }); c.fillStyle = color; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; };
globalThis.luminance = (color) => { const [r, g, b] = rgb(color).map((v) => { const s = v / 255; return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
[...document.querySelectorAll('main *')].flatMap((element) => {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== '');
  if (!own || element.offsetWidth === 0 || ['SCRIPT', 'STYLE'].includes(element.tagName)) return [];
  let behind = element;
  while (behind !== document.documentElement && rgb(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
  const [a, b] = [luminance(getComputedStyle(element).color), luminance(getComputedStyle(behind).backgroundColor)];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  return contrast < 3.5 ? [element.className + ' ' + element.textContent.slice(0, 40) + ' ' + contrast.toFixed(2)] : [];
})`;
