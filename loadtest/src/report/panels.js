// The panels, each a function of a run: what it is called, how high it is, its legend, and how it is drawn.
//
// A legend's `value` gives the text of a slice, for the crosshair; `rest` stands there when nothing is pointed at.

/** So many of the newest generations have colours of their own; what is older is one. */
const NEWEST_GENERATIONS = 8;
/** How many colours of generations the style has; they come in turn, so that neighbours differ. */
const COLOURS = 6;
/** A legend that names more is longer than it is of use. */
const NAMED_GENERATIONS = 12;

const NARROW = 620;

const highest = (run, value) => run.slices.reduce((most, slice) => Math.max(most, value(slice) ?? 0), 0);

/** All panels that a run has something for. */
function panelsOf(run, width) {
  const low = width < NARROW;
  const all = [deedsPanel(run), ratePanel(run, low), latencyPanel(run, low), connectionsPanel(run, low)];
  return run.cpu.length > 0 ? [...all, cpuPanel(run, low)] : all;
}

// ── what was done, and what was seen ──

const GLYPHS = {
  upgrade: 'M0,-4L4,3.5L-4,3.5Z',
  change: 'M0,-4.5L4,0L0,4.5L-4,0Z',
  bad_upgrade: 'M-3.5,-3.5H3.5V3.5H-3.5Z',
  kill_new: 'M-3.5,-3.5L3.5,3.5M-3.5,3.5L3.5,-3.5',
  kill_old: 'M-3.5,-3.5L3.5,3.5M-3.5,3.5L3.5,-3.5',
};
const SHORT = { upgrade: '', change: 'change', bad_upgrade: 'bad', kill_new: 'kill new', kill_old: 'kill old' };
const PHASES = ['starting', 'probation', 'draining'];
/** Where there is no room for more. */
const TICK = 'M-0.6,-4H0.6V4H-0.6Z';
const ROWS = { deeds: 13, phases: 34, failed: 66, disturbed: 92 };

function deedsPanel(run) {
  const kinds = Object.keys(GLYPHS).filter((kind) => run.deeds.some((deed) => deed.deed === kind));
  const phases = PHASES.map((phase) => ({ label: run.labels.phases[phase], swatch: `phase ${phase}` }));
  const legend = kinds.map((kind) => ({ label: run.labels.deeds[kind], glyph: GLYPHS[kind], swatch: `deed ${kind}` }));
  return {
    id: 'deeds',
    title: 'Upgrades',
    note: 'what was done to the proxy, and what its clients saw',
    height: 98 + AXIS,
    top: 2,
    legend: [...legend, ...(run.bands.length > 0 ? phases : [])],
    draw(svg, box) {
      drawRowNames(svg, box);
      drawPhases(svg, box);
      drawDeeds(svg, box);
      drawCounts(svg, box, 'failed', (slice) => slice.failures, failuresIn);
      drawCounts(svg, box, 'disturbed', (slice) => slice.disturbed, disturbancesIn);
    },
  };
}

function drawRowNames(svg, box) {
  const group = draw(svg, 'g', { class: 'axis' });
  const names = { deeds: 'done', phases: 'phases', failed: 'failed', disturbed: 'disturbed' };
  for (const [row, name] of Object.entries(names)) {
    draw(group, 'text', { x: box.left - 6, y: ROWS[row] + 1.5, 'text-anchor': 'end' }, name);
    if (row !== 'deeds') draw(group, 'line', { x1: box.left, x2: box.right, y1: ROWS[row] + 6, y2: ROWS[row] + 6 });
  }
}

/** Each phase has a height of its own too, for those who do not see its colour. */
function drawPhases(svg, box) {
  const heights = { starting: 4, probation: 8, draining: 12 };
  for (const band of box.run.bands) {
    const height = heights[band.phase] ?? 2;
    const from = box.x(band.from);
    const shape = { x: from, y: ROWS.phases + 6 - height, width: px(Math.max(box.x(band.to) - from, 1)), height };
    const words = `${box.run.labels.phases[band.phase] ?? band.phase} of ${band.deed.number}`;
    const title = `${words}: ${moment(band.from, 0.01)} to ${moment(band.to, 0.01)}`;
    drawNamed(svg, 'rect', { class: `phase ${band.phase}`, ...shape }, title);
  }
}

function drawDeeds(svg, box) {
  for (const deed of box.run.deeds) {
    const expected = deed.as_expected ? '' : ', not as expected';
    const title = `${deed.number}: ${box.run.labels.deeds[deed.deed]} at ${moment(deed.at, 0.01)}${expected}: ${deed.detail}`;
    const usual = deed.deed === 'upgrade' && deed.as_expected;
    const shape = {
      class: `deed ${deed.deed}${deed.as_expected ? '' : ' unexpected'}`,
      d: box.dense && usual ? TICK : GLYPHS[deed.deed],
      transform: `translate(${box.x(deed.at)} ${ROWS.deeds - 2})`,
    };
    drawNamed(svg, 'path', shape, title);
  }
  for (const { deed, x, text } of labelsThatFit(box)) {
    draw(svg, 'text', { class: `label${deed.as_expected ? '' : ' unexpected'}`, x, y: ROWS.deeds + 1.5 }, text);
  }
}

