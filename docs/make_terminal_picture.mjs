// SPDX-License-Identifier: Apache-2.0
// Draws what a terminal showed as an SVG:  npm run quickstart 2>&1 | node docs/make_terminal_picture.mjs > docs/quickstart.svg
import { readFileSync } from 'node:fs';
import { stripVTControlCharacters } from 'node:util';

const maxLines = 40;
const fontSize = 13;
const lineHeight = 18;
const charWidth = 7.83;
const margin = 16;
const titleBar = 30;

/** What is left on the screen of each line: a carriage return starts it over. */
function visibleLines(text) {
  const lines = stripVTControlCharacters(text)
    .trimEnd()
    .split('\n')
    .map((line) => line.trimEnd().split('\r').at(-1));
  if (lines.length <= maxLines) return lines;
  return [...lines.slice(0, maxLines / 2), '…', ...lines.slice(-maxLines / 2)];
}

const escapeXml = (text) => text.replace(/[&<>]/g, (char) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[char]);

const lines = visibleLines(readFileSync(0, 'utf8'));
const width = Math.ceil(2 * margin + charWidth * Math.max(60, ...lines.map((line) => line.length)));
const height = titleBar + 2 * margin + lineHeight * lines.length;
const rows = lines.map((line, index) => {
  const y = titleBar + margin + lineHeight * (index + 0.75);
  return `<text x="${margin}" y="${y}" xml:space="preserve">${escapeXml(line)}</text>`;
});
const dots = ['#ff5f57', '#febc2e', '#28c840'].map(
  (fill, i) => `<circle cx="${18 + 20 * i}" cy="15" r="6" fill="${fill}"/>`,
);

process.stdout.write(`<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">
<rect width="100%" height="100%" rx="8" fill="#1d1f21"/>
${dots.join('\n')}
<g fill="#e6e6e6" font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="${fontSize}">
${rows.join('\n')}
</g>
</svg>
`);
