
// ---------------------------------------------------------------- the direct way

// Short calls go to the node itself, past the agent, over two pipes, and the answers to promises come on a socket: see
// `link/direct.rs` of nex-protocol. Once the agent says so, and for as long as all of it is open; the way through the agent
// is always there.
let direct = false;
let promised = false;

// Largest frame, and the memory it is made in.
const LARGEST = 60 * 1024;
const asking = stream();
const headRoom = new TheBytes(asking.memory, PREFIX + FIXED, LARGEST - FIXED);

// Writes a question. False when it does not fit or the pipe is closed: then nothing is written.
function askDirectly(number, head, body) {
  const { memory, bytes, view } = asking;
  const made = encodeInto(encoder, head, headRoom);
  const bodyLength = lengthOf(body);
  const length = FIXED + made.written + bodyLength;
  if (made.read < head.length || length > LARGEST) return false;
  setUint32(view, 0, length);
  setUint8(view, 4, KIND.hostCall);
  setUint32(view, 5, trunc(number / 0x100000000));
  setUint32(view, 9, number >>> 0);
  setUint32(view, 13, made.written);
  if (bodyLength > 0) setBytes(bytes, body, PREFIX + FIXED + made.written);
  let at = 0;
  while (at < PREFIX + length) {
    try {
      at += writeDirectly(new TheBytes(memory, at, PREFIX + length - at));
    } catch (error) {
      if (!comesLater(error)) {
        direct = false;
        return at > 0;
      }
      wait(clock, 0, 0, 1);
    }
  }
  return true;
}

const told = stream();

function readTold(bytes) {
  return moreTold(readBlocking(readDirectly, bytes));
}

// The answer to the question of that number; null when the pipe is closed, and then nobody knows what became of it.
function directAnswer(number) {
  try {
    for (;;) {
      const frame = frameFrom(told, readTold);
      if (frame.call === number) return frame;
    }
  } catch {
    direct = false;
    return null;
  }
}

const later = stream();

// The node has opened its ends, and connected to the socket before.
async function openDirectWay() {
  direct = true;
  if (connected === undefined) return;
  const node = await connected();
  noMore();
  promised = true;
  hearPromises(node);
}

// Counts what was read of a promise's answer.
function moreTold(count) {
  if (count === null || count === 0) throw new TheError("closed");
  return count;
}

// Takes the answers to promises until there are no more.
async function hearPromises(node) {
  const read = readOf(node);
  const readMore = async (bytes) => moreTold(await read(bytes));
  try {
    for (;;) {
      // Most answers come alone and whole: each function that is awaited on the way costs a turn of the queue.
      if (later.start === later.end) later.end = moreTold(await read(room(later)));
      hostReply(wholeFrame(later) ?? await frameLater(later, readMore));
      // Who waited for it goes on first: then there is more to read while the node is at work on what that one asks next.
      await null;
    }
  } catch {
    promised = direct = false;
    failDirect();
  }
}
