// Numbers, times and addresses as people read them.

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hour12: false });
const COUNT = new Intl.NumberFormat(undefined);

export const clock = (wall) => CLOCK.format(wall * 1000);
export const moment = (wall) => MOMENT.format(wall * 1000);
export const count = (number) => COUNT.format(number);

export function duration(seconds) {
  const s = Math.max(0, seconds);
  if (s < 0.01) return `${(s * 1000).toFixed(1)} ms`;
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(Math.floor(s % 60)).padStart(2, "0")} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export function offset(seconds) {
  if (Math.abs(seconds) < 100) return seconds.toFixed(3);
  if (Math.abs(seconds) < 10000) return seconds.toFixed(1);
  return seconds.toFixed(0);
}

export function octets(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = number;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : 1)} ${units[unit]}`;
}

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** `001 01 0000000001`: MCC, MNC guess left out; only grouped so that it can be read aloud. */
export const imsi = (text) => (text ? `${text.slice(0, 3)} ${text.slice(3, 5)} ${text.slice(5)}` : "not known yet");

/** A traffic selector that names every address as the network that it is. */
export function selector(text) {
  return text.replace(/^0\.0\.0\.0-255\.255\.255\.255/, "0.0.0.0/0").replace(/^::-(?:ffff:){7}ffff/i, "::/0");
}

/** Why a path was taken, in words; a path that was only tried was asked for. */
export function reason(path) {
  if (path.why === "UPDATE_SA_ADDRESSES") return path.validated ? "moved by UPDATE_SA_ADDRESSES" : "asked for by UPDATE_SA_ADDRESSES";
  if (path.why === "attach" || path.why === "attached") return "attached here";
  return path.why;
}

export function bitRate(bits) {
  const units = ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"];
  let value = bits;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit && value < 10 ? Number(value.toFixed(1)) : Math.round(value)} ${units[unit]}`;
}
