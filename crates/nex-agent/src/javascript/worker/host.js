
// ---------------------------------------------------------------- host calls

// Asynchronous calls that are with the agent and the node at a time; the others wait here. They allow a few more.
const OPEN_CALLS = 48;

class HostServiceError extends Error {
  constructor(service, method, code, message, retry = false) {
    super(`${service}.${method}: ${message}`);
    this.service = service;
    this.method = method;
    this.code = code;
    this.retry = retry;
  }
}
defineProperty(HostServiceError.prototype, "name", { value: "HostServiceError", configurable: true, writable: true });

const invalid = ({ service, method }, message) => new HostServiceError(service, method, "invalid", message);

function failureOf({ service, method }, error) {
  return new HostServiceError(service, method, field(error, "code"), field(error, "message"), field(error, "retry"));
}

// What was asked for by number, until it is answered.
const open = new TheMap();
const waiting = [];
let openCalls = 0;
// How many of them are with the agent.
let byAgent = 0;
let lastNumber = 0;
let hostBytes = 0;

function bounded(spec, body) {
  const length = lengthOf(body);
  if (length <= hostBytes) return;
  const message = `the payload has ${length} bytes, ${hostBytes} are allowed`;
  throw new HostServiceError(spec.service, spec.method, "too-large", message);
}

// Sends a call, whose request is JSON text; gives its number.
function ask(spec, sync, request, body, call) {
  bounded(spec, body);
  const number = ++lastNumber;
  send(KIND.hostCall, toBigInt(number), `{"call":${call},"sync":${sync},"request":${request}}`, body);
  return number;
}

const callNow = () => current.get() ?? 0n;

// The value of a HostReply; throws its error.
function valueOf(spec, { head, body }) {
  const error = field(head, "error");
  if (error !== undefined) throw failureOf(spec, error);
  return spec.read(field(head, "reply"), body);
}

// Ends of blocking watches, by number: they may come when something else is waited for, or nothing.
const blocking = new TheMap();

// The answer to the synchronous call of that number.
function waitFor(number) {
  for (;;) {
    const frame = nextAnswer();
    if (frame.call === number) return frame;
    mapGet(blocking, frame.call)?.(frame);
  }
}

// Where that keeps the order of calls: what went through the agent must have its answer.
const goesDirectly = (spec) => direct && spec.short && byAgent === 0;

const lost = ({ service, method }) => {
  const message = "the way to the node was closed before the answer came";
  return new HostServiceError(service, method, "unavailable", message, true);
};

function callSync(spec, request, body) {
  if (goesDirectly(spec)) {
    bounded(spec, body);
    const number = ++lastNumber;
    if (askDirectly(number, `{"call":${callNow()},"request":${request}}`, body)) {
      const answer = directAnswer(number);
      if (answer !== null) return valueOf(spec, answer);
      throw lost(spec);
    }
  }
  return valueOf(spec, waitFor(ask(spec, true, request, body, callNow())));
}

// The promise of an asynchronous call, and a way to give it up.
function callAsync(spec, request, body) {
  const entry = { spec, request, body, call: callNow(), number: 0, direct: false, done: false };
  const promise = new ThePromise((resolve, reject) => {
    entry.resolve = resolve;
    entry.reject = reject;
  });
  if (openCalls < OPEN_CALLS) {
    askFor(entry);
  } else {
    // The caller may write into its array before the call's turn comes.
    entry.body = copyOf(body);
    push(waiting, entry);
  }
  const cancel = (reason) => {
    if (entry.done) return;
    // What goes directly is short, and nobody gives it up.
    if (entry.number !== 0) {
      if (!entry.direct) send(KIND.hostCancel, toBigInt(entry.number));
      close(entry);
    }
    entry.done = true;
    entry.reject(reason);
  };
  return { promise, cancel };
}

