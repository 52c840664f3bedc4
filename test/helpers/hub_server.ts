// SPDX-License-Identifier: Apache-2.0
/** A Hugging Face Hub on 127.0.0.1: the endpoints that @huggingface/hub uses to read repositories. */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** Files of a repository by path. */
export type HubRepo = Record<string, Buffer | string>;

export interface HubServer {
  readonly url: string;
  /** The commit every repository has as its main branch. */
  readonly commit: string;
  /** 'METHOD /path' of every request so far. */
  readonly requests: string[];
  /** When set, files come with these many bytes only. */
  truncateTo: number | undefined;
  close(): Promise<void>;
}

const COMMIT = '0123456789abcdef0123456789abcdef01234567';
const PAGE = 2;

interface Served {
  readonly path: string;
  readonly bytes: Buffer;
  readonly oid: string;
}

/**
 * Starts a Hub that serves `repos` ('owner/name' for models, 'datasets/owner/name' for datasets), each with one commit
 * on main. File lists come in pages of two, files over 1,000 bytes as LFS files. A repository named private/… wants a
 * token.
 */
export async function startHubServer(repos: Record<string, HubRepo>): Promise<HubServer> {
  const requests: string[] = [];
  const state = { truncateTo: undefined as number | undefined };
  const server = createServer((request, response) => {
    requests.push(`${request.method} ${request.url}`);
    handle(repos, state, request, response).catch((error: unknown) => response.destroy(error as Error));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    url,
    commit: COMMIT,
    requests,
    get truncateTo() {
      return state.truncateTo;
    },
    set truncateTo(bytes) {
      state.truncateTo = bytes;
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function handle(
  repos: Record<string, HubRepo>,
  state: { truncateTo: number | undefined },
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const url = new URL(request.url ?? '/', `http://${request.headers.host}`);
  const path = decodeURIComponent(url.pathname);
  const api = /^\/api\/(models|datasets)\/([^/]+\/[^/]+)\/(revision|tree|paths-info)\/([^/]+)/.exec(path);
  const file = /^\/(datasets\/)?([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(path);
  const [kind, name, revision] = api
    ? [api[1], api[2], api[4]]
    : [file?.[1] ? 'datasets' : 'models', file?.[2], file?.[3]];
  const repo = repos[kind === 'datasets' ? `datasets/${name}` : String(name)];

  if (!repo) return sendJson(response, 404, { error: 'Repository not found' });
  if (name?.startsWith('private/') && request.headers.authorization !== 'Bearer hf_good') {
    return sendJson(response, 401, { error: 'Invalid credentials' });
  }
  if (revision !== 'main' && revision !== COMMIT) return sendJson(response, 404, { error: 'Invalid rev id' });
  const files = Object.entries(repo).map(([filePath, data]) => serve(filePath, data));
  if (file)
    return sendFile(
      request,
      response,
      files.find((item) => item.path === file[4]),
      state.truncateTo,
    );
  if (api?.[3] === 'revision') return sendJson(response, 200, { _id: '1', id: name, sha: COMMIT, private: false });
  if (api?.[3] === 'tree') return sendPage(url, response, files);
  const { paths } = JSON.parse(await readBody(request)) as { paths: string[] };
  const wanted = files.filter((item) => paths.includes(item.path));
  sendJson(
    response,
    200,
    wanted.map((item) => ({ ...describe(item), lastCommit: { id: COMMIT, title: 'first', date: '2026-01-01' } })),
  );
}

function serve(path: string, data: Buffer | string): Served {
  const bytes = Buffer.from(data);
  return { path, bytes, oid: createHash('sha256').update(bytes).digest('hex') };
}

function describe({ path, bytes, oid }: Served): Record<string, unknown> {
  const lfs = bytes.length > 1000 ? { lfs: { oid, size: bytes.length, pointerSize: 130 } } : {};
  return { type: 'file', path, size: bytes.length, oid: oid.slice(0, 40), ...lfs };
}

function sendPage(url: URL, response: ServerResponse, files: Served[]): void {
  const start = Number(url.searchParams.get('cursor') ?? 0);
  if (start + PAGE < files.length) {
    url.searchParams.set('cursor', String(start + PAGE));
    response.setHeader('Link', `<${url.href}>; rel="next"`);
  }
  sendJson(response, 200, files.slice(start, start + PAGE).map(describe));
}

function sendFile(
  request: IncomingMessage,
  response: ServerResponse,
  file: Served | undefined,
  truncateTo: number | undefined,
): void {
  if (!file) {
    response.setHeader('X-Error-Code', 'EntryNotFound');
    sendJson(response, 404, { error: 'Entry not found' });
    return;
  }
  const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
  const [start, end] = range ? [Number(range[1]), Number(range[2]) + 1] : [0, truncateTo ?? file.bytes.length];
  response.writeHead(range ? 206 : 200, {
    'Content-Type': 'application/octet-stream',
    'X-Repo-Commit': COMMIT,
    ETag: `"${file.oid}"`,
    'Accept-Ranges': 'bytes',
    ...(range && { 'Content-Range': `bytes ${start}-${end - 1}/${file.bytes.length}` }),
  });
  response.end(request.method === 'HEAD' ? undefined : file.bytes.subarray(start, end));
}

function sendJson(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'Content-Type': 'application/json' });
  response.end(JSON.stringify(body));
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}
