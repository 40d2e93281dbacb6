// Drawing: scales, axes, the bands of upgrades, and the shapes that panels are made of.

const LEFT = 62;
const RIGHT = 10;
const AXIS = 18;
const PIXELS_BETWEEN_TIMES = 90;
/** So many levels have room in a panel. */
const MOST_LEVELS = 6;
/** Deeds that are nearer to each other than this are drawn fainter, so that they do not cover what they stand behind. */
const DENSE = 14;
const STEPS_OF_TIME = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];

const px = (value) => Math.round(value * 10) / 10;

function draw(parent, name, attributes, text) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

/** An element of its own that says what it is when it is pointed at. */
function drawNamed(parent, name, attributes, title) {
  const element = draw(parent, name, attributes);
  draw(element, 'title', {}, title);
  return element;
}

// ── scales ──

/** The step of 1, 2 or 5 times a power of ten of which not more than `most` fit. */
function niceStep(range, most) {
  const power = 10 ** Math.floor(Math.log10(range / most));
  const factor = [1, 2, 5, 10].find((one) => range / (one * power) <= most);
  return (factor ?? 10) * power;
}

function linear(highest, most) {
  const top = highest > 0 && Number.isFinite(highest) ? highest : 1;
  const step = niceStep(top, most);
  const to = Math.ceil(top / step - 1e-9) * step;
  const ticks = Array.from({ length: Math.round(to / step) + 1 }, (_, index) => index * step);
  return { ticks, part: (value) => Math.min(Math.max(value / to, 0), 1) };
}

/** From the 1, 2 or 5 below the lowest to the one above the highest. */
function logarithmic(lowest, highest) {
  const bottom = lowest > 0 ? lowest : 0.1;
  const top = Math.max(highest, bottom);
  const low = [5, 2, 1].map((one) => one * 10 ** Math.floor(Math.log10(bottom))).find((one) => one <= bottom * 1.001);
  const high = [1, 2, 5, 10].map((one) => one * 10 ** Math.floor(Math.log10(top))).find((one) => one >= top * 0.999);
  const from = Math.log10(low ?? bottom);
  const to = Math.max(Math.log10(high ?? top), from + 1);
  const factors = to - from > 2.2 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let power = Math.floor(from); power <= to; power += 1) {
    ticks.push(...factors.map((one) => one * 10 ** power));
  }
  const part = (value) => (value > 0 ? Math.min(Math.max((Math.log10(value) - from) / (to - from), 0), 1) : 0);
  const within = ticks.filter((one) => Math.log10(one) >= from - 1e-9 && Math.log10(one) <= to + 1e-9);
  const each = Math.ceil(within.length / MOST_LEVELS);
  return { ticks: within.filter((_, index) => index % each === 0), part };
}

// ── a panel ──

/** What all panels of a run share: the axis of time, for so many pixels. */
function frameOf(run, width) {
  const inner = Math.max(width - LEFT - RIGHT, 50);
  const part = (time) => Math.min(Math.max(time / run.end, 0), 1);
  const dense = inner / Math.max(run.deeds.length, 1) < DENSE;
  return { run, width, dense, left: LEFT, right: LEFT + inner, x: (time) => px(LEFT + part(time) * inner) };
}

/** Draws a panel into its SVG, which is emptied first. Gives the line of its crosshair. */
function drawPanel(svg, panel, frame) {
  svg.replaceChildren();
  svg.classList.toggle('dense', frame.dense);
  svg.setAttribute('viewBox', `0 0 ${frame.width} ${panel.height}`);
  const box = { ...frame, top: panel.top ?? 8, bottom: panel.height - AXIS };
  box.y = (value) => px(box.bottom - panel.scale.part(value) * (box.bottom - box.top));
  drawBands(svg, box);
  drawEndOfLoad(svg, box);
  if (panel.scale) drawLevels(svg, box, panel);
  drawTimes(svg, box);
  panel.draw(svg, box);
  return draw(svg, 'line', { class: 'cross', x1: 0, x2: 0, y1: box.top, y2: box.bottom, visibility: 'hidden' });
}

function drawBands(svg, box) {
  const group = draw(svg, 'g', { class: 'bands' });
  for (const band of box.run.bands) {
    const from = box.x(band.from);
    const width = Math.max(box.x(band.to) - from, 0.6);
    draw(group, 'rect', { class: `band ${band.phase}`, x: from, y: box.top, width: px(width), height: box.bottom - box.top });
  }
  for (const deed of box.run.deeds.filter((one) => one.deed.startsWith('kill') || !one.as_expected)) {
    const x = box.x(deed.at);
    draw(group, 'line', { class: 'moment', x1: x, x2: x, y1: box.top, y2: box.bottom });
  }
}

