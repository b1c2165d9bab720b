
// ---------------------------------------------------------------- calls

let handler;
let workload;
let replyLimit;

function toBytes(value) {
  if (value === undefined || value === null) return EMPTY;
  const bytes = bytesOf(value);
  if (bytes !== undefined) return bytes;
  const text = stringify(value);
  if (text === undefined) throw new TypeError(`a result ${kindOf(value)} has no JSON form`);
  return encode(text);
}

function toHeaders(replyHeaders) {
  const headers = [];
  const given = entries(replyHeaders ?? {});
  for (let at = 0; at < given.length; at++) {
    const values = isArray(given[at][1]) ? given[at][1] : [given[at][1]];
    for (let each = 0; each < values.length; each++) push(headers, [given[at][0], toText(values[each])]);
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
  const length = lengthOf(body);
  if (length > replyLimit) {
    const message = `the reply has ${length} bytes, ${replyLimit} are allowed`;
    return send(KIND.outcome, call, json({ failure: { kind: "reply_too_large", message } }));
  }
  send(KIND.outcome, call, json({ headers }), body);
}

function fail(call, error) {
  const kind = isOutOfMemory(error) ? "out_of_memory" : "function";
  send(KIND.outcome, call, json({ failure: { kind, message: describe(error) } }));
  // After the answer: whoever waits for it does not wait for the log.
  log("ERROR", trace(error));
}

function contextOf({ headers, deadline }) {
  let traceparent = null;
  for (let at = 0; at < headers.length && traceparent === null; at++) {
    if (toLowerCase(headers[at][0]) === "traceparent") traceparent = headers[at][1];
  }
  return { headers: byName(headers), workload, deadline, trace: traceparent, replyHeaders: {} };
}

function run({ call, head, body }) {
  const context = contextOf(head);
  let result;
  let then;
  try {
    result = apply(handler, globalThis, [head.subject, body, context]);
    then = (typeof result === "object" || typeof result === "function") && result !== null ? result.then : undefined;
  } catch (error) {
    return fail(call, error);
  }
  if (typeof then === "function") settle(call, context, result);
  else succeed(call, context, result);
}

async function settle(call, context, result) {
  const state = { settled: false };
  finish(call, context, result, state);
  for (let turn = 0; turn < TURNS && !state.settled; turn++) await null;
  if (!state.settled) send(KIND.yielded, call);
}

async function finish(call, context, result, state) {
  let value;
  try {
    value = await result;
  } catch (error) {
    state.settled = true;
    return fail(call, error);
  }
  state.settled = true;
  succeed(call, context, value);
}

for (;;) {
  const frame = await nextFrame();
  switch (frame.kind) {
    case KIND.load:
      try {
        const { head } = frame;
        replyLimit = head.reply_bytes;
        hostBytes = head.host_bytes;
        workload = freeze({ name: head.name, namespace: head.namespace });
        handler = await load(head, decode(frame.body));
        send(KIND.loaded, 0n);
      } catch (error) {
        send(KIND.refused, 0n, json({ message: error instanceof Refused ? error.message : describe(error) }));
      }
      break;
    case KIND.call:
      current.run(frame.call, () => run(frame));
      break;
    case KIND.ping:
      send(KIND.pong, frame.call);
      break;
    case KIND.hostReply:
      hostReply(frame);
      break;
    case KIND.hostEvent:
      hostEvent(frame);
      break;
  }
}
