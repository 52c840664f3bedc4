// SPDX-License-Identifier: Apache-2.0
/**
 * Files of Hugging Face Hub repositories, through @huggingface/hub into its standard cache (shared with Python's), and
 * from that cache when there is no network. HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE count.
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';
import {
  datasetInfo,
  downloadFileToCacheDir,
  getHFHubCachePath,
  getRepoFolderName,
  HubApiError,
  listFiles,
  modelInfo,
} from '@huggingface/hub';
import { messageOf, UserError } from './errors.ts';
import { fileError } from './files.ts';

export interface HubOptions {
  /** Branch, tag or commit, 'main'. */
  revision?: string;
  /** The cache's folder; by default HF_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub. */
  cacheDir?: string;
  /** By default HF_ENDPOINT or https://huggingface.co. */
  hubUrl?: string;
  /** Gets one line at a time about downloads and the use of cached copies. */
  onMessage?: (line: string) => void;
}

export interface RepoFilesRequest extends HubOptions {
  /** 'owner/name'. */
  repo: string;
  type: 'model' | 'dataset';
  /** Picks from the repository's paths those that are needed. */
  select: (paths: string[]) => string[];
}

export interface RepoFiles {
  /** The snapshot's folder; `files` lie in it under their own paths. */
  folder: string;
  /** The selected paths, relative to `folder`. */
  files: string[];
}

interface Repo {
  readonly id: { readonly type: 'model' | 'dataset'; readonly name: string };
  readonly revision: string;
  readonly hubUrl: string;
  readonly accessToken: string | undefined;
  readonly cacheDir: string;
  /** The repository's folder in the cache. */
  readonly cacheFolder: string;
}

const COMMIT = /^[0-9a-f]{40}$/;
const REPO_NAME = /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/;

/** Whether `text` has the form owner/name of a Hub repository. */
export function looksLikeRepo(text: string): boolean {
  return REPO_NAME.test(text) && !text.includes('..');
}

/**
 * Makes the selected files of a repository available in the local cache.
 *
 * Without a network the cached copy of the same revision is used, and `onMessage` told so.
 * @throws UserError when the repository, its revision or the network cannot be reached and there is no cached copy
 */
export async function resolveRepoFiles(request: RepoFilesRequest): Promise<RepoFiles> {
  const repo = describeRepo(request);
  const say = request.onMessage ?? (() => {});
  if (isOffline()) return cachedFiles(repo, request.select, 'HF_HUB_OFFLINE is set');
  try {
    return await fetchFiles(repo, request.select, say);
  } catch (error) {
    if (!isNetworkFailure(error)) throw hubError(error, repo);
    const reason = `${repo.hubUrl} cannot be reached (${networkReason(error)})`;
    const files = cachedFiles(repo, request.select, reason);
    say(`${repo.id.name}: ${reason}; using the copy cached in ${files.folder}`);
    return files;
  }
}

/**
 * The folder of a model: an existing folder as it is, otherwise the Hub repository of this name, fetched.
 *
 * @param pathOrRepo a folder, or owner/name
 * @param select which files of a repository to fetch; by default config, weights and tokenizer
 * @throws UserError naming both readings when it is neither
 */
export async function resolveModelFolder(
  pathOrRepo: string,
  options: HubOptions & { select?: (paths: string[]) => string[] } = {},
): Promise<string> {
  if (existsSync(pathOrRepo)) {
    if (statSync(pathOrRepo).isDirectory()) return pathOrRepo;
    throw new UserError(`${pathOrRepo} is a file; expected a model folder, or owner/name on the Hugging Face Hub.`);
  }
  if (!looksLikeRepo(pathOrRepo)) {
    throw new UserError(
      `${pathOrRepo}: there is no such folder, and it is no Hub name either (those look like owner/name). Check the path.`,
    );
  }
  const { select = selectModelFiles, ...hubOptions } = options;
  try {
    const { folder } = await resolveRepoFiles({ ...hubOptions, repo: pathOrRepo, type: 'model', select });
    return folder;
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    throw new UserError(
      `${pathOrRepo}: there is no such folder here, and as a Hub repository it could not be had: ${error.message}`,
      { cause: error },
    );
  }
}

