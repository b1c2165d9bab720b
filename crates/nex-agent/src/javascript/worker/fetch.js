
// ---------------------------------------------------------------- fetch

const TheHeaders = Headers;
const theRequest = onFirstUse("Request");
const theResponse = onFirstUse("Response");
const TheURL = URL;
const ownFetch = fetch;
const eachHeader = uncurry(Headers.prototype.forEach);
const appendHeader = uncurry(Headers.prototype.append);
const urlText = getterOf(URL.prototype, "href");
const isAborted = getterOf(AbortSignal.prototype, "aborted");
const abortReason = getterOf(AbortSignal.prototype, "reason");
const listen = uncurry(EventTarget.prototype.addEventListener);
const unlisten = uncurry(EventTarget.prototype.removeEventListener);
const FETCH = { service: "http", method: "fetch", opening: openingOf("http"), read: (reply, body) => ({ reply, body }) };

const PARTS = ["body", "headers", "method", "redirect", "signal", "url"];

let ofFetch;

// What is needed of the two classes, from the first fetch on.
function classes() {
  if (ofFetch !== undefined) return ofFetch;
  const TheRequest = theRequest();
  const TheResponse = theResponse();
  const part = create(null);
  for (let at = 0; at < PARTS.length; at++) part[PARTS[at]] = getterOf(TheRequest.prototype, PARTS[at]);
  const bodyOf = uncurry(TheRequest.prototype.arrayBuffer);
  const cloneOf = uncurry(TheResponse.prototype.clone);
  return ofFetch = { TheRequest, TheResponse, part, bodyOf, cloneOf };
}

async function hostFetch(input, init) {
  const { TheRequest, part, bodyOf } = classes();
  const request = new TheRequest(input, init);
  const url = part.url(request);
  // Of these the process itself has the content.
  if (/^(data|blob):/.test(url)) return await ownFetch(request);
  const redirect = part.redirect(request);
  const signal = part.signal(request);
  if (isAborted(signal)) throw abortReason(signal);
  const body = part.body(request) === null ? EMPTY : new TheBytes(await bodyOf(request));
  if (isAborted(signal)) throw abortReason(signal);
  const headers = pairsOf(FETCH, part.headers(request));
  // What 'error' forbids is a redirect that would be followed, so it must come as it is.
  const follow = redirect === "follow";
  const target = textField("method", part.method(request)) + textField("url", url);
  const asked = target + headersField(headers) + textField("redirect", follow ? "follow" : "manual");
  const { promise, cancel } = callAsync(FETCH, requestOf(FETCH, asked), body);
  const abort = () => cancel(abortReason(signal));
  listen(signal, "abort", abort);
  let answer;
  try {
    answer = await promise;
  } finally {
    unlisten(signal, "abort", abort);
  }
  if (redirect === "error" && isRedirect(answer.reply)) {
    throw new TypeError("fetch: the server redirects, which the caller forbids");
  }
  // The fragment is not sent, and may not come back.
  const came = field(answer.reply, "url");
  const redirected = came !== url && came !== slice(url, 0, indexOf(`${url}#`, "#"));
  return fetched(answer, redirected);
}

function isRedirect(reply) {
  const status = field(reply, "status");
  if (status !== 301 && status !== 302 && status !== 303 && status !== 307 && status !== 308) return false;
  const pairs = field(reply, "headers") ?? [];
  for (let at = 0; at < pairs.length; at++) if (toLowerCase(pairs[at][0]) === "location") return true;
  return false;
}

function fetched({ reply, body }, redirected) {
  const status = field(reply, "status");
  const headers = new TheHeaders();
  const pairs = field(reply, "headers") ?? [];
  for (let at = 0; at < pairs.length; at++) appendHeader(headers, pairs[at][0], pairs[at][1]);
  const bodyless = status === 204 || status === 205 || status === 304;
  const response = new (classes().TheResponse)(bodyless ? null : body, { status, headers });
  return placed(response, field(reply, "url"), redirected);
}

// A response that was made here knows nothing of where it came from.
function placed(response, url, redirected) {
  defineProperty(response, "url", { value: url });
  defineProperty(response, "redirected", { value: redirected });
  return hidden(response, "clone", () => placed(classes().cloneOf(response), url, redirected));
}
