// A run as the panels take it: every slice with its real length, gaps as null.

/** A slice that had load for less of its time than this says nothing about a rate. */
const ENOUGH_LOAD = 0.25;

function prepare(given) {
  const length = Math.max(finite(given.slice_seconds) ?? 0, 0);
  const seconds = Math.max(finite(given.seconds) ?? 0, 0);
  const last = given.slices.length - 1;
  const slices = given.slices.map((one, index) => {
    const row = { ...one, at: finite(one.at) ?? index * length };
    const whole = row.at + length;
    // The load may end before the last slice does; what comes after has its full length.
    const to = index === last && row.at < seconds ? Math.min(whole, seconds) : whole;
    return prepareSlice(row, to, { index, seconds, length, excused: given.excused[index] ?? 0 });
  });
  const time = (value) => Math.max(finite(value) ?? 0, 0);
  const deeds = given.deeds.map((deed, index) => ({ ...deed, at: time(deed.at), number: index + 1 }));
  const band = (one, deed) => ({ phase: one.phase, from: time(one.from), to: time(one.to), deed });
  const bands = deeds.flatMap((deed) => deed.phases.map((one) => band(one, deed)));
  const end = Math.max(seconds, slices[last]?.to ?? 0) || 1;
  return { seconds, length, end, slices, deeds, bands, cpu: given.cpu, labels: given.labels };
}

function prepareSlice(row, to, { index, seconds, length, excused }) {
  const ended = sum(row.ok);
  const failures = sum(row.failed);
  // After the load has ended, what still ends is no rate.
  const loaded = Math.min(to, seconds) - row.at;
  const isRate = loaded > 0 && (loaded >= length * ENOUGH_LOAD || index === 0);
  const latency = (value) => (ended > 0 ? finite(value) : null);
  return {
    index,
    from: row.at,
    to,
    middle: (row.at + to) / 2,
    loaded: Math.max(loaded, 0),
    ok: row.ok,
    ended,
    rate: isRate ? ended / loaded : null,
    failed: row.failed,
    failures,
    excused: Math.min(excused, failures),
    disturbances: row.disturbances,
    disturbed: sum(row.disturbances),
    p50: latency(row.p50),
    p99: latency(row.p99),
    max: latency(row.max),
    open: row.open,
  };
}

/** The slice that a time is in, or the nearest. */
function sliceAt(run, time) {
  // A time on a border is in the slice that begins there, whatever its last digit says.
  const guess = run.length > 0 ? Math.floor(time / run.length + 1e-6) : 0;
  return Math.min(Math.max(guess, 0), run.slices.length - 1);
}

/** The phases of upgrades that a slice touches. */
const bandsAt = (run, slice) => run.bands.filter((band) => band.from < slice.to && band.to > slice.from);

/** What failed in a slice, in words. */
function failuresIn(run, slice) {
  const excused = slice.excused > 0 ? `, ${count(slice.excused)} of them excused` : '';
  return `${count(slice.failures)} failed: ${listed(slice.failed, run.labels.classes)}${excused}`;
}

const disturbancesIn = (run, slice) =>
  `${counted(slice.disturbed, 'disturbance')}: ${listed(slice.disturbances, run.labels.disturbances)}`;

const timeOf = (run, slice) => `${moment(slice.from, run.length).replace(/ .*/, '')}–${moment(slice.to, run.length)}`;
