
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
  if (typeof stripTypeScriptTypes !== "function") {
    throw new Refused(`${asModule} (TypeScript needs Deno 2.9 or later, this node has ${Deno.version.deno})`);
  }
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

// Node's `process` takes as long as all the rest of a start, and nobody gets hold of it without its name.
const NEEDS_NODE = /\bprocess\b|\bnode:/;

// Likewise the classes of fetch.
const NEEDS_FETCH = /\b(?:fetch|Request|Response)\b/;

function setScene(env, typescript, name, source) {
  fileName = `${name}.${typescript ? "ts" : "js"}`;
  defineProperty(globalThis, "env", { value: env, enumerable: true });
  defineProperty(globalThis, "hostServices", { value: hostServices, writable: true, configurable: true });
  defineProperty(globalThis, "HostServiceError", { value: HostServiceError, writable: true, configurable: true });
  // Before the function can change what they are made of.
  if (NEEDS_FETCH.test(source)) classes();
  defineProperty(globalThis, "fetch", { value: hostFetch, writable: true, configurable: true });
  // The same in every worker, whether it waited or not.
  const node = NEEDS_NODE.test(source) ? globalThis.process : undefined;
  const exit = () => {
    throw new Error("a function has no process.exit: return or throw");
  };
  const ours = create(node ?? null, { env: { value: env, enumerable: true }, exit: { value: exit } });
  defineProperty(globalThis, "process", { value: ours, writable: true, configurable: true });
  defineProperty(globalThis, "console", { value: ourConsole(), writable: true, configurable: true });
  for (const gone of ["Deno", "alert", "confirm", "prompt"]) delete globalThis[gone];
}

function kindOf(value) {
  if (value === null) return "null";
  return value === undefined ? "undefined" : isArray(value) ? "an array" : `of type ${typeof value}`;
}

async function load({ name, env }, source) {
  const found = await classify(source);
  await preload(source);
  const frozen = Object.freeze(Object.assign(Object.create(null), env));
  setScene(frozen, found.typescript, name, source);
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