function drawEndOfLoad(svg, box) {
  const { seconds, end } = box.run;
  if (seconds >= end) return;
  const x = box.x(seconds);
  drawNamed(svg, 'rect', { class: 'after', x, y: box.top, width: px(box.right - x), height: box.bottom - box.top }, 'The load has ended.');
  draw(svg, 'line', { class: 'end', x1: x, x2: x, y1: box.top, y2: box.bottom });
}

function drawLevels(svg, box, panel) {
  const group = draw(svg, 'g', { class: 'axis' });
  for (const tick of panel.scale.ticks) {
    const y = box.y(tick);
    draw(group, 'line', { x1: box.left, x2: box.right, y1: y, y2: y });
    draw(group, 'text', { x: box.left - 6, y: y + 3.5, 'text-anchor': 'end' }, panel.tick(tick));
  }
}

function drawTimes(svg, box) {
  const { end } = box.run;
  const most = Math.max((box.right - box.left) / PIXELS_BETWEEN_TIMES, 2);
  const known = end > 10 ? STEPS_OF_TIME.find((step) => end / step <= most) : undefined;
  const step = known ?? niceStep(end, most);
  const group = draw(svg, 'g', { class: 'axis times' });
  draw(group, 'line', { class: 'base', x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom });
  for (let index = 0; index * step <= end * (1 + 1e-9); index += 1) {
    const x = box.x(index * step);
    draw(group, 'line', { class: 'base', x1: x, x2: x, y1: box.bottom, y2: box.bottom + 3 });
    // The last one ends where the plot does, so that it is not cut.
    const anchor = index > 0 && x > box.right - 16 ? 'end' : 'middle';
    const text = { x: anchor === 'end' ? box.right : x, y: box.bottom + 14, 'text-anchor': anchor };
    draw(group, 'text', text, tickOfTime(index * step, step, end));
  }
}

// ── shapes ──

/** The slices that have a value, in pieces without a gap. */
function pieces(slices, value) {
  const found = [];
  let open = false;
  for (const slice of slices) {
    const has = value(slice) !== null;
    if (has && open) found.at(-1).push(slice);
    else if (has) found.push([slice]);
    open = has;
  }
  return found;
}

/** Through the middle of each slice, from the begin of the first to the end of the last. */
function points(box, piece, value) {
  const [first, last] = [piece[0], piece.at(-1)];
  const middle = piece.map((slice) => [box.x(slice.middle), box.y(value(slice))]);
  return [[box.x(first.from), box.y(value(first))], ...middle, [box.x(last.to), box.y(value(last))]];
}

const path = (all) => `M${all.map(([x, y]) => `${x},${y}`).join('L')}`;

function drawLine(svg, box, name, value) {
  const parts = pieces(box.run.slices, value).map((piece) => path(points(box, piece, value)));
  if (parts.length > 0) draw(svg, 'path', { class: `line ${name}`, d: parts.join('') });
}

function drawArea(svg, box, name, lower, upper) {
  const both = (slice) => (lower(slice) === null ? null : upper(slice));
  const parts = pieces(box.run.slices, both).map((piece) => {
    const below = points(box, piece, lower).reverse();
    return `${path([...points(box, piece, upper), ...below])}Z`;
  });
  if (parts.length > 0) draw(svg, 'path', { class: `area ${name}`, d: parts.join('') });
}

function drawDots(svg, box, name, value) {
  const group = draw(svg, 'g', { class: `dots ${name}` });
  for (const slice of box.run.slices.filter((one) => value(one) !== null)) {
    draw(group, 'circle', { cx: box.x(slice.middle), cy: box.y(value(slice)), r: 1.3 });
  }
}

/** A cross, for what failed; one that is excused is a ring. */
function drawFailures(svg, box, y) {
  for (const slice of box.run.slices.filter((one) => one.failures > 0)) {
    const all = slice.excused >= slice.failures;
    const at = `translate(${box.x(slice.middle)} ${y(slice)})`;
    const shape = all ? 'M-3.5,0a3.5,3.5 0 1 0 7,0a3.5,3.5 0 1 0 -7,0' : 'M-3.5,-3.5L3.5,3.5M-3.5,3.5L3.5,-3.5';
    const title = `${timeOf(box.run, slice)}: ${failuresIn(box.run, slice)}`;
    drawNamed(svg, 'path', { class: `failure${all ? ' excused' : ''}`, d: shape, transform: at }, title);
  }
}
