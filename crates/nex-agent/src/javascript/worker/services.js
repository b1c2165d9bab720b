
// ---------------------------------------------------------------- arguments

function copyOf(bytes) {
  const copy = new TheBytes(lengthOf(bytes));
  setBytes(copy, bytes);
  return copy;
}

// The bytes of text or binary data; undefined when it is neither.
function bytesOf(value) {
  if (typeof value === "string") return encode(value);
  if (isView(value)) {
    const typed = typeOf(value) !== undefined;
    const buffer = typed ? arrayBuffer(value) : dataBuffer(value);
    const offset = typed ? arrayOffset(value) : dataOffset(value);
    const bytes = new TheBytes(buffer, offset, typed ? arrayBytes(value) : dataBytes(value));
    return buffer instanceof TheSharedBuffer ? copyOf(bytes) : bytes;
  }
  if (value instanceof TheBuffer) return new TheBytes(value);
  return value instanceof TheSharedBuffer ? copyOf(new TheBytes(value)) : undefined;
}

// Texts up to that length become bytes here: those are copied into a frame before anything of the function's runs.
const SHORT_TEXT = 4096;
const ofText = new TheBytes(3 * SHORT_TEXT);
const textMemory = arrayBuffer(ofText);

function payload(spec, value, optional = false) {
  if (optional && (value === undefined || value === null)) return EMPTY;
  if (typeof value === "string" && value.length <= SHORT_TEXT) {
    return new TheBytes(textMemory, 0, encodeInto(encoder, value, ofText).written);
  }
  const bytes = bytesOf(value);
  if (bytes === undefined) {
    throw invalid(spec, `a payload is a string, a Uint8Array or another view or buffer, not ${kindOf(value)}`);
  }
  return bytes;
}

function text(spec, value, what) {
  if (typeof value !== "string") throw invalid(spec, `the ${what} is a string, not ${kindOf(value)}`);
  return value;
}

function whole(spec, value, what) {
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "number" || !isFinite(value) || value < 0) {
    throw invalid(spec, `${what} is a number that is not negative`);
  }
  const number = trunc(value);
  return isSafeInteger(number) ? number : undefined;
}

function options(spec, value, what = "options") {
  if (value === undefined || value === null) return NONE;
  if (typeof value !== "object") throw invalid(spec, `the ${what} are an object, not ${kindOf(value)}`);
  return value;
}

// Headers as pairs, of an object (values: text or arrays of it), or of anything that gives pairs: an array, a Map, a
// Headers object.
function pairsOf(spec, headers) {
  if (headers === undefined || headers === null) return [];
  if (typeof headers !== "object") throw invalid(spec, `headers are an object, not ${kindOf(headers)}`);
  return flat(headers);
}

// Pairs of texts, one for each value.
function flat(headers) {
  const pairs = [];
  const given = pairsIn(headers);
  for (let at = 0; at < given.length; at++) {
    const pair = given[at];
    if (typeof pair !== "object" || pair === null) throw new TypeError(`a header is a pair, not ${kindOf(pair)}`);
    const values = isArray(pair[1]) ? pair[1] : [pair[1]];
    for (let each = 0; each < values.length; each++) push(pairs, [toText(pair[0]), toText(values[each])]);
  }
  return pairs;
}

function pairsIn(headers) {
  if (isArray(headers)) return headers;
  const pairs = [];
  if (headers instanceof TheHeaders) {
    eachHeader(headers, (value, name) => push(pairs, [name, value]));
  } else if (typeof headers === "object" && typeof headers[iterator] === "function") {
    for (const pair of headers) push(pairs, pair);
  } else {
    return entries(headers);
  }
  return pairs;
}

// ---------------------------------------------------------------- requests

// The JSON text of a request: which service it is for, and its fields, each with a comma before it.
const openingOf = (service) => `{"service":${quoted(service)}`;
const textField = (name, value) => `,"${name}":${quoted(value)}`;
const wholeField = (name, value) => (value === undefined ? "" : `,"${name}":${value}`);
const headersField = (pairs) => (pairs.length === 0 ? "" : `,"headers":${json(pairs)}`);
const requestOf = ({ opening }, fields) => `${opening}${fields}}`;

