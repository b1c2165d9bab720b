/**
 * What a JavaScript or TypeScript function finds in nex.
 *
 * Put `/// <reference path="…/nex.d.ts" />` on top of the source for editors and `deno check`.
 */

/** Bytes as a function gives them: text is sent as UTF-8. */
type NexPayload = string | Uint8Array | ArrayBufferLike | ArrayBufferView;

/** Every value of each header by its name, as it was sent. */
interface NexHeaders {
  [name: string]: string[];
}

/** Headers as a function gives them. */
type NexHeadersInit = Record<string, string | number | readonly (string | number)[]> | [string, string][] | Headers;

/** What a function is told about a call besides its subject and payload. */
interface NexContext {
  /** Headers of the message that triggered the call. */
  readonly headers: NexHeaders;
  /** The workload that was called. */
  readonly workload: { readonly name: string; readonly namespace: string };
  /** When the call must be done: milliseconds since the epoch. */
  readonly deadline: number;
  /** The caller's W3C `traceparent`, if it sent one. */
  readonly trace: string | null;
  /** Headers of the reply. */
  replyHeaders: Record<string, string | readonly string[]>;
}

/** What a function may return: bytes and text as they are, nothing as nothing, everything else as JSON; or a promise of it. */
type NexResult = unknown;

/** A function: the value of a script, or the default export of a module. */
type NexHandler = (
  subject: string,
  payload: Uint8Array<ArrayBuffer>,
  context: NexContext,
) => NexResult;

/** Why a host service failed. */
type NexHostErrorCode =
  | "invalid"
  | "denied"
  | "conflict"
  | "too-large"
  | "quota"
  | "timeout"
  | "no-responders"
  | "unavailable"
  | "unsupported";

/** What every host service throws, or rejects with. */
declare class HostServiceError extends Error {
  constructor(service: string, method: string, code: NexHostErrorCode, message: string, retry?: boolean);
  /** `kv`, `objectStore`, `messaging` or `http`. */
  readonly service: string;
  /** The method that was called. */
  readonly method: string;
  /** Which way it failed. */
  readonly code: NexHostErrorCode;
  /** Whether the same call may succeed later. */
  readonly retry: boolean;
}

/** An HTTP response. Its JSON has the first three only. */
interface NexHttpResponse {
  readonly status: number;
  /** By `Canonical-Name` (and by its lower case); several values are joined with `, `. */
  readonly headers: { readonly [name: string]: string };
  /** The body as text. */
  readonly response: string;
  /** The body as bytes. */
  readonly body: Uint8Array<ArrayBuffer>;
  /** URL that answered, after redirects. */
  readonly url: string;
  /** The body as JSON. */
  // deno-lint-ignore no-explicit-any
  json(): any;
}

interface NexHttpOptions {
  headers?: NexHeadersInit;
  /** Longest wait, milliseconds; the call's deadline bounds it too. */
  timeout?: number;
}

/** A value, and the revision of its key for `kv.update`. */
type NexValue = Uint8Array<ArrayBuffer> & { readonly revision: number };

/** A change of a watched key. */
interface NexChange {
  readonly key: string;
  /** Null when the key was removed. */
  readonly value: Uint8Array<ArrayBuffer> | null;
  readonly revision: number;
  readonly deleted: boolean;
}

interface NexSetOptions {
  /** Milliseconds after which the key is gone, where the server supports it. */
  ttl?: number;
}

/** What is known of an object. */
interface NexObjectInfo {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  /** `SHA-256=` and base64url. */
  readonly digest?: string;
  /** When it was stored, RFC 3339. */
  readonly modified?: string;
}

/** A message's payload, with its headers. */
type NexMessage = Uint8Array<ArrayBuffer> & { readonly headers: NexHeaders };

interface NexPublishOptions {
  headers?: NexHeadersInit;
}

interface NexRequestOptions extends NexPublishOptions {
  /** Longest wait, milliseconds; the call's deadline bounds it too. */
  timeout?: number;
}