/** The labels of deeds for which there is room, with or without a word: what is unusual comes first. */
function labelsThatFit(box) {
  const unusual = (deed) => (deed.as_expected ? 0 : 2) + (deed.deed === 'upgrade' ? 0 : 1);
  const order = [...box.run.deeds].sort((one, other) => unusual(other) - unusual(one) || one.number - other.number);
  const marks = box.run.deeds.map((deed) => box.x(deed.at));
  const placed = [];
  for (const deed of order) {
    const mark = deed.as_expected ? '' : '!';
    const texts = [`${deed.number}${mark} ${SHORT[deed.deed]}`.trim(), `${deed.number}${mark}`];
    const x = box.x(deed.at) + 6;
    const fits = (text) => {
      const to = x + text.length * 6.6;
      const free = placed.every((one) => one.to < x || one.x > to) && !marks.some((one) => one > x && one - 3 < to);
      return free && to < box.width;
    };
    const text = texts.find(fits);
    if (text) placed.push({ deed, text, x, to: x + text.length * 6.6 });
  }
  return placed;
}

/** A bar for each slice that has some: its area goes by the number, so that one is still seen beside a thousand. */
function drawCounts(svg, box, row, number, words) {
  const most = highest(box.run, number);
  for (const slice of box.run.slices.filter((one) => number(one) > 0)) {
    const height = px(4 + 14 * Math.sqrt(number(slice) / most));
    const [from, to] = [box.x(slice.from), box.x(slice.to)];
    const width = px(Math.max(to - from - 0.5, 1.5));
    const excused = row === 'failed' && slice.excused >= slice.failures ? ' excused' : '';
    const shape = { x: from, y: px(ROWS[row] + 6 - height), width, height };
    drawNamed(svg, 'rect', { class: `count ${row}${excused}`, ...shape }, `${timeOf(box.run, slice)}: ${words(box.run, slice)}`);
  }
}

// ── rate ──

function ratePanel(run, low) {
  const loaded = run.slices.filter((slice) => slice.rate !== null);
  const time = loaded.reduce((all, slice) => all + slice.loaded, 0);
  const mean = time > 0 ? `mean ${compact(loaded.reduce((all, slice) => all + slice.ended, 0) / time)}/s` : '';
  const rate = (slice) => slice.rate;
  const value = (slice) => (slice.rate === null ? '–' : `${compact(slice.rate)}/s`);
  const failed = run.slices.some((slice) => slice.failures > 0);
  const legend = [{ label: 'ok', swatch: 'line rate', value, rest: mean }];
  if (failed) legend.push({ label: 'failed', swatch: 'failure', glyph: GLYPHS.kill_new, value: (slice) => count(slice.failures) });
  return {
    id: 'rate',
    title: 'Rate',
    note: 'exchanges that ended ok, a second',
    height: low ? 130 : 150,
    scale: linear(highest(run, rate), 4),
    tick: (tick) => `${compact(tick)}/s`,
    legend,
    draw(svg, box) {
      drawArea(svg, box, 'rate', (slice) => (slice.rate === null ? null : 0), rate);
      drawLine(svg, box, 'rate', rate);
      drawFailures(svg, box, (slice) => box.y(slice.rate ?? 0));
    },
  };
}

// ── latency ──

function latencyPanel(run, low) {
  const values = run.slices.flatMap((slice) => [slice.p50, slice.max]).filter((one) => one > 0);
  const lowest = values.reduce((least, one) => Math.min(least, one), Infinity);
  const of = (key) => (slice) => (slice[key] === null ? '–' : milliseconds(slice[key]));
  const legend = ['max', 'p99', 'p50'].map((key) => ({ label: key, swatch: `line ${key}`, value: of(key) }));
  return {
    id: 'latency',
    title: 'Latency',
    note: 'from the intended time to the end, of those that ended ok; logarithmic',
    height: low ? 160 : 190,
    scale: logarithmic(Number.isFinite(lowest) ? lowest : 0.1, highest(run, (slice) => slice.max)),
    tick: milliseconds,
    legend,
    draw(svg, box) {
      drawArea(svg, box, 'spread', (slice) => slice.p50, (slice) => slice.p99);
      drawDots(svg, box, 'max', (slice) => slice.max);
      drawLine(svg, box, 'p99', (slice) => slice.p99);
      drawLine(svg, box, 'p50', (slice) => slice.p50);
    },
  };
}

// ── connections ──

