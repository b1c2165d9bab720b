
// ---------------------------------------------------------------- log

function log(level, text) {
  if (endsWith(text, "\n")) text = slice(text, 0, -1);
  while (text.length > LOG_TEXT) {
    const end = cut(text);
    send(KIND.log, 0n, json({ level, text: slice(text, 0, end) }));
    text = slice(text, text[end] === "\n" ? end + 1 : end);
  }
  send(KIND.log, 0n, json({ level, text }));
}

// Where to cut a text that is too long for one frame: between lines, otherwise at least between characters.
function cut(text) {
  const line = lastIndexOf(text, "\n", LOG_TEXT);
  if (line > 0) return line;
  const last = charCodeAt(text, LOG_TEXT - 1);
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
