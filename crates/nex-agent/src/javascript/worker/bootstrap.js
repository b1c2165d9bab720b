// The JavaScript side of a function: loads the source, runs calls, answers in frames. See `javascript/protocol.rs`
// for the frames. The agent is heard on a socket of its own, for a read of stdin costs the waking of another thread;
// stdin, which can be read by blocking, has the answers to calls that block; what is said here goes to stdout. The files
// of this folder are one module, in the order that `javascript/deno.rs` names.
//
// Nothing here is a security border: the function shares this realm and may change anything in it. What protects the
// node is outside: Deno runs without a single permission once the function's first line runs, the process is bounded
// by the agent, and the agent believes nothing that comes out of it. What is taken from `Deno` and from the
// prototypes is taken before that line, so that a function (or a polyfill) that changes them breaks only itself.

const KIND = {
  load: 1,
  call: 2,
  ping: 3,
  hostReply: 4,
  hostEvent: 5,
  direct: 6,
  loaded: 65,
  refused: 66,
  outcome: 67,
  yielded: 68,
  pong: 69,
  log: 70,
  hostCall: 71,
  hostCancel: 72,
  hostMore: 73,
  ready: 74,
};
const PREFIX = 4;
const FIXED = 1 + 8 + 4;
// One log frame carries at most so many characters; the agent splits further, by lines.
const LOG_TEXT = 16 * 1024;
const FAILURE_TEXT = 4 * 1024;
// Turns of the microtask queue an async function has before the agent is told that it waits for something. One that
// only awaits what is there already then costs a single frame.
const TURNS = 8;

// ---------------------------------------------------------------- what the function may change later

const uncurry = Function.prototype.bind.bind(Function.prototype.call);
const descriptorOf = Object.getOwnPropertyDescriptor;
const getterOf = (prototype, name) => uncurry(descriptorOf(prototype, name).get);

const { apply } = Reflect;
const { create, defineProperty, entries, freeze, keys, hasOwn } = Object;
const { parse, stringify } = JSON;
const { isArray } = Array;
const { isFinite, isSafeInteger } = Number;
const { min, trunc } = Math;
const { isView } = ArrayBuffer;
const ThePromise = Promise;
const TheMap = Map;
const TheError = Error;
const toBigInt = BigInt;
const toText = String;
const indirectEval = eval;

const TypedArray = Object.getPrototypeOf(Uint8Array);
const lengthOf = getterOf(TypedArray.prototype, "length");
const typeOf = getterOf(TypedArray.prototype, Symbol.toStringTag);
const setBytes = uncurry(TypedArray.prototype.set);
const copyWithin = uncurry(TypedArray.prototype.copyWithin);
const viewParts = (prototype) => ["buffer", "byteOffset", "byteLength"].map((name) => getterOf(prototype, name));
const [arrayBuffer, arrayOffset, arrayBytes] = viewParts(TypedArray.prototype);
const [dataBuffer, dataOffset, dataBytes] = viewParts(DataView.prototype);
const getUint8 = uncurry(DataView.prototype.getUint8);
const getUint32 = uncurry(DataView.prototype.getUint32);
const getBigUint64 = uncurry(DataView.prototype.getBigUint64);
const setUint8 = uncurry(DataView.prototype.setUint8);
const setUint32 = uncurry(DataView.prototype.setUint32);
const setBigUint64 = uncurry(DataView.prototype.setBigUint64);
const TheBytes = Uint8Array;
const TheView = DataView;
const TheBuffer = ArrayBuffer;
const TheSharedBuffer = SharedArrayBuffer;

const push = uncurry(Array.prototype.push);
const shift = uncurry(Array.prototype.shift);
const join = uncurry(Array.prototype.join);
const mapGet = uncurry(Map.prototype.get);
const mapSet = uncurry(Map.prototype.set);
const mapDelete = uncurry(Map.prototype.delete);
const eachOf = uncurry(Map.prototype.forEach);
const slice = uncurry(String.prototype.slice);
const endsWith = uncurry(String.prototype.endsWith);
const includes = uncurry(String.prototype.includes);
const indexOf = uncurry(String.prototype.indexOf);
const lastIndexOf = uncurry(String.prototype.lastIndexOf);
const charCodeAt = uncurry(String.prototype.charCodeAt);
const toLowerCase = uncurry(String.prototype.toLowerCase);
const toUpperCase = uncurry(String.prototype.toUpperCase);
const split = uncurry(String.prototype.split);
const replace = uncurry(String.prototype.replace);
const replaceAll = uncurry(String.prototype.replaceAll);
const toWellFormed = uncurry(String.prototype.toWellFormed);
const test = uncurry(RegExp.prototype.test);
const encodeText = uncurry(TextEncoder.prototype.encode);
const encodeInto = uncurry(TextEncoder.prototype.encodeInto);
const decodeText = uncurry(TextDecoder.prototype.decode);
const encoder = new TextEncoder();
const decoder = new TextDecoder();
const EMPTY = new Uint8Array(0);
const NONE = Object.freeze(Object.create(null));

