// The JavaScript side of a function: loads the source, runs calls, answers in frames. See `javascript/protocol.rs`
// for the frames; stdin and stdout are the two ends of one socket to the agent.
//
// Nothing here is a security border: the function shares this realm and may change anything in it. What protects the
// node is outside: Deno runs without a single permission, the process is bounded by the agent, and the agent believes
// nothing that comes out of it. What is taken from `Deno` is taken before the function's first line runs.

const KIND = { load: 1, call: 2, ping: 3, loaded: 65, refused: 66, outcome: 67, yielded: 68, pong: 69, log: 70 };
const PREFIX = 4;
const FIXED = 1 + 8 + 4;
// One log frame carries at most so many characters; the agent splits further, by lines.
const LOG_TEXT = 16 * 1024;
const FAILURE_TEXT = 4 * 1024;
// Turns of the microtask queue an async function has before the agent is told that it waits for something. One that
// only awaits what is there already then costs a single frame.
const TURNS = 8;

const { stdin, stdout, exit, inspect } = Deno;
const { Console } = Deno[Deno.internal] ?? {};
const read = stdin.read.bind(stdin);
const write = stdout.writeSync.bind(stdout);
const own = import.meta.url;
const encoder = new TextEncoder();
const decoder = new TextDecoder();
const EMPTY = new Uint8Array(0);
const { parse, stringify } = JSON;
const { isView } = ArrayBuffer;
const indirectEval = eval;

// ---------------------------------------------------------------- frames

function send(kind, call, head, body = EMPTY) {
  const headBytes = head === undefined ? EMPTY : encoder.encode(stringify(head));
  const small = body.length <= 64 * 1024;
  const frame = new Uint8Array(PREFIX + FIXED + headBytes.length + (small ? body.length : 0));
  const view = new DataView(frame.buffer);
  view.setUint32(0, FIXED + headBytes.length + body.length);
  view.setUint8(4, kind);
  view.setBigUint64(5, call);
  view.setUint32(13, headBytes.length);
  frame.set(headBytes, PREFIX + FIXED);
  if (small) frame.set(body, PREFIX + FIXED + headBytes.length);
  writeAll(frame);
  if (!small) writeAll(body);
}

function writeAll(bytes) {
  try {
    for (let at = 0; at < bytes.length;) at += write(at === 0 ? bytes : bytes.subarray(at));
  } catch {
    // The agent is gone, and with it everyone this could be for.
    exit(0);
  }
}

const buffer = new Uint8Array(64 * 1024);
let start = 0;
let end = 0;

// Reads more into the buffer; false at the end of the stream.
async function fill() {
  if (start > 0) {
    buffer.copyWithin(0, start, end);
    end -= start;
    start = 0;
  }
  const count = await read(buffer.subarray(end));
  if (count === null || count === 0) return false;
  end += count;
  return true;
}

// Takes `length` bytes as an array of their own.
async function take(length) {
  const bytes = new Uint8Array(length);
  let have = Math.min(length, end - start);
  bytes.set(buffer.subarray(start, start + have));
  start += have;
  while (have < length) {
    const count = await read(bytes.subarray(have));
    if (count === null || count === 0) exit(0);
    have += count;
  }
  return bytes;
}

async function nextFrame() {
  while (end - start < PREFIX + FIXED) {
    if (!await fill()) return null;
  }
  const view = new DataView(buffer.buffer, start);
  const length = view.getUint32(0);
  const kind = view.getUint8(4);
  const call = view.getBigUint64(5);
  const headLength = view.getUint32(13);
  start += PREFIX + FIXED;
  const head = headLength === 0 ? undefined : parse(decoder.decode(await take(headLength)));
  return { kind, call, head, body: await take(length - FIXED - headLength) };
}

// ---------------------------------------------------------------- log

function log(level, text) {
  if (text.endsWith("\n")) text = text.slice(0, -1);
  while (text.length > LOG_TEXT) {
    const end = cut(text);
    send(KIND.log, 0n, { level, text: text.slice(0, end) });
    text = text.slice(text[end] === "\n" ? end + 1 : end);
  }
  send(KIND.log, 0n, { level, text });
}

// Where to cut a text that is too long for one frame: between lines, otherwise at least between characters.
function cut(text) {
  const line = text.lastIndexOf("\n", LOG_TEXT);
  if (line > 0) return line;
  const last = text.charCodeAt(LOG_TEXT - 1);
  return last >= 0xd800 && last < 0xdc00 ? LOG_TEXT - 1 : LOG_TEXT;
}

// Deno's own console prints to stdout, which is the socket; an instance with another printer formats the same.
function ourConsole() {
  if (Console === undefined) return plainConsole();
  const levels = ["DEBUG", "INFO", "WARN", "ERROR"];
  let trace = null;
  const printed = new Console((text, level) => {
    if (trace !== null) trace += text;
    else log(levels[level] ?? "ERROR", tidy(text));
  });
  // A trace comes in pieces, and at the level of errors.
  const original = printed.trace;
  printed.trace = (...args) => {
    trace = "";
    try {
      original(...args);
    } finally {
      const text = trace;
      trace = null;
      log("DEBUG", tidy(text));
    }
  };
  return printed;
}

