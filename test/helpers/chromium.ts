// SPDX-License-Identifier: Apache-2.0
/** A headless Chromium that shows one page, spoken to over its DevTools pipe; so that tests see what a reader sees. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import type { Readable, Writable } from 'node:stream';
import { pathToFileURL } from 'node:url';
import { temporaryFolder } from './temporary_folder.ts';

const NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'chrome'];

export interface View {
  width: number;
  height: number;
  dark?: boolean;
}

export interface Page {
  /** The value of a JavaScript expression in the page. @throws what it throws */
  evaluate<T>(expression: string): Promise<T>;
  /** Moves the pointer to a place of the window. */
  movePointer(x: number, y: number): Promise<void>;
  /** PNG of the whole page. */
  screenshot(): Promise<Buffer>;
  /** What the page asked for beside itself, and what went wrong in it. */
  readonly requests: readonly string[];
  readonly errors: readonly string[];
  close(): Promise<void>;
}

/** Command of an installed Chromium; undefined, with a banner on stderr, when there is none. */
export function findChromium(): string | undefined {
  const found = NAMES.find((name) => spawnSync(name, ['--version']).status === 0);
  if (found === undefined) {
    const line = '='.repeat(100);
    process.stderr.write(
      `\n${line}\nBROWSER TESTS RAN NOTHING: found none of ${NAMES.join(', ')} on the PATH\n${line}\n\n`,
    );
  }
  return found;
}

type Message = { id?: number; method?: string; params?: unknown; result?: unknown; error?: { message: string } };

/** Opens a file. Call inside a test. */
export async function openPage(chromium: string, path: string, { width, height, dark = false }: View): Promise<Page> {
  const child = spawn(
    chromium,
    [
      '--headless=new',
      '--no-sandbox',
      '--disable-gpu',
      '--remote-debugging-pipe',
      `--user-data-dir=${temporaryFolder()}`,
    ],
    { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] },
  );
  const requests: string[] = [];
  const errors: string[] = [];
  let loaded = () => {};
  const browser = connect(child, ({ method, params }) => {
    const text = JSON.stringify(params);
    if (method === 'Network.requestWillBeSent') requests.push(JSON.parse(text).request.url);
    if (method === 'Runtime.exceptionThrown' || method === 'Log.entryAdded') errors.push(text);
    if (method === 'Page.loadEventFired') loaded();
  });
  const { targetId } = await browser.send<{ targetId: string }>('Target.createTarget', { url: 'about:blank' });
  const { sessionId } = await browser.send<{ sessionId: string }>('Target.attachToTarget', { targetId, flatten: true });
  const send = <T>(method: string, params: object = {}) => browser.send<T>(method, params, sessionId);
  for (const domain of ['Page', 'Runtime', 'Network', 'Log']) await send(`${domain}.enable`);
  await send('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: width < 600 });
  const features = [{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }];
  await send('Emulation.setEmulatedMedia', { features });
  const url = pathToFileURL(path).href;
  const whenLoaded = new Promise<void>((resolve) => {
    loaded = resolve;
  });
  await send('Page.navigate', { url });
  await whenLoaded;
  return {
    evaluate: async <T>(expression: string) => {
      const { result, exceptionDetails } = await send<{ result: { value: T }; exceptionDetails?: { text: string } }>(
        'Runtime.evaluate',
        { expression, returnByValue: true, awaitPromise: true },
      );
      if (exceptionDetails) throw new Error(`${expression}: ${JSON.stringify(exceptionDetails)}`);
      return result.value;
    },
    movePointer: (x, y) => send('Input.dispatchMouseEvent', { type: 'mouseMoved', x, y }),
    screenshot: async () => {
      const { data } = await send<{ data: string }>('Page.captureScreenshot', { captureBeyondViewport: true });
      return Buffer.from(data, 'base64');
    },
    requests,
    errors,
    close: async () => {
      const ended = once(child, 'exit');
      await browser.send('Browser.close', {});
      await ended;
    },
  };
}

/** Commands and events, each a JSON text with a zero byte after it. */
function connect(child: ChildProcess, onEvent: (message: Message) => void) {
  const [, , , input, output] = child.stdio as [null, null, null, Writable, Readable];
  const waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  let lastId = 0;
  let rest = '';
  output.setEncoding('utf8').on('data', (chunk: string) => {
    const texts = (rest + chunk).split('\0');
    rest = texts.pop() ?? '';
    for (const message of texts.map((text) => JSON.parse(text) as Message)) {
      const caller = waiting.get(message.id ?? -1);
      if (!caller) onEvent(message);
      else if (message.error) caller.reject(new Error(message.error.message));
      else caller.resolve(message.result);
    }
  });
  return {
    send: <T>(method: string, params: object, sessionId?: string) =>
      new Promise<T>((resolve, reject) => {
        const id = ++lastId;
        waiting.set(id, { resolve: resolve as (value: unknown) => void, reject });
        input.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
      }),
  };
}