// ---------------------------------------------------------------- results

function hidden(object, name, value) {
  defineProperty(object, name, { value, enumerable: false, writable: true, configurable: true });
  return object;
}

// Every value of each header by its name.
function byName(pairs) {
  const headers = create(null);
  for (let at = 0; pairs !== undefined && at < pairs.length; at++) {
    const name = pairs[at][0];
    push(headers[name] ??= [], pairs[at][1]);
  }
  return headers;
}

const nothing = () => undefined;
const revisionOf = (reply) => field(reply, "revision");
const isMissing = (reply) => field(reply, "kind") === "missing";

// A message's body, its headers beside it.
const messageOf = (head, body) => hidden(body, "headers", byName(field(head, "headers")));

function messagesOf(reply, body) {
  const heads = field(reply, "messages") ?? [];
  const found = [];
  let at = 0;
  for (let each = 0; each < heads.length; each++) {
    const length = field(heads[each], "length") ?? lengthOf(body);
    push(found, messageOf(heads[each], copyOf(new TheBytes(arrayBuffer(body), arrayOffset(body) + at, length))));
    at += length;
  }
  return found;
}

// `Content-Type` for `content-type`.
function canonical(name) {
  const parts = split(name, "-");
  for (let at = 0; at < parts.length; at++) {
    parts[at] = toUpperCase(slice(parts[at], 0, 1)) + toLowerCase(slice(parts[at], 1));
  }
  return join(parts, "-");
}

// The documented response. What is not documented does not show in its JSON.
function responseOf(reply, body) {
  const headers = create(null);
  const pairs = field(reply, "headers") ?? [];
  for (let at = 0; at < pairs.length; at++) {
    const name = canonical(pairs[at][0]);
    const joined = hasOwn(headers, name) ? `${headers[name]}, ${pairs[at][1]}` : pairs[at][1];
    headers[name] = joined;
    if (toLowerCase(name) !== name) hidden(headers, toLowerCase(name), joined);
  }
  const response = { status: field(reply, "status"), headers };
  let decoded;
  defineProperty(response, "response", { get: () => (decoded ??= decode(body)), enumerable: true });
  hidden(response, "body", body);
  hidden(response, "url", field(reply, "url"));
  return hidden(response, "json", () => parse(response.response));
}

// ---------------------------------------------------------------- services

// What each method sends: `[fields, body]`, of its arguments; and what it makes of the answer. The fields are JSON text as
// it comes: an object for them, and its names one after the other, was a good part of a short call.
const methods = create(null);

function method(service, name, prepare, read, sent = name) {
  methods[service] ??= create(null);
  // Whether the node only waits for NATS, and not for long.
  const short = service === "messaging" || (service === "kv" && name !== "keys" && name !== "watch");
  const opening = openingOf(service) + textField("method", sent);
  methods[service][name] = { service, method: name, opening, prepare, read, short };
}

const keyField = (spec, value) => textField("key", text(spec, value, "key"));
const ttlField = (spec, given) => wholeField("ttlMs", whole(spec, options(spec, given).ttl, "ttl"));

method("kv", "get", (spec, name) => [keyField(spec, name)], (reply, body) => {
  return isMissing(reply) ? null : hidden(body, "revision", revisionOf(reply));
});
const stored = (spec, name, value, given) => {
  return [keyField(spec, name) + ttlField(spec, given), payload(spec, value)];
};
method("kv", "set", stored, nothing);
method("kv", "create", stored, revisionOf);
method("kv", "update", (spec, name, value, seen) => {
  const revision = whole(spec, seen, "the revision");
  if (revision === undefined) throw invalid(spec, "the revision that the key is at is missing");
  return [keyField(spec, name) + wholeField("revision", revision), payload(spec, value)];
}, revisionOf);
method("kv", "delete", (spec, name) => [keyField(spec, name)], nothing);
method("kv", "exists", (spec, name) => [keyField(spec, name)], (reply) => field(reply, "value") === true);
method("kv", "keys", () => [""], (reply) => field(reply, "keys") ?? []);
method("kv", "watch", (spec, pattern) => [pattern === undefined ? "" : keyField(spec, pattern)]);

