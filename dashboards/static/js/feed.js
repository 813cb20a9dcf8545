// The live feed: one EventSource that always comes back, from where it stopped.

const FIRST_RETRY = 1000;
const LONGEST_RETRY = 10000;

export class Feed extends EventTarget {
  #source = null;
  #names = "node,restarted";
  #sessions = "";
  #last = "";
  #timer = 0;
  #retry = FIRST_RETRY;
  connected = false;
  started = false; // whether the first attempt has ended, either way

  /** The id of the last event, "" before the first: what is asked for now is not older than that. */
  get last() {
    return this.#last;
  }

  /**
   * Follow these events from now on, of sessions and records only those of ``sessions`` where any are named; what was
   * missed meanwhile is replayed, from after the event ``since`` on: what the page shows may be as old as that.
   */
  follow(names, sessions = [], since = "") {
    const wanted = [...new Set(sessions)].sort().join("\n");
    if (names === this.#names && wanted === this.#sessions && this.#source) return;
    this.#names = names;
    this.#sessions = wanted;
    if (since) this.#last = since;
    this.#open();
  }

  stop() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  #open() {
    this.stop();
    const parameters = new URLSearchParams({ events: this.#names });
    for (const session of this.#sessions.split("\n").filter(Boolean)) parameters.append("session", session);
    if (this.#last) parameters.set("after", this.#last);
    const source = new EventSource(`/api/v1/events?${parameters}`);
    this.#source = source;
    const take = (event) => {
      if (event.lastEventId) this.#last = event.lastEventId;
      this.dispatchEvent(new CustomEvent(event.type, { detail: JSON.parse(event.data) }));
    };
    for (const name of ["hello", "reset", ...this.#names.split(",")]) source.addEventListener(name, take);
    source.onopen = () => {
      this.#retry = FIRST_RETRY;
      this.#setConnected(true);
    };
    source.onerror = () => {
      this.#setConnected(false);
      if (source.readyState !== EventSource.CLOSED || source !== this.#source) return;
      this.#timer = setTimeout(() => this.#open(), this.#retry);
      this.#retry = Math.min(this.#retry * 2, LONGEST_RETRY);
    };
  }

  #setConnected(connected) {
    if (connected === this.connected && this.started) return;
    this.started = true;
    this.connected = connected;
    this.dispatchEvent(new CustomEvent("connection", { detail: connected }));
  }
}
