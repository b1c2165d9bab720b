
// ---------------------------------------------------------------- frames

// The head is JSON text, empty for none.
function send(kind, call, head = "", body = EMPTY) {
  const headBytes = head === "" ? EMPTY : encode(head);
  const headLength = lengthOf(headBytes);
  const bodyLength = lengthOf(body);
  const small = bodyLength <= 64 * 1024;
  const buffer = new TheBuffer(PREFIX + FIXED + headLength + (small ? bodyLength : 0));
  const frame = new TheBytes(buffer);
  const view = new TheView(buffer);
  setUint32(view, 0, FIXED + headLength + bodyLength);
  setUint8(view, 4, kind);
  setBigUint64(view, 5, call);
  setUint32(view, 13, headLength);
  setBytes(frame, headBytes, PREFIX + FIXED);
  if (small) setBytes(frame, body, PREFIX + FIXED + headLength);
  writeAll(frame, buffer, 0);
  if (!small) writeAll(body, arrayBuffer(body), arrayOffset(body));
}

function writeAll(bytes, buffer, offset) {
  const length = lengthOf(bytes);
  let at = 0;
  while (at < length) {
    try {
      at += write(at === 0 ? bytes : new TheBytes(buffer, offset + at, length - at));
    } catch (error) {
      if (!comesLater(error)) broken(error);
      wait(clock, 0, 0, 1);
    }
  }
}

// What `wait` waits for in vain.
const clock = new Int32Array(new SharedArrayBuffer(4));

// The function can make the stream one that does not wait (Node's `net.Socket` of its descriptor does).
const comesLater = (error) => error instanceof WouldBlock || error instanceof Interrupted;

// Without its stream the worker is of no use.
function broken(error) {
  // When the agent is gone, so is everyone this could be for.
  if (error instanceof BrokenPipe || error instanceof ConnectionReset) exit(0);
  try {
    complain(encode(`error: the worker lost its stream: ${describe(error)}\n`));
  } finally {
    exit(74);
  }
}

// A stream of frames: bytes that came and were not taken yet.
function stream() {
  const memory = new TheBuffer(64 * 1024);
  return { memory, view: new TheView(memory), bytes: new TheBytes(memory), start: 0, end: 0 };
}

// Room behind what is there already.
function room(from) {
  if (from.start === from.end) {
    from.start = from.end = 0;
    return from.bytes;
  }
  if (from.start > 0) {
    copyWithin(from.bytes, 0, from.start, from.end);
    from.end -= from.start;
    from.start = 0;
  }
  return new TheBytes(from.memory, from.end);
}

// The fixed part of the next frame, taken; null when it is not there whole.
function prefix(from) {
  if (from.end - from.start < PREFIX + FIXED) return null;
  const { view, start } = from;
  const headLength = getUint32(view, start + 13);
  const bodyLength = getUint32(view, start) - FIXED - headLength;
  const kind = getUint8(view, start + 4);
  // Host calls have their numbers from here; calls of the function have the agent's, and those can be larger.
  const ours = kind === KIND.hostReply || kind === KIND.hostEvent;
  const call = ours ? numberIn(from.bytes, start + 5) : getBigUint64(view, start + 5);
  from.start += PREFIX + FIXED;
  return { kind, call, headLength, bodyLength };
}

// An array of that length with as much as is there already, and how much that is.
function begin(from, length) {
  const memory = new TheBuffer(length);
  const bytes = new TheBytes(memory);
  const have = min(length, from.end - from.start);
  setBytes(bytes, new TheBytes(from.memory, from.start, have));
  from.start += have;
  return { memory, bytes, have, length };
}

// The same of a head, which nobody keeps: it stays where it is, if it is there whole.
function beginHead(from, length) {
  if (from.end - from.start < length) return begin(from, length);
  const bytes = new TheBytes(from.memory, from.start, length);
  from.start += length;
  return { memory: from.memory, bytes, have: length, length };
}

const rest = (part) => new TheBytes(part.memory, part.have);

// Counts what was read; the end of a stream is the end of everything.
function more(count) {
  if (count === null || count === 0) exit(0);
  return count;
}

function frameOf({ kind, call }, head, body) {
  return { kind, call, head: head.length === 0 ? undefined : headOf(head.bytes), body: body.bytes };
}

// Most replies have heads of a few bytes that are no JSON. The first says which: `link/host/short.rs` of nex-protocol.
const DONE_HEAD = 1, MISSING_HEAD = 2, REVISION_HEAD = 3, FLAG_HEAD = 4, MESSAGE_HEAD = 5;

function headOf(bytes) {
  switch (bytes[0]) {
    case DONE_HEAD:
      return { reply: { kind: "done" } };
    case MISSING_HEAD:
      return { reply: { kind: "missing" } };
    case REVISION_HEAD:
      return { reply: { kind: "revision", revision: numberIn(bytes, 1) } };
    case FLAG_HEAD:
      return { reply: { kind: "flag", value: bytes[1] === 1 } };
    case MESSAGE_HEAD:
      return ONE_MESSAGE;
  }
  return parse(decode(bytes));
}

// All of the payload, without headers. Who reads it keeps nothing of it.
const ONE_MESSAGE = { reply: { kind: "messages", messages: [NONE] } };

// The whole number in the eight bytes from there on, as precise as numbers are.
function numberIn(bytes, from) {
  let number = 0;
  for (let at = from; at < from + 8; at++) number = number * 256 + bytes[at];
  return number;
}

const incoming = stream();

async function readInto(bytes) {
  for (;;) {
    try {
      return more(await readSocket(bytes));
    } catch (error) {
      if (!comesLater(error)) broken(error);
      await new ThePromise((resolve) => theTimer()(resolve, 2));
    }
  }
}

// The next frame of a stream; what runs meanwhile runs.
async function frameLater(from, readMore) {
  let fixed;
  while ((fixed = prefix(from)) === null) {
    const count = await readMore(room(from));
    from.end += count;
  }
  const head = beginHead(from, fixed.headLength);
  while (head.have < head.length) head.have += await readMore(rest(head));
  const body = begin(from, fixed.bodyLength);
  while (body.have < body.length) body.have += await readMore(rest(body));
  return frameOf(fixed, head, body);
}

// What the agent says next.
const nextFrame = () => frameLater(incoming, readInto);

const answered = stream();

// The same, of one that is read by blocking: nothing else runs meanwhile.
function frameFrom(from, readMore) {
  let fixed;
  while ((fixed = prefix(from)) === null) {
    const count = readMore(room(from));
    from.end += count;
  }
  const head = beginHead(from, fixed.headLength);
  while (head.have < head.length) head.have += readMore(rest(head));
  const body = begin(from, fixed.bodyLength);
  while (body.have < body.length) body.have += readMore(rest(body));
  return frameOf(fixed, head, body);
}

// The next frame, when it is there whole; null when it is not.
function wholeFrame(from) {
  const there = from.end - from.start;
  if (there < PREFIX + FIXED || there < PREFIX + getUint32(from.view, from.start)) return null;
  return frameFrom(from);
}

// The next answer to a synchronous call that went through the agent.
const nextAnswer = () => frameFrom(answered, (bytes) => more(readBlocking(readAnswer, bytes)));

function readBlocking(readSync, bytes) {
  for (;;) {
    try {
      return readSync(bytes);
    } catch (error) {
      if (!comesLater(error)) throw error;
      wait(clock, 0, 0, 1);
    }
  }
}
