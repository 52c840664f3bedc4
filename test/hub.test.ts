// SPDX-License-Identifier: Apache-2.0
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { UserError } from '../src/errors.ts';
import { looksLikeRepo, resolveModelFolder, resolveRepoFiles, selectModelFiles } from '../src/hub.ts';
import { type HubRepo, startHubServer } from './helpers/hub_server.ts';
import { temporaryFolder } from './helpers/temporary_folder.ts';

const MODEL: HubRepo = {
  'README.md': '# card',
  'config.json': '{"model_type":"mamba"}',
  'model.safetensors': Buffer.alloc(5000, 7),
  'onnx/model.onnx': 'not wanted',
  'pytorch_model.bin': 'not wanted either',
  'tokenizer.json': '{}',
};

async function startHub(repos: Record<string, HubRepo>) {
  const server = await startHubServer(repos);
  const closeOnce = { done: false };
  const close = async () => {
    if (!closeOnce.done) await server.close();
    closeOnce.done = true;
  };
  onTestFinished(close);
  return { server, close, options: { hubUrl: server.url, cacheDir: temporaryFolder() } };
}

function setEnvironment(name: string, value: string): void {
  vi.stubEnv(name, value);
  onTestFinished(() => {
    vi.unstubAllEnvs();
  });
}

test('a model is fetched into the standard cache layout, once', async () => {
  const { server, options } = await startHub({ 'owner/model': MODEL });
  const messages: string[] = [];
  const debug = vi.spyOn(console, 'debug');
  onTestFinished(() => debug.mockRestore());
  const folder = await resolveModelFolder('owner/model', { ...options, onMessage: (line) => messages.push(line) });
  const cache = join(options.cacheDir, 'models--owner--model');
  expect(folder).toBe(join(cache, 'snapshots', server.commit));
  expect(readdirSync(folder).sort()).toEqual(['config.json', 'model.safetensors', 'tokenizer.json']);
  expect(readFileSync(join(folder, 'model.safetensors')).equals(Buffer.alloc(5000, 7))).toBe(true);
  expect(readFileSync(join(cache, 'refs/main'), 'utf8')).toBe(server.commit);
  expect(readdirSync(join(cache, 'blobs'))).toHaveLength(3);
  expect(messages).toContain('owner/model: fetching model.safetensors (5.0 kB)');
  expect(debug).not.toHaveBeenCalled();

  const before = server.requests.length;
  expect(await resolveModelFolder('owner/model', options)).toBe(folder);
  const later = server.requests.slice(before);
  expect(later.filter((line) => line.includes('/resolve/'))).toEqual([]);
  // Six files in pages of two.
  expect(later.filter((line) => line.includes('/tree/'))).toHaveLength(3);
});

test('two requests at once fetch a file once', async () => {
  const { server, options } = await startHub({ 'owner/model': MODEL });
  const folders = await Promise.all([
    resolveModelFolder('owner/model', options),
    resolveModelFolder('owner/model', options),
  ]);
  expect(folders[0]).toBe(folders[1]);
  const probes = server.requests.filter((line) => line.endsWith('/model.safetensors'));
  expect(probes).toHaveLength(2);
});

test('a dataset, and a commit as revision', async () => {
  const { server, options } = await startHub({
    'datasets/owner/quotes': { 'quotes.jsonl': '{"quote":"x"}\n', 'b/c.txt': '' },
  });
  const { folder, files } = await resolveRepoFiles({
    ...options,
    repo: 'owner/quotes',
    type: 'dataset',
    revision: server.commit,
    select: (paths) => paths.filter((path) => path.endsWith('.jsonl')),
  });
  expect(files).toEqual(['quotes.jsonl']);
  expect(readFileSync(join(folder, 'quotes.jsonl'), 'utf8')).toBe('{"quote":"x"}\n');
  expect(folder).toContain('datasets--owner--quotes');
});

test('without the network the cached copy is used, and said so in one line', async () => {
  const { close, options } = await startHub({ 'owner/model': MODEL });
  const folder = await resolveModelFolder('owner/model', options);
  await close();
  const messages: string[] = [];
  expect(await resolveModelFolder('owner/model', { ...options, onMessage: (line) => messages.push(line) })).toBe(
    folder,
  );
  expect(messages).toHaveLength(1);
  // Which of the two depends on whether a connection was still open.
  expect(messages[0]?.replace('UND_ERR_SOCKET', 'ECONNREFUSED')).toBe(
    `owner/model: ${options.hubUrl} cannot be reached (ECONNREFUSED); using the copy cached in ${folder}`,
  );
});

test('without the network and without a copy, what to do', async () => {
  const { close, options } = await startHub({});
  await close();
  const failing = resolveModelFolder('owner/model', options);
  await expect(failing).rejects.toThrow(UserError);
  await expect(failing).rejects.toThrow(
    `owner/model: there is no such folder here, and as a Hub repository it could not be had: ${options.hubUrl} cannot be reached (ECONNREFUSED), and owner/model (main) is not in the cache ${options.cacheDir}. Connect once to fetch it, or give the path of a local copy.`,
  );
});

