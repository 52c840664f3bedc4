// SPDX-License-Identifier: Apache-2.0
/** HTML as text, in which every value is escaped unless it is HTML itself. */

/** A piece of HTML that is safe to put into a page. */
export interface Html {
  readonly html: string;
}

type Piece = Html | string | number | null | undefined | readonly Piece[];

/** Template tag: strings are escaped, `Html` and lists of it are put in as they are, null and undefined are left out. */
export function html(parts: TemplateStringsArray, ...values: readonly Piece[]): Html {
  return { html: parts.reduce((text, part, i) => text + toText(values[i - 1]) + part) };
}

/** Text that is HTML already. */
export function raw(text: string): Html {
  return { html: text };
}

/** JSON that may stand inside a script element. */
export function jsonForScript(value: unknown): Html {
  return raw(JSON.stringify(value).replace(/</g, '\\u003c'));
}

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

function toText(piece: Piece): string {
  if (piece === null || piece === undefined) return '';
  if (typeof piece === 'string') return piece.replace(/[&<>"']/g, (letter) => ENTITIES[letter] as string);
  if (typeof piece === 'number') return String(piece);
  return isList(piece) ? piece.map(toText).join('') : piece.html;
}

function isList(piece: Html | readonly Piece[]): piece is readonly Piece[] {
  return Array.isArray(piece);
}