const infoOf = (reply) => (isMissing(reply) ? null : field(reply, "info"));
const nameField = (spec, name) => textField("name", text(spec, name, "name"));
const named = (spec, name) => [nameField(spec, name)];

method("objectStore", "get", named, (reply, body) => (isMissing(reply) ? null : body));
method("objectStore", "put", (spec, name, value) => [nameField(spec, name), payload(spec, value)], infoOf);
method("objectStore", "delete", named, nothing);
method("objectStore", "info", named, infoOf);
method("objectStore", "list", () => [""], (reply) => field(reply, "objects") ?? []);

function messaging(name, more, read) {
  method("messaging", name, (spec, subject, value, given) => {
    const chosen = options(spec, given);
    const target = textField("subject", text(spec, subject, "subject"));
    const fields = target + headersField(pairsOf(spec, chosen.headers)) + more(spec, chosen);
    return [fields, payload(spec, value, true)];
  }, read);
}
const timeoutField = (spec, { timeout }) => wholeField("timeoutMs", whole(spec, timeout, "timeout"));

messaging("publish", () => "", nothing);
messaging("request", timeoutField, (reply, body) => messageOf(field(reply, "messages")?.[0] ?? NONE, body));
messaging("requestMany", (spec, chosen) => {
  const most = wholeField("maxMessages", whole(spec, chosen.max, "max"));
  const stall = wholeField("stallMs", whole(spec, chosen.stall, "stall"));
  return most + stall + timeoutField(spec, chosen);
}, messagesOf);

function http(name, verb) {
  const bodyless = verb === "GET" || verb === "HEAD" || verb === "DELETE";
  method("http", name, (spec, url, body, given) => {
    // Those that seldom have a body take their options in its place too.
    const instead = bodyless && given === undefined && typeof body === "object" && bytesOf(body) === undefined;
    const chosen = options(spec, instead ? body : given);
    const target = textField("url", url instanceof TheURL ? urlText(url) : text(spec, url, "URL"));
    const fields = target + headersField(pairsOf(spec, chosen.headers)) + timeoutField(spec, chosen);
    return [fields, instead ? EMPTY : payload(spec, body, true)];
  }, responseOf, verb);
}
http("get", "GET");
http("post", "POST");
http("put", "PUT");
http("patch", "PATCH");
http("delete", "DELETE");
http("del", "DELETE");
http("head", "HEAD");

// The services, each method as `invoke` calls it.
function surface(invoke) {
  const made = {};
  for (const service of keys(methods)) {
    made[service] = {};
    for (const name of keys(methods[service])) {
      const spec = methods[service][name];
      made[service][name] = { [name]: (...args) => invoke(spec, args) }[name];
    }
    freeze(made[service]);
  }
  return made;
}

function prepared(spec, args) {
  const made = spec.prepare(spec, args[0], args[1], args[2]);
  return { request: requestOf(spec, made[0]), body: made[1] ?? EMPTY };
}

function invokeSync(spec, args) {
  const { request, body } = prepared(spec, args);
  return spec.read === undefined ? watchSync(spec, request) : callSync(spec, request, body);
}

function invokeAsync(spec, args) {
  if (spec.read === undefined) return watchAsync(spec, prepared(spec, args).request);
  try {
    const { request, body } = prepared(spec, args);
    return callAsync(spec, request, body).promise;
  } catch (error) {
    return new ThePromise((_, reject) => reject(error));
  }
}

const hostServices = freeze({ ...surface(invokeSync), async: freeze(surface(invokeAsync)) });