const encode = (text) => encodeText(encoder, text);
const decode = (bytes) => decodeText(decoder, bytes);

// With these two fixed, `await` on a promise of this realm never looks at what the function made of `then`.
defineProperty(Promise.prototype, "constructor", { value: Promise, writable: false, configurable: false });
defineProperty(Promise, Symbol.species, { value: Promise, writable: false, configurable: false });

const { stdin, stdout, stderr, exit, inspect } = Deno;
const { Console, core } = Deno[Deno.internal] ?? {};
const readAnswer = stdin.readSync.bind(stdin);
const write = stdout.writeSync.bind(stdout);
const complain = stderr.writeSync.bind(stderr);
const { wait } = Atomics;
const { WouldBlock, Interrupted, BrokenPipe, ConnectionReset } = Deno.errors;
const { iterator } = Symbol;
const own = import.meta.url;

// Some of Deno's globals are made when they are first looked at, in milliseconds each: who needs one has it made then.
// It is Deno's own all the same, whatever stands in its place by that time.
const onFirstUse = (name) => {
  const { get, value } = Object.getOwnPropertyDescriptor(globalThis, name);
  return get === undefined ? () => value : () => apply(get, globalThis, []);
};
const theTimer = onFirstUse("setTimeout");
// Whether it is started before there is a function for it: then nobody waits while it makes what a function may need.
const waits = Deno.args.at(-1) === "waits";

// The socket to the agent; where there is a direct way to the node, its two pipes and the socket it connects to. The
// permissions to open them are the only ones this process ever has, and end here.
const paths = waits ? Deno.args.slice(0, -1) : Deno.args;
const [incomingPath, answersPath, asksPath, promisesPath] = paths;
const socket = await Deno.connect({ transport: "unix", path: incomingPath });
const directAnswers = answersPath && Deno.openSync(answersPath, { read: true });
const directAsks = asksPath && Deno.openSync(asksPath, { write: true });
const promises = promisesPath && Deno.listen({ transport: "unix", path: promisesPath });
for (const name of ["read", "write", "net"]) {
  Deno.permissions.revokeSync({ name });
  if (Deno.permissions.querySync({ name }).state === "granted") exit(70);
}
for (const path of paths) {
  for (const name of ["read", "write"]) {
    Deno.permissions.revokeSync({ name, path });
    if (Deno.permissions.querySync({ name, path }).state === "granted") exit(70);
  }
}
// What reads a connection. A connection's own `read` awaits what Deno's core does and keeps a list of it, for every message;
// the core is asked itself where this Deno's has what that takes.
const resource = Object.getOwnPropertySymbols(socket).find(({ description }) => description === "Deno.internal.rid");
const readCore = core?.read?.bind(core);
const readConnection = uncurry(socket.read);
const readOf = (connection) => {
  const number = resource && connection[resource];
  if (readCore && isSafeInteger(number)) return (bytes) => readCore(number, bytes);
  return (bytes) => readConnection(connection, bytes);
};
const readSocket = readOf(socket);
const connected = promises?.accept.bind(promises);
const noMore = promises?.close.bind(promises);
const readDirectly = directAnswers?.readSync.bind(directAnswers);
const writeDirectly = directAsks?.writeSync.bind(directAsks);

// The call that the running code belongs to, across everything it awaits and every timer it starts.
const current = await (async () => {
  if (core?.AsyncVariable && core.setAsyncContext) {
    const variable = new core.AsyncVariable();
    const { setAsyncContext } = core;
    const enter = variable.enter.bind(variable);
    const run = (value, task) => {
      const before = enter(value);
      try {
        return task();
      } finally {
        setAsyncContext(before);
      }
    };
    return { get: variable.get.bind(variable), run };
  }
  const storage = new (await import("node:async_hooks")).AsyncLocalStorage();
  return { get: storage.getStore.bind(storage), run: storage.run.bind(storage) };
})();

// A text in JSON. A surrogate alone is no text for anybody but JavaScript.
const quoted = (text) => stringify(toWellFormed(text));

// JSON of plain values, whatever `toJSON` anybody gave to whichever prototype. The names in objects are of this module.
function json(value) {
  if (typeof value === "string") return quoted(value);
  if (typeof value === "number") return isFinite(value) ? `${value}` : "null";
  if (typeof value !== "object" || value === null) return `${value ?? null}`;
  let text = "";
  if (isArray(value)) {
    for (let at = 0; at < value.length; at++) text += `${at > 0 ? "," : ""}${json(value[at])}`;
    return `[${text}]`;
  }
  const names = keys(value);
  for (let at = 0; at < names.length; at++) {
    const field = value[names[at]];
    if (field !== undefined) text += `${text === "" ? "" : ","}"${names[at]}":${json(field)}`;
  }
  return `{${text}}`;
}

const field = (object, name) => (hasOwn(object, name) ? object[name] : undefined);