// For a Deno that does not show its console's class: no formats, no groups, no tables, but the output.
function plainConsole() {
  const printer = (level) => (...args) => {
    log(level, args.map((arg) => (typeof arg === "string" ? arg : inspect(arg))).join(" "));
  };
  const [debug, info, warn, error] = ["DEBUG", "INFO", "WARN", "ERROR"].map(printer);
  return { debug, trace: debug, log: info, info, dir: info, table: info, warn, error };
}

// ---------------------------------------------------------------- errors

let fileName = "function.js";

// Places in the function's own source by its name, without the lines of a stack that are not the function's.
function tidy(text) {
  return text
    .split("\n")
    .filter((line) => !line.includes(own) && !/^\s+at .*\bext:/.test(line))
    .join("\n")
    .replace(/blob:null\/[0-9a-f-]+/g, fileName)
    .replaceAll(`${fileName}, <anonymous>`, fileName);
}

function describe(error) {
  let text;
  try {
    if (typeof error === "string") text = error;
    else if (error instanceof Error) text = error.message ? `${error.name}: ${error.message}` : String(error.name);
    else text = inspect(error, { depth: 2, compact: true, breakLength: Infinity });
  } catch {
    text = "an error that cannot be described";
  }
  return tidy(String(text)).slice(0, FAILURE_TEXT);
}

function trace(error) {
  let text;
  try {
    text = error instanceof Error ? String(error.stack ?? describe(error)) : describe(error);
  } catch {
    text = "an error that cannot be described";
  }
  return tidy(text);
}

function isOutOfMemory(error) {
  return error instanceof RangeError &&
    /array buffer allocation failed|invalid (array buffer|typed array) length|out of memory/i.test(error.message);
}

globalThis.addEventListener("unhandledrejection", (event) => {
  event.preventDefault();
  log("ERROR", `unhandled rejection: ${trace(event.reason)}`);
});
globalThis.addEventListener("error", (event) => {
  event.preventDefault();
  log("ERROR", `uncaught: ${trace(event.error ?? event.message)}`);
});

// ---------------------------------------------------------------- loading

class Refused extends Error {}

const blobUrl = (source, type) => URL.createObjectURL(new Blob([source], { type }));

// The text of a parser's message, as `syntax error at line:column: text`; null when it is about something else.
// Only a parser puts the place into the message: a SyntaxError without one was thrown by the source as it ran.
function syntaxError(error) {
  const message = String(error?.message ?? error);
  const place = message.match(/blob:null\/[0-9a-f-]+:(\d+):(\d+)/);
  if (!place || (!(error instanceof SyntaxError) && !message.startsWith("SyntaxError: "))) return null;
  const text = message.replace(/^SyntaxError: /, "").split("\n")[0].replace(/ at blob:null\/\S+$/, "");
  return `syntax error at ${place[1]}:${place[2]}: ${text}`;
}

// Parses a module without running it: an import that no loader knows fails after parsing and before anything runs.
async function moduleSyntaxError(source, type) {
  const url = blobUrl(`${source}\nimport "nex-parse-only:";`, type);
  try {
    await import(url);
    return null;
  } catch (error) {
    const found = syntaxError(error);
    const lines = source.split("\n");
    // A complaint about the line that was added is one about where the source ends.
    return found?.startsWith(`syntax error at ${lines.length + 1}:`)
      ? `syntax error at ${lines.length}:${lines.at(-1).length + 1}: unexpected end of the source`
      : found;
  } finally {
    URL.revokeObjectURL(url);
  }
}

// Whether the text parses as a script. Wrapping it in a function parses it without running it.
function isScript(source) {
  try {
    new Function(source);
    return true;
  } catch {
    return false;
  }
}

// What the source is, and JavaScript to run: TypeScript is only looked for when it is no JavaScript, because some
// JavaScript means something else when read as TypeScript.
async function classify(source) {
  if (isScript(source)) return { kind: "script", source };
  const asModule = await moduleSyntaxError(source, "text/javascript");
  if (asModule === null) return { kind: "module", source, type: "text/javascript" };
  // Costs some 25 ms, so only here, and before Deno is gone, which it needs.
  const { stripTypeScriptTypes } = await import("node:module");
  for (const mode of ["strip", "transform"]) {
    try {
      const stripped = stripTypeScriptTypes(source, { mode });
      if (isScript(stripped)) return { kind: "script", source: stripped, typescript: true };
    } catch {
      // Not in this mode (enums need the second), or not at all: the next attempt says.
    }
  }
  const asTypeScript = await moduleSyntaxError(source, "application/typescript");
  if (asTypeScript === null) return { kind: "module", source, type: "application/typescript", typescript: true };
  throw new Refused(asTypeScript);
}

// Modules of Node that the source names are loaded while Deno is there: most cannot be afterwards.
async function preload(source) {
  const names = new Set(source.match(/\bnode:[a-z_]+(\/[a-z_]+)*/g) ?? []);
  for (const name of names) {
    try {
      await import(name);
    } catch {
      // The function's own import says what is wrong.
    }
  }
}