function askFor(entry) {
  try {
    if (!askLater(entry)) entry.number = ask(entry.spec, false, entry.request, entry.body, entry.call);
  } catch (error) {
    entry.done = true;
    return entry.reject(error);
  }
  entry.body = EMPTY;
  openCalls++;
  if (!entry.direct) byAgent++;
  mapSet(open, entry.number, entry);
}

// Asks the node for a promise; false when that does not go.
function askLater(entry) {
  const { spec, request, body, call } = entry;
  if (!promised || !goesDirectly(spec)) return false;
  bounded(spec, body);
  const number = ++lastNumber;
  if (!askDirectly(number, `{"call":${call},"promise":true,"request":${request}}`, body)) return false;
  entry.number = number;
  return entry.direct = true;
}

// Nobody answers what was asked of the node.
function failDirect() {
  eachOf(open, (entry) => {
    if (!entry.direct) return;
    close(entry);
    entry.reject(lost(entry.spec));
  });
}

function close(entry) {
  entry.done = true;
  if (!mapDelete(open, entry.number)) return;
  openCalls--;
  if (!entry.direct) byAgent--;
  while (openCalls < OPEN_CALLS && waiting.length > 0) {
    const next = shift(waiting);
    if (!next.done) askFor(next);
  }
}

function hostReply(frame) {
  const entry = mapGet(open, frame.call);
  if (entry === undefined) return;
  if (entry.watch !== undefined) {
    mapDelete(open, frame.call);
    return entry.watch(null, field(frame.head, "error"));
  }
  close(entry);
  try {
    entry.resolve(valueOf(entry.spec, frame));
  } catch (error) {
    entry.reject(error);
  }
}

function hostEvent(frame) {
  const entry = mapGet(open, frame.call);
  if (entry !== undefined && entry.watch !== undefined) entry.watch(changeOf(frame));
}

// ---------------------------------------------------------------- watches

function changeOf({ head, body }) {
  const deleted = field(head, "deleted");
  return { key: field(head, "key"), value: deleted ? null : body, revision: field(head, "revision"), deleted };
}

const DONE = () => ({ value: undefined, done: true });

// Changes as they are asked for, one at a time; each wait blocks.
function watchSync(spec, request) {
  const number = ask(spec, true, request, EMPTY, callNow());
  let ended = false;
  let last = null;
  const finish = (frame) => {
    ended = true;
    last = frame;
    mapDelete(blocking, number);
  };
  mapSet(blocking, number, finish);
  return {
    next() {
      if (!ended) {
        send(KIND.hostMore, toBigInt(number));
        const frame = waitFor(number);
        if (frame.kind === KIND.hostEvent) return { value: changeOf(frame), done: false };
        finish(frame);
      }
      const error = last === null ? undefined : field(last.head, "error");
      last = null;
      if (error !== undefined) throw failureOf(spec, error);
      return DONE();
    },
    return(value) {
      if (!ended) send(KIND.hostCancel, toBigInt(number));
      finish(null);
      return { value, done: true };
    },
    [Symbol.iterator]() {
      return this;
    },
  };
}

function watchAsync(spec, request) {
  const number = ask(spec, false, request, EMPTY, callNow());
  const asked = [];
  let ended = false;
  let failure = null;
  const finish = () => {
    ended = true;
    if (failure !== null && asked.length > 0) {
      shift(asked).reject(failure);
      failure = null;
    }
    while (asked.length > 0) shift(asked).resolve(DONE());
  };
  const watch = (change, error) => {
    if (change !== null) return shift(asked)?.resolve({ value: change, done: false });
    if (error !== undefined) failure = failureOf(spec, error);
    finish();
  };
  mapSet(open, number, { watch });
  return {
    next() {
      return new ThePromise((resolve, reject) => {
        push(asked, { resolve, reject });
        if (ended) finish();
        else send(KIND.hostMore, toBigInt(number));
      });
    },
    return(value) {
      if (!ended) {
        mapDelete(open, number);
        send(KIND.hostCancel, toBigInt(number));
        finish();
      }
      return new ThePromise((resolve) => resolve({ value, done: true }));
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}
