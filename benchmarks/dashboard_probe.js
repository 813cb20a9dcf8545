// What the measurement sees on the page: when what a gateway recorded was painted, and how soon a search was.
// An address of 100.64.0.0/10 tells its moment in milliseconds (benchmarks/busy_gateway.py).

(() => {
  const MOMENTS = 1 << 22;
  const ADDRESS = /100\.(\d+)\.(\d+)\.(\d+)/g;
  const SEEN = 20000;
  const seen = new Set(); // the addresses painted last, the oldest first
  let waiting = null;
  let begun = Infinity; // what was told before is a session's past: it may come into view at any time
  const probe = { ages: [], frames: 0, longest: 0 };
  globalThis.probe = probe;

  /** Milliseconds since the moment that an address tells. */
  function age(second, third, fourth, now) {
    const moment = (second - 64) * 65536 + third * 256 + fourth;
    return (((now - moment) % MOMENTS) + MOMENTS) % MOMENTS;
  }

  /** After the frame that is made next has been painted. */
  function painted(action) {
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => action(performance.timeOrigin + performance.now());
      channel.port2.postMessage(null);
    });
  }

  function texts(records) {
    const found = [];
    for (const { type, target, addedNodes } of records) {
      if (type === "characterData") found.push(target.data);
      else for (const node of addedNodes) found.push(node.textContent);
    }
    return found.join("\n");
  }

  new MutationObserver((records) => {
    const fresh = [];
    for (const match of texts(records).matchAll(ADDRESS)) {
      if (seen.has(match[0])) continue;
      seen.add(match[0]);
      fresh.push(match.slice(1).map(Number));
    }
    for (const oldest of seen) {
      if (seen.size <= SEEN) break;
      seen.delete(oldest);
    }
    if (fresh.length) painted((now) => probe.ages.push(...fresh.map((parts) => age(...parts, now)).filter((each) => now - each >= begun)));
    if (waiting?.begun && waiting.done()) {
      const { begun, tell } = waiting;
      waiting = null;
      painted((now) => tell(now - performance.timeOrigin - begun));
    }
  }).observe(document, { subtree: true, childList: true, characterData: true });

  let last = 0;
  (function frame(now) {
    if (last) probe.longest = Math.max(probe.longest, now - last);
    last = now;
    probe.frames += 1;
    requestAnimationFrame(frame);
  })(0);

  addEventListener("keydown", (event) => {
    if (waiting) waiting.begun = event.timeStamp;
  }, true);

  /** Milliseconds from the next key press until the table says so many and each of its rows has the text. */
  probe.searched = (total, text) => new Promise((tell) => {
    const shown = new RegExp(`^${total.toLocaleString("en")} `);
    const done = () => {
      const rows = [...document.querySelectorAll("#sessions tr")];
      return shown.test(document.getElementById("summary").textContent.trim())
        && rows.length === Math.min(total, 50) && rows.every((row) => row.textContent.replaceAll(" ", "").includes(text));
    };
    waiting = { begun: 0, done, tell };
  });

  /** Count what is told from now on, and nothing that was seen before. */
  probe.begin = () => {
    probe.take();
    begun = performance.timeOrigin + performance.now();
  };

  /** What was seen since it was asked last. */
  probe.take = () => {
    const { ages, frames, longest } = probe;
    Object.assign(probe, { ages: [], frames: 0, longest: 0 });
    return { ages, frames, longest };
  };
})();