function setScene(env, typescript, name) {
  fileName = `${name}.${typescript ? "ts" : "js"}`;
  Object.defineProperty(globalThis, "env", { value: env, enumerable: true });
  const node = globalThis.process;
  const exit = () => {
    throw new Error("a function has no process.exit: return or throw");
  };
  const ours = Object.create(node ?? null, { env: { value: env, enumerable: true }, exit: { value: exit } });
  Object.defineProperty(globalThis, "process", { value: ours, writable: true, configurable: true });
  Object.defineProperty(globalThis, "console", { value: ourConsole(), writable: true, configurable: true });
  for (const gone of ["Deno", "alert", "confirm", "prompt"]) delete globalThis[gone];
}

function kindOf(value) {
  if (value === null) return "null";
  return value === undefined ? "undefined" : Array.isArray(value) ? "an array" : `of type ${typeof value}`;
}

async function load({ name, env }, source) {
  const found = await classify(source);
  await preload(source);
  const frozen = Object.freeze(Object.assign(Object.create(null), env));
  setScene(frozen, found.typescript, name);
  if (found.kind === "script") {
    let value;
    try {
      value = indirectEval(`${found.source}\n//# sourceURL=${fileName}`);
    } catch (error) {
      throw new Refused(`the script failed: ${describe(error)}`);
    }
    if (typeof value === "function") return value;
    throw new Refused(`the script's last value is ${kindOf(value)}, not a function: end it with the function`);
  }
  let module;
  const url = blobUrl(found.source, found.type);
  try {
    module = await import(url);
  } catch (error) {
    throw new Refused(syntaxError(error) ?? `the module failed: ${describe(error)}`);
  } finally {
    URL.revokeObjectURL(url);
  }
  if (typeof module.default === "function") return module.default;
  throw new Refused("the module has no default export that is a function");
}

// ---------------------------------------------------------------- calls

let handler;
let workload;
let replyLimit;

function toBytes(value) {
  if (value === undefined || value === null) return EMPTY;
  if (typeof value === "string") return encoder.encode(value);
  if (value instanceof Uint8Array) return value;
  if (isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  if (value instanceof SharedArrayBuffer) return new Uint8Array(value).slice();
  const text = stringify(value);
  if (text === undefined) throw new TypeError(`a result ${kindOf(value)} has no JSON form`);
  return encoder.encode(text);
}

function toHeaders(replyHeaders) {
  const headers = [];
  for (const [name, values] of Object.entries(replyHeaders ?? {})) {
    for (const value of Array.isArray(values) ? values : [values]) headers.push([name, String(value)]);
  }
  return headers;
}

function succeed(call, context, value) {
  let body;
  let headers;
  try {
    body = toBytes(value);
    headers = toHeaders(context.replyHeaders);
  } catch (error) {
    return fail(call, error);
  }
  if (body.length > replyLimit) {
    const message = `the reply has ${body.length} bytes, ${replyLimit} are allowed`;
    return send(KIND.outcome, call, { failure: { kind: "reply_too_large", message } });
  }
  send(KIND.outcome, call, { headers }, body);
}

function fail(call, error) {
  const kind = isOutOfMemory(error) ? "out_of_memory" : "function";
  send(KIND.outcome, call, { failure: { kind, message: describe(error) } });
  // After the answer: whoever waits for it does not wait for the log.
  log("ERROR", trace(error));
}

function contextOf({ headers, deadline }) {
  const byName = Object.create(null);
  let traceparent = null;
  for (const [name, value] of headers) {
    (byName[name] ??= []).push(value);
    if (traceparent === null && name.toLowerCase() === "traceparent") traceparent = value;
  }
  return { headers: byName, workload, deadline, trace: traceparent, replyHeaders: {} };
}

function run({ call, head, body }) {
  const context = contextOf(head);
  let result;
  let then;
  try {
    result = handler.call(globalThis, head.subject, body, context);
    then = (typeof result === "object" || typeof result === "function") && result !== null ? result.then : undefined;
  } catch (error) {
    return fail(call, error);
  }
  if (typeof then === "function") settle(call, context, Promise.resolve(result));
  else succeed(call, context, result);
}

async function settle(call, context, promise) {
  let settled = false;
  promise.then((value) => {
    settled = true;
    succeed(call, context, value);
  }, (error) => {
    settled = true;
    fail(call, error);
  });
  for (let turn = 0; turn < TURNS && !settled; turn++) await null;
  if (!settled) send(KIND.yielded, call);
}

for (let frame; (frame = await nextFrame()) !== null;) {
  switch (frame.kind) {
    case KIND.load:
      try {
        const { head } = frame;
        replyLimit = head.reply_bytes;
        workload = Object.freeze({ name: head.name, namespace: head.namespace });
        handler = await load(head, decoder.decode(frame.body));
        send(KIND.loaded, 0n);
      } catch (error) {
        send(KIND.refused, 0n, { message: error instanceof Refused ? error.message : describe(error) });
      }
      break;
    case KIND.call:
      run(frame);
      break;
    case KIND.ping:
      send(KIND.pong, frame.call);
      break;
  }
}
exit(0);