/** One layer for each generation, the lowest first, each with what it has in every slice and what is below it. */
function generations(run) {
  const layers = new Map();
  const layer = (generation) => {
    if (!layers.has(generation)) layers.set(generation, { generation, values: run.slices.map(() => 0) });
    return layers.get(generation);
  };
  let newest = 0;
  for (const slice of run.slices) {
    const open = Object.entries(slice.open).map(([key, number]) => [Number(key), number]);
    newest = open.reduce((most, [generation]) => Math.max(most, generation), newest);
    for (const [generation, number] of open) {
      layer(generation + NEWEST_GENERATIONS > newest ? generation : -1).values[slice.index] += number;
    }
  }
  const sorted = [...layers.values()].sort((one, other) => one.generation - other.generation);
  let below = run.slices.map(() => 0);
  for (const one of sorted) {
    one.below = below;
    below = below.map((value, index) => value + one.values[index]);
  }
  return { layers: sorted, top: below.reduce((most, value) => Math.max(most, value), 0) };
}

const colourOf = (generation) => (generation < 0 ? 'older' : `generation-${generation % COLOURS}`);
/** Counted from 1, as people and exuvia's own status do. */
const nameOf = (generation) => (generation < 0 ? 'older' : String(generation + 1));

function connectionsPanel(run, low) {
  const { layers, top } = generations(run);
  return {
    id: 'connections',
    title: 'Connections',
    note: 'open at the end of each slice, by the generation that accepted them',
    height: low ? 140 : 160,
    scale: linear(top, 4),
    tick: compact,
    legend: legendOfGenerations(layers),
    draw(svg, box) {
      for (const layer of layers) drawLayer(svg, box, layer);
      for (const layer of layers) drawLayerName(svg, box, layer);
    },
  };
}

/** How many connections are open in a slice, by generation, the newest first. */
function openIn(slice) {
  const parts = Object.entries(slice.open).filter(([, number]) => number > 0).reverse();
  const shown = parts.slice(0, NEWEST_GENERATIONS).map(([key, number]) => `${count(number)} of generation ${nameOf(Number(key))}`);
  const others = parts.length > shown.length ? ', …' : '';
  return `${count(sum(slice.open))} open${parts.length > 0 ? `: ${shown.join(', ')}${others}` : ''}`;
}

function legendOfGenerations(layers) {
  if (layers.length > NAMED_GENERATIONS) {
    return [{ label: `generations in ${COLOURS} colours in turn` }, { label: 'older', swatch: 'area older' }];
  }
  const swatches = layers.map(({ generation }) => ({ label: nameOf(generation), swatch: `area ${colourOf(generation)}` }));
  return layers.length > 0 ? [{ label: 'generation' }, ...swatches] : [];
}

/** A layer is drawn where it has something, and to the next slice on either side, where its height is nothing. */
function drawLayer(svg, box, { generation, values, below }) {
  const near = (index) => values[index - 1] > 0 || values[index] > 0 || values[index + 1] > 0;
  const lower = (slice) => (near(slice.index) ? below[slice.index] : null);
  drawArea(svg, box, colourOf(generation), lower, (slice) => below[slice.index] + values[slice.index]);
}

/** The name of a layer inside of it, where it is high enough for long enough. */
function drawLayerName(svg, box, { generation, values, below }) {
  const y = (slice) => [box.y(below[slice.index]), box.y(below[slice.index] + values[slice.index])];
  const high = (slice) => (y(slice)[0] - y(slice)[1] >= 14 ? slice : null);
  const runs = pieces(box.run.slices, high).map((piece) => ({ piece, width: box.x(piece.at(-1).to) - box.x(piece[0].from) }));
  const longest = runs.reduce((best, one) => (one.width > best.width ? one : best), { width: 0 });
  const text = nameOf(generation);
  if (longest.width < text.length * 7 + 6) return;
  const slice = longest.piece[Math.floor(longest.piece.length / 2)];
  const [low, top] = y(slice);
  draw(svg, 'text', { class: 'inside', x: box.x(slice.middle), y: px((low + top) / 2 + 4), 'text-anchor': 'middle' }, text);
}

// ── CPU ──

function cpuPanel(run, low) {
  // A slice that is not over yet when the processes are looked at last has too little.
  const known = (slice) => slice.to <= run.seconds + 1e-9 || slice.index === 0;
  const used = (group) => (slice) => (known(slice) ? finite(group.by_slice[slice.index]) : null);
  const most = run.cpu.reduce((all, group) => Math.max(all, highest(run, used(group))), 0);
  const legend = run.cpu.map((group, index) => ({
    label: group.name,
    swatch: `line cpu-${index % 3}`,
    value: (slice) => used(group)(slice)?.toFixed(2) ?? '–',
  }));
  return {
    id: 'cpu',
    title: 'CPU',
    note: '1 is one processor, all of it',
    height: low ? 110 : 120,
    scale: linear(most, 4),
    tick: (tick) => String(Number(tick.toPrecision(3))),
    legend,
    draw(svg, box) {
      run.cpu.forEach((group, index) => drawLine(svg, box, `cpu-${index % 3}`, used(group)));
    },
  };
}