interface NexRequestManyOptions extends NexRequestOptions {
  /** Ends after so many answers. */
  max?: number;
  /** Ends when so many milliseconds after an answer no other came. */
  stall?: number;
}

interface NexHttp {
  get(url: string | URL, options: NexHttpOptions): NexHttpResponse;
  get(url: string | URL, body?: NexPayload | null, options?: NexHttpOptions): NexHttpResponse;
  post(url: string | URL, body?: NexPayload | null, options?: NexHttpOptions): NexHttpResponse;
  put(url: string | URL, body?: NexPayload | null, options?: NexHttpOptions): NexHttpResponse;
  patch(url: string | URL, body?: NexPayload | null, options?: NexHttpOptions): NexHttpResponse;
  delete(url: string | URL, options: NexHttpOptions): NexHttpResponse;
  delete(url: string | URL, body?: NexPayload | null, options?: NexHttpOptions): NexHttpResponse;
  del(url: string | URL, options: NexHttpOptions): NexHttpResponse;
  del(url: string | URL, body?: NexPayload | null, options?: NexHttpOptions): NexHttpResponse;
  head(url: string | URL, options: NexHttpOptions): NexHttpResponse;
  head(url: string | URL, body?: NexPayload | null, options?: NexHttpOptions): NexHttpResponse;
}

interface NexKv {
  /** The value of a key; null when there is none. */
  get(key: string): NexValue | null;
  set(key: string, value: NexPayload, options?: NexSetOptions): void;
  /** Sets a key that must not exist (else `conflict`); gives its revision. */
  create(key: string, value: NexPayload, options?: NexSetOptions): number;
  /** Sets a key that must be at this revision (else `conflict`); gives the new one. */
  update(key: string, value: NexPayload, revision: number): number;
  /** Removes a key, if there is one. */
  delete(key: string): void;
  exists(key: string): boolean;
  keys(): string[];
  /** Changes from now on, of keys that match; each step blocks until there is one. */
  watch(pattern?: string): IterableIterator<NexChange>;
}

interface NexObjectStore {
  /** An object; null when there is none. */
  get(name: string): Uint8Array<ArrayBuffer> | null;
  put(name: string, content: NexPayload): NexObjectInfo;
  /** Removes an object, if there is one. */
  delete(name: string): void;
  list(): NexObjectInfo[];
  /** What is known of an object; null when there is none. */
  info(name: string): NexObjectInfo | null;
}

interface NexMessaging {
  publish(subject: string, payload?: NexPayload | null, options?: NexPublishOptions): void;
  /** The first answer. */
  request(subject: string, payload?: NexPayload | null, options?: NexRequestOptions): NexMessage;
  /** Answers in the order they come, until one of the bounds is met. */
  requestMany(subject: string, payload?: NexPayload | null, options?: NexRequestManyOptions): NexMessage[];
}

/** The same methods, with promises; a watch is an async iterator. */
type NexAsync<Service> = {
  [Method in keyof Service]: Service[Method] extends {
    (...args: infer First): infer Result;
    (...args: infer Second): infer Result;
  } ? { (...args: Second): NexPromised<Result>; (...args: First): NexPromised<Result> }
    : never;
};

type NexPromised<Result> = Result extends IterableIterator<infer Item> & { next(): unknown }
  ? Result extends readonly unknown[] | Uint8Array ? Promise<Result> : AsyncIterableIterator<Item>
  : Promise<Result>;

interface NexServices {
  readonly http: NexHttp;
  readonly kv: NexKv;
  readonly objectStore: NexObjectStore;
  readonly messaging: NexMessaging;
}

/** The node's services. Those here block until the answer is there; those of `async` give promises. */
declare var hostServices: NexServices & {
  readonly async: { readonly [Service in keyof NexServices]: NexAsync<NexServices[Service]> };
};

/** The workload's environment; frozen. */
declare const env: { readonly [name: string]: string };
