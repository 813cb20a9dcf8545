// Any resource by its path; ``word`` makes a path out of names.

import { Problem, query, request } from "./api.js";

export const rest = {
  get: (path, parameters) => request("GET", path + query(parameters)),
  post: (path, body) => request("POST", path, body),
  patch: (path, body) => request("PATCH", path, body),
  remove: (path) => request("DELETE", path),
  sendFile,
};

export const word = (parts, ...values) => String.raw({ raw: parts }, ...values.map((value) => encodeURIComponent(value)));

/** A file as it is, by POST. */
async function sendFile(path, text, kind) {
  let response;
  try {
    response = await fetch(`/api/v1${path}`, { method: "POST", headers: { "Content-Type": kind }, body: text, cache: "no-store" });
  } catch {
    throw new Problem({ status: 0, detail: "The dashboard's server cannot be reached." });
  }
  const value = await response.json().catch(() => ({ detail: `The server answered ${response.status}.` }));
  if (!response.ok) throw new Problem({ status: response.status, ...value });
  return value;
}