/** Config, tokenizer, and one form of the weights: safetensors where there are any, else torch's. */
export function selectModelFiles(paths: string[]): string[] {
  const weightsOf = (stem: string, suffix: string) =>
    paths.filter((path) => new RegExp(`^${stem}(-\\d+-of-\\d+)?\\.${suffix}(\\.index\\.json)?$`).test(path));
  const safetensors = weightsOf('model', 'safetensors');
  const weights = safetensors.length > 0 ? safetensors : weightsOf('pytorch_model', 'bin');
  const configs = paths.filter((path) => path === 'config.json' || path === 'generation_config.json');
  return [...configs, ...selectTokenizerFiles(paths), ...weights];
}

/** config.json alone. */
export function selectConfigFile(paths: string[]): string[] {
  return paths.filter((path) => path === 'config.json');
}

/** The files a tokenizer is made from. */
export function selectTokenizerFiles(paths: string[]): string[] {
  const wanted = ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'chat_template.jinja'];
  return paths.filter((path) => wanted.includes(path));
}

function describeRepo({
  repo,
  type,
  revision = 'main',
  cacheDir = getHFHubCachePath(),
  hubUrl,
}: RepoFilesRequest): Repo {
  if (!looksLikeRepo(repo)) {
    throw new UserError(`${JSON.stringify(repo)} is no Hub repository name; expected owner/name.`);
  }
  if (!/^[\w.-]+(\/[\w.-]+)*$/.test(revision) || revision.split('/').includes('..')) {
    throw new UserError(
      `${JSON.stringify(revision)} is no revision of a Hub repository; expected a branch, tag or commit.`,
    );
  }
  const id = { type, name: repo };
  const accessToken = process.env.HF_TOKEN?.trim() || undefined;
  if (accessToken !== undefined && !accessToken.startsWith('hf_')) {
    throw new UserError('HF_TOKEN is no Hugging Face token: those begin with "hf_". Correct it, or unset it.');
  }
  const url = (hubUrl ?? process.env.HF_ENDPOINT ?? 'https://huggingface.co').replace(/\/+$/, '');
  return { id, revision, hubUrl: url, accessToken, cacheDir, cacheFolder: join(cacheDir, getRepoFolderName(id)) };
}

async function fetchFiles(
  repo: Repo,
  select: RepoFilesRequest['select'],
  say: (line: string) => void,
): Promise<RepoFiles> {
  const { id, hubUrl, accessToken, cacheDir, cacheFolder } = repo;
  const query = { name: id.name, revision: repo.revision, additionalFields: ['sha' as const], hubUrl, accessToken };
  const { sha } = await (id.type === 'model' ? modelInfo(query) : datasetInfo(query));
  if (!COMMIT.test(sha)) throw new UserError(`${hubUrl} gave no commit for ${id.name}; is it a Hugging Face Hub?`);

  const sizes = new Map<string, number>();
  for await (const entry of listFiles({ repo: id, revision: sha, recursive: true, hubUrl, accessToken })) {
    if (entry.type === 'file') sizes.set(entry.path, entry.size);
  }
  const files = select([...sizes.keys()]);
  const folder = join(cacheFolder, 'snapshots', sha);
  for (const path of files) {
    const size = sizes.get(path) ?? 0;
    await oneAtATime(async () => {
      if (existsSync(join(folder, path))) return;
      say(`${id.name}: fetching ${path} (${formatBytes(size)})`);
      const local = await downloadFileToCacheDir({ repo: id, path, revision: sha, cacheDir, hubUrl, accessToken });
      checkDownloadedSize(local, size, `${id.name}: ${path}`);
    });
  }
  rememberRevision(repo, sha);
  return { folder, files };
}

