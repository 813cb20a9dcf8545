// The REST interface. A refusal is a Problem with the members of RFC 9457.

export class Problem extends Error {
  constructor(body) {
    super(body.detail ?? body.title ?? "The server refused.");
    this.status = body.status ?? 0;
    this.type = body.type ?? "about:blank";
    this.node = body.node;
    this.errors = body.errors ?? []; // of an invalid request: {in, name, detail}
  }
}

/** ``body`` goes as JSON, a file as it is under its own media type; an aborted ``signal`` throws as ``fetch`` does. */
async function send(method, path, body, kind = "application/json", signal = null) {
  try {
    return await fetch(`/api/v1${path}`, {
      method,
      signal,
      headers: body === undefined ? {} : { "Content-Type": kind },
      body: body === undefined || body instanceof Blob ? body : JSON.stringify(body),
      cache: "no-store",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem({ status: 0, detail: "The dashboard's server cannot be reached." });
  }
}

async function request(method, path, body, kind, signal) {
  return read(await send(method, path, body, kind, signal));
}

/** A file and the name that the server gives it. */
async function download(path) {
  const response = await send("GET", path);
  if (!response.ok) await read(response);
  const name = /filename="?([^";]+)"?/.exec(response.headers.get("Content-Disposition") ?? "")?.[1];
  return { content: await response.blob(), name };
}

async function read(response) {
  const text = await response.text();
  let value = {};
  try {
    value = text ? JSON.parse(text) : {};
  } catch {
    value = { detail: `The server answered ${response.status}.` };
  }
  if (!response.ok) throw new Problem({ status: response.status, ...value });
  return value;
}

const query = (parameters) => {
  const set = Object.entries(parameters ?? {}).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return set.length ? `?${new URLSearchParams(set)}` : "";
};

export const api = {
  me: () => request("GET", "/me"),
  signIn: (token) => request("POST", "/sign-in", { token }),
  signOut: () => request("POST", "/sign-out"),
  nodes: () => request("GET", "/nodes"),
  sessions: (parameters, signal) => request("GET", `/sessions${query(parameters)}`, undefined, undefined, signal),
  session: (id) => request("GET", `/sessions/${encodeURIComponent(id)}`),
  ladder: (id) => request("GET", `/sessions/${encodeURIComponent(id)}/ladder`),
  message: (id, record) => request("GET", `/sessions/${encodeURIComponent(id)}/messages/${encodeURIComponent(record)}`),
  explanation: (id) => request("GET", `/sessions/${encodeURIComponent(id)}/explanation`),
  evidence: (id, keys) => download(`/sessions/${encodeURIComponent(id)}/evidence${query({ keys: keys || undefined })}`),
  act: (id, action, parameters) => request("POST", `/sessions/${encodeURIComponent(id)}/${action}`, parameters),
  runs: () => request("GET", "/runs"),
  run: (name) => request("GET", `/runs/${encodeURIComponent(name)}`),
  detach: (id, cause) => request("DELETE", `/sessions/${encodeURIComponent(id)}${query({ cause })}`),
};

export { query, request };
