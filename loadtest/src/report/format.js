// Numbers and times as people read them.

/** A number, or null: JSON has null where Rust had none. */
const finite = (value) => (Number.isFinite(value) ? value : null);

const sum = (counts) => Object.values(counts).reduce((all, one) => all + one, 0);

const count = (number) => Math.round(number).toLocaleString('en');

const counted = (number, noun) => `${count(number)} ${noun}${number === 1 ? '' : 's'}`;

/** As short as an axis needs it: 500, 1.5k, 2M. */
function compact(number) {
  if (number >= 1e21) return number.toExponential(0);
  const power = Math.min(6, Math.max(0, Math.floor(Math.log10(Math.max(number, 1)) / 3)));
  const digits = Number((number / 1000 ** power).toPrecision(3));
  return `${digits}${['', 'k', 'M', 'G', 'T', 'P', 'E'][power]}`;
}

/** Milliseconds: 250 µs, 3.4 ms, 1.2 s. */
function milliseconds(ms) {
  if (ms < 1) return `${Number((ms * 1000).toPrecision(2))} µs`;
  if (ms < 1000) return `${Number(ms.toPrecision(ms < 100 ? 2 : 3))} ms`;
  return `${compact(ms / 1000)} s`;
}

const two = (number) => String(number).padStart(2, '0');

/** A time since the run began, with as many digits as steps of so many seconds need. */
function moment(seconds, step) {
  const digits = step >= 1 ? 0 : Math.min(3, Math.ceil(-Math.log10(step) - 1e-9));
  if (seconds < 120) return `${seconds.toFixed(digits)} s`;
  const whole = Math.floor(seconds + 1e-9);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const rest = two(whole % 60) + (digits > 0 ? (seconds - whole).toFixed(digits).slice(1) : '');
  return hours > 0 ? `${hours}:${two(minutes)}:${rest} h` : `${minutes}:${rest} min`;
}

/** A tick of the axis of time: the unit goes by the whole axis, so that all ticks have the same. */
function tickOfTime(seconds, step, end) {
  if (end < 1) return `${Number((seconds * 1000).toFixed(3))} ms`;
  if (end <= 180) return `${Number(seconds.toFixed(3))} s`;
  if (end <= 7200) {
    const minutes = Math.floor(seconds / 60 + 1e-9);
    const rest = Math.round(seconds - minutes * 60);
    return `${minutes}${step % 60 === 0 ? '' : `:${two(rest)}`} min`;
  }
  return `${Number((seconds / 3600).toFixed(2))} h`;
}

/** What was counted, by its words: reset 2, timeout 1. */
function listed(counts, labels) {
  const pairs = Object.entries(counts).filter(([, number]) => number > 0);
  return pairs.map(([key, number]) => `${labels[key] ?? key} ${count(number)}`).join(', ');
}