let downloads: Promise<unknown> = Promise.resolve();

/**
 * Runs downloads one after the other: two of the same file would write to one temporary name, and the library reports
 * on console.debug and console.info, which is stdout, where only results belong.
 */
function oneAtATime(download: () => Promise<void>): Promise<void> {
  const run = downloads.then(async () => {
    const { debug, info } = console;
    Object.assign(console, { debug: () => {}, info: () => {} });
    try {
      await download();
    } finally {
      Object.assign(console, { debug, info });
    }
  });
  downloads = run.catch(() => {});
  return run;
}

function checkDownloadedSize(path: string, expected: number, what: string): void {
  const { size } = statSync(path);
  if (size === expected) return;
  rmSync(realpathSync(path));
  rmSync(path, { force: true });
  throw new UserError(`${what} came with ${size} bytes, expected ${expected}. It was removed: try again.`);
}

/** Written last, so that a name in refs/ stands for a snapshot that was fetched. */
function rememberRevision({ cacheFolder, revision }: Repo, sha: string): void {
  if (revision === sha) return;
  const path = join(cacheFolder, 'refs', revision);
  try {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, sha);
  } catch (error) {
    throw fileError(error, path, 'write');
  }
}

function cachedFiles(repo: Repo, select: RepoFilesRequest['select'], reason: string): RepoFiles {
  const { cacheFolder, revision, id } = repo;
  const refPath = join(cacheFolder, 'refs', revision);
  const commit = COMMIT.test(revision) || !existsSync(refPath) ? revision : readFileSync(refPath, 'utf8').trim();
  const folder = join(cacheFolder, 'snapshots', commit);
  if (!COMMIT.test(commit) || !existsSync(folder)) {
    throw new UserError(
      `${reason}, and ${id.name} (${revision}) is not in the cache ${repo.cacheDir}. Connect once to fetch it, or give the path of a local copy.`,
    );
  }
  const paths = readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((path) => statSync(join(folder, path), { throwIfNoEntry: false })?.isFile())
    .map((path) => path.split(sep).join('/'));
  const files = select(paths.sort());
  if (files.length === 0) {
    throw new UserError(
      `${reason}, and the cached copy of ${id.name} (${relative(process.cwd(), folder) || folder}) lacks the files that are needed. Connect once to fetch them.`,
    );
  }
  return { folder, files };
}

function isOffline(): boolean {
  return ['1', 'true', 'yes', 'on'].includes((process.env.HF_HUB_OFFLINE ?? '').toLowerCase());
}

/** Whether the request got no answer, or one that says the server is down. */
function isNetworkFailure(error: unknown): boolean {
  if (error instanceof HubApiError) return error.statusCode >= 500;
  return error instanceof TypeError && /fetch failed|terminated/.test(error.message);
}

function networkReason(error: unknown): string {
  if (error instanceof HubApiError) return `status ${error.statusCode}`;
  const cause = error instanceof Error ? error.cause : undefined;
  if (cause instanceof Error && 'code' in cause) return String(cause.code);
  return messageOf(cause ?? error);
}

function hubError(error: unknown, repo: Repo): unknown {
  const what = `${repo.id.type} ${repo.id.name}`;
  if (error instanceof HubApiError) {
    const { statusCode } = error;
    if (statusCode === 401 || statusCode === 403) {
      return new UserError(
        `${repo.hubUrl} does not give access to the ${what} (status ${statusCode}). It does not exist, or is private or gated: accept its terms on its page and set HF_TOKEN to a token that may read it.`,
      );
    }
    if (statusCode === 404) {
      return new UserError(
        `${repo.hubUrl} has no ${what} with the revision ${repo.revision} (status 404). Check the name.`,
      );
    }
    return new UserError(`${repo.hubUrl} refused the ${what}: ${error.message}`, { cause: error });
  }
  return fileError(error, repo.cacheFolder, 'write');
}

function formatBytes(bytes: number): string {
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(1)} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}
