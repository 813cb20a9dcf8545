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

/** Never two at a time: what is asked for meanwhile is one more round when the present one is over, ``pause`` ms later. */
export function oneAtATime(ask, pause = 150) {
  let busy = false;
  let again = false;
  return async function round() {
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      await ask();
    } finally {
      if (again) await new Promise((resolve) => setTimeout(resolve, pause));
      busy = false;
      if (again) {
        again = false;
        round();
      }
    }
  };
}
