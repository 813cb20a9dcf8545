// Asking again and again, while somebody looks.

/** Call ``ask`` now and every ``interval`` ms while the page is visible; the answer ends it. */
export function whileVisible(interval, ask) {
  let timer = 0;
  let ended = false;
  let busy = false;

  async function round() {
    clearTimeout(timer);
    if (ended || document.hidden || busy) return;
    busy = true;
    const began = performance.now();
    try {
      await ask();
    } finally {
      busy = false;
    }
    if (!ended) timer = setTimeout(round, Math.max(interval - (performance.now() - began), interval / 4));
  }

  document.addEventListener("visibilitychange", round);
  round();
  return () => {
    ended = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", round);
  };
}
