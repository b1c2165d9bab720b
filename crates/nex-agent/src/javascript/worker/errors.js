
// ---------------------------------------------------------------- errors

let fileName = "function.js";

// Some modules of Node need it too, and only notice when they are used.
const NO_DENO = "ReferenceError: Deno, or a module of Node that needs it, is not available to functions";
const UNSPEAKABLE = "an error that cannot be described";

// Places in the function's own source by its name, without the lines of a stack that are not the function's.
function tidy(text) {
  const lines = split(text, "\n");
  const kept = [];
  for (let at = 0; at < lines.length; at++) {
    if (!includes(lines[at], own) && !test(/^\s+at .*\bext:/, lines[at])) push(kept, lines[at]);
  }
  const named = replace(join(kept, "\n"), /blob:null\/[0-9a-f-]+/g, fileName);
  return replaceAll(named, `${fileName}, <anonymous>`, fileName);
}

function describe(error) {
  let text;
  try {
    if (typeof error === "string") text = error;
    else if (error instanceof ReferenceError && error.message === "Deno is not defined") text = NO_DENO;
    else if (error instanceof Error) text = error.message ? `${error.name}: ${error.message}` : toText(error.name);
    else text = inspect(error, { depth: 2, compact: true, breakLength: Infinity });
  } catch {
    text = UNSPEAKABLE;
  }
  return slice(tidy(toText(text)), 0, FAILURE_TEXT);
}

function trace(error) {
  let text;
  try {
    text = error instanceof Error ? toText(error.stack ?? describe(error)) : describe(error);
  } catch {
    text = UNSPEAKABLE;
  }
  return tidy(text);
}

function isOutOfMemory(error) {
  return error instanceof RangeError &&
    test(/array buffer allocation failed|invalid (array buffer|typed array) length|out of memory/i, error.message);
}

globalThis.addEventListener("unhandledrejection", (event) => {
  event.preventDefault();
  log("ERROR", `unhandled rejection: ${trace(event.reason)}`);
});
globalThis.addEventListener("error", (event) => {
  event.preventDefault();
  log("ERROR", `uncaught: ${trace(event.error ?? event.message)}`);
});
