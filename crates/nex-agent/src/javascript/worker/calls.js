
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

// Of each call exactly one outcome is sent, whatever the function made of its value, its error and its headers.
function succeed(call, context, value) {
  let body;
  let head;
  try {
    body = toBytes(value);
    head = json({ headers: flat(context.replyHeaders ?? NONE) });
  } catch (error) {
    return fail(call, error);
  }
  const length = lengthOf(body);
  if (length > replyLimit) {
    const message = `the reply has ${length} bytes, ${replyLimit} are allowed`;
    return answer(call, json({ failure: { kind: "reply_too_large", message } }), EMPTY);
  }
  answer(call, head, body);
}

function fail(call, error) {
  let kind = "function";
  let message = UNSPEAKABLE;
  try {
    if (isOutOfMemory(error)) kind = "out_of_memory";
    message = describe(error);
  } catch {
    // It is thrown in order to be in the way.
  }
  answer(call, json({ failure: { kind, message } }), EMPTY);
  // After the answer: whoever waits for it does not wait for the log.
  try {
    log("ERROR", trace(error));
  } catch {
    // The answer says as much as there is to say.
  }
}

function answer(call, head, body) {
  try {
    send(KIND.outcome, call, head, body);
  } catch (error) {
    // Nothing of the frame is written yet: there is no memory for it.
    broken(error);
  }
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

if (waits) {
  globalThis.process;
  theTimer();
  classes();
}
send(KIND.ready, 0n);

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
      if (hasOwn(frame.head, "ping")) send(KIND.pong, toBigInt(frame.head.ping));
      current.run(frame.call, () => run(frame));
      break;
    case KIND.ping:
      send(KIND.pong, frame.call);
      break;
    case KIND.direct:
      await openDirectWay();
      break;
    case KIND.hostReply:
      hostReply(frame);
      break;
    case KIND.hostEvent:
      hostEvent(frame);
      break;
  }
}
