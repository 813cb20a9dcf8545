// What several parts of the page share: nodes, who is signed in, and the feed that keeps them current.

import { api } from "./api.js";
import { Feed } from "./feed.js";

class State extends EventTarget {
  nodes = [];
  signedIn = false;
  openToRead = true;
  name = null;
  role = null;
  feed = new Feed();
  #told = new Set(); // for each question about the nodes under way: which of them the feed has told of meanwhile

  get gatewayReachable() {
    const gateways = this.nodes.filter((node) => node.kind === "epdg");
    return gateways.length === 0 || gateways.some((node) => node.reachable);
  }

  get mayRead() {
    return this.openToRead || this.signedIn;
  }

  /** Whether actions are offered: to operators, and to whoever has not signed in yet and is then asked to. */
  get mayAct() {
    return !this.signedIn || this.role === "operator";
  }

  async start() {
    this.feed.addEventListener("node", (event) => this.#takeNode(event.detail));
    this.feed.addEventListener("connection", (event) => {
      this.changed();
      if (event.detail) this.refresh();
    });
    this.feed.addEventListener("reset", () => this.refresh());
    await this.refresh();
  }

  async refresh() {
    const told = new Map();
    this.#told.add(told);
    try {
      this.#takeStanding(await api.me());
      if (this.mayRead) this.nodes = (await api.nodes()).nodes.map((node) => told.get(node.name) ?? node);
    } catch {
      // the feed's state says that the server is away
    }
    this.#told.delete(told);
    this.changed();
    this.dispatchEvent(new CustomEvent("refreshed"));
  }

  async signIn(token) {
    this.#takeStanding(await api.signIn(token));
    await this.refresh();
  }

  async signOut() {
    this.#takeStanding(await api.signOut());
    this.changed();
  }

  changed() {
    this.dispatchEvent(new CustomEvent("changed"));
  }

  #takeStanding(standing) {
    this.signedIn = standing.signed_in;
    this.openToRead = standing.open_to_read;
    this.name = standing.name;
    this.role = standing.role;
  }

  #takeNode(node) {
    const before = this.gatewayReachable;
    for (const told of this.#told) told.set(node.name, node); // newer than the answer, or followed by what is
    const index = this.nodes.findIndex((known) => known.name === node.name);
    if (index < 0) this.nodes.push(node);
    else this.nodes[index] = node;
    this.changed();
    if (!before && this.gatewayReachable) this.dispatchEvent(new CustomEvent("refreshed"));
  }
}

export const state = new State();