test('HF_HUB_OFFLINE asks nobody', async () => {
  const { server, options } = await startHub({ 'owner/model': MODEL });
  const folder = await resolveModelFolder('owner/model', options);
  setEnvironment('HF_HUB_OFFLINE', '1');
  const before = server.requests.length;
  expect(await resolveModelFolder('owner/model', options)).toBe(folder);
  expect(server.requests).toHaveLength(before);
  await expect(resolveModelFolder('owner/other', options)).rejects.toThrow(
    'HF_HUB_OFFLINE is set, and owner/other (main) is not in the cache',
  );
  const onlyOnnx = resolveRepoFiles({
    ...options,
    repo: 'owner/model',
    type: 'model',
    select: (paths) => paths.filter((path) => path.includes('onnx')),
  });
  await expect(onlyOnnx).rejects.toThrow('lacks the files that are needed');
});

test('HF_ENDPOINT, HF_HUB_CACHE and HF_TOKEN count', async () => {
  const { server, options } = await startHub({ 'private/model': MODEL });
  await expect(resolveModelFolder('private/model', options)).rejects.toThrow(
    'does not give access to the model private/model (status 401). It does not exist, or is private or gated',
  );
  setEnvironment('HF_ENDPOINT', server.url);
  setEnvironment('HF_HUB_CACHE', options.cacheDir);
  setEnvironment('HF_TOKEN', 'hf_good');
  expect(await resolveModelFolder('private/model')).toContain(options.cacheDir);
  setEnvironment('HF_TOKEN', 'secret');
  await expect(resolveModelFolder('private/model')).rejects.toThrow(
    'HF_TOKEN is no Hugging Face token: those begin with "hf_".',
  );
});

test('an unknown repository or revision', async () => {
  const { server, options } = await startHub({ 'owner/model': MODEL });
  await expect(resolveModelFolder('owner/none', options)).rejects.toThrow(
    `${server.url} has no model owner/none with the revision main (status 404).`,
  );
  await expect(resolveModelFolder('owner/model', { ...options, revision: 'v9' })).rejects.toThrow(
    'with the revision v9 (status 404)',
  );
  expect(existsSync(join(options.cacheDir, 'models--owner--model'))).toBe(false);
  await expect(resolveModelFolder('owner/model', { ...options, revision: '../../x' })).rejects.toThrow(
    '"../../x" is no revision of a Hub repository; expected a branch, tag or commit.',
  );
});

test('a file that comes too short is removed', async () => {
  const { server, options } = await startHub({ 'owner/model': MODEL });
  server.truncateTo = 10;
  await expect(resolveModelFolder('owner/model', options)).rejects.toThrow(
    'config.json came with 10 bytes, expected 22. It was removed: try again.',
  );
  server.truncateTo = undefined;
  const folder = await resolveModelFolder('owner/model', options);
  expect(readFileSync(join(folder, 'config.json'), 'utf8')).toBe(MODEL['config.json']);
});

test('a repository cannot place files outside the cache', async () => {
  const { options } = await startHub({ 'owner/model': { '../../evil.json': 'x' } });
  const failing = resolveRepoFiles({ ...options, repo: 'owner/model', type: 'model', select: (paths) => paths });
  await expect(failing).rejects.toThrow('cannot contain a ".." path segment');
  expect(readdirSync(options.cacheDir, { recursive: true }).filter((name) => String(name).includes('evil'))).toEqual(
    [],
  );
});

test('an existing folder is used as it is; anything else is told', async () => {
  const folder = temporaryFolder();
  expect(await resolveModelFolder(folder)).toBe(folder);
  writeFileSync(join(folder, 'file'), '');
  await expect(resolveModelFolder(join(folder, 'file'))).rejects.toThrow(
    'is a file; expected a model folder, or owner/name',
  );
  await expect(resolveModelFolder('./models/none')).rejects.toThrow(
    './models/none: there is no such folder, and it is no Hub name either (those look like owner/name). Check the path.',
  );
});

test('what a repository name looks like', () => {
  expect(['state-spaces/mamba-130m-hf', 'Abirate/english_quotes', 'a/b.c'].every(looksLikeRepo)).toBe(true);
  expect(['mamba', '/a/b', './a', 'a/b/c', '../b', 'a/..', 'a/b..c', '~/m', 'a b/c'].some(looksLikeRepo)).toBe(false);
});

test('one form of the weights is fetched', () => {
  const rest = ['config.json', 'tokenizer.json', 'README.md'];
  const shards = [
    'model-00001-of-00002.safetensors',
    'model-00002-of-00002.safetensors',
    'model.safetensors.index.json',
  ];
  expect(selectModelFiles([...rest, ...shards, 'pytorch_model.bin'])).toEqual([
    'config.json',
    'tokenizer.json',
    ...shards,
  ]);
  expect(selectModelFiles([...rest, 'pytorch_model.bin', 'x/model.safetensors'])).toEqual([
    'config.json',
    'tokenizer.json',
    'pytorch_model.bin',
  ]);
});
