// Any resource by its path; ``word`` makes a path out of names.

import { query, request } from "./api.js";

export const rest = {
  get: (path, parameters) => request("GET", path + query(parameters)),
  post: (path, body) => request("POST", path, body),
  sendFile: (path, file, kind) => request("POST", path, file, kind),
  patch: (path, body) => request("PATCH", path, body),
  remove: (path) => request("DELETE", path),
};

export const word = (parts, ...values) => String.raw({ raw: parts }, ...values.map((value) => encodeURIComponent(value)));
