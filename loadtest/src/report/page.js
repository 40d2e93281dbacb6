// The page: its head, the panels with their crosshair, the tables, and what was asked for where.
//
// Nothing of the data becomes markup: text goes in as text only.

const byId = (id) => document.getElementById(id);

function make(name, { text, ...properties } = {}, children = []) {
  const element = Object.assign(document.createElement(name), properties);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

// ── the head ──

function showVerdict({ verdict, who, figures }) {
  const glyph = { passed: '✓', failed: '✕', interrupted: '‖' }[verdict.state];
  document.title = `${verdict.word}: ${who[0] || 'exuvia-loadtest'}`;
  byId('who').textContent = who.filter((part) => part).join(' · ');
  byId('badge').className = verdict.state;
  byId('badge').textContent = `${glyph} ${verdict.word}`;
  byId('sentence').textContent = verdict.sentence;
  byId('reasons').append(...verdict.reasons.map((text) => make('li', { text })));
  for (const { name, value, note, bad } of figures) {
    const number = make('dd', { text: value, className: bad ? 'bad' : '' });
    byId('figures').append(make('div', {}, [make('dt', { text: name }), number, make('dd', { text: note, className: 'note' })]));
  }
}

// ── the panels ──

function legendItem(entry) {
  const item = make('li');
  if (entry.glyph) {
    const svg = draw(item, 'svg', { class: 'glyph', viewBox: '-6 -6 12 12', 'aria-hidden': 'true' });
    draw(svg, 'path', { class: entry.swatch, d: entry.glyph });
  } else if (entry.swatch) {
    const svg = draw(item, 'svg', { class: 'swatch', viewBox: '0 0 16 10', 'aria-hidden': 'true' });
    if (entry.swatch === 'line max') [3, 8, 13].forEach((cx) => draw(svg, 'circle', { class: 'dots max', cx, cy: 5, r: 1.5 }));
    else if (entry.swatch.startsWith('line')) draw(svg, 'path', { class: entry.swatch, d: 'M0,5H16' });
    else draw(svg, 'rect', { class: entry.swatch, x: 2, y: 0, width: 12, height: 10 });
  }
  item.append(make('span', { text: entry.label }));
  const value = entry.value ? make('b', { text: entry.rest ?? '' }) : null;
  if (value) item.append(value);
  return { item, show: (slice) => value && (value.textContent = slice ? entry.value(slice) : entry.rest ?? '') };
}

function makeFigure(panel) {
  const entries = panel.legend.map(legendItem);
  const svg = draw(document.createElement('div'), 'svg', { role: 'img', 'aria-label': `${panel.title}: ${panel.note}` });
  const head = [make('strong', { text: panel.title }), make('span', { text: panel.note, className: 'note' })];
  const legend = make('ul', { className: 'legend' }, entries.map((entry) => entry.item));
  const figure = make('figure', { id: `panel-${panel.id}` }, [make('figcaption', {}, [...head, legend]), svg]);
  return { figure, svg, show: (slice) => entries.forEach((entry) => entry.show(slice)) };
}

/** What a slice is about, in a line. */
function wordsOf(run, slice) {
  const phases = bandsAt(run, slice).map((band) => `${run.labels.phases[band.phase] ?? band.phase} of ${band.deed.number}`);
  const parts = [phases.length > 0 ? phases.join(', ') : 'steady', `${count(slice.ended)} ok`];
  if (slice.failures > 0) parts.push(failuresIn(run, slice));
  if (slice.disturbed > 0) parts.push(disturbancesIn(run, slice));
  if (slice.from >= run.seconds) parts.unshift('after the load');
  return parts.join(' · ');
}

/** The plots: drawn for the width that there is, with one crosshair through all of them. */
class Plots {
  constructor(run, section) {
    this.run = run;
    this.section = section;
    this.chosen = null;
    this.figures = [];
    section.addEventListener('keydown', (event) => this.key(event));
    // A finger that is lifted has pointed; a mouse that is elsewhere does no more.
    section.addEventListener('pointerleave', (event) => event.pointerType === 'mouse' && this.choose(null));
    // Not within the observer's own turn, since what is drawn changes the height that it observes.
    new ResizeObserver(() => requestAnimationFrame(() => this.fit())).observe(byId('panels'));
    this.fit();
  }

  /** Draws all panels anew if the width is another. */
  fit() {
    const width = Math.round(byId('panels').clientWidth);
    if (width === this.width || width === 0) return;
    this.width = width;
    this.frame = frameOf(this.run, width);
    this.figures = panelsOf(this.run, width).map((panel) => {
      const made = makeFigure(panel);
      made.cross = drawPanel(made.svg, panel, this.frame);
      made.svg.addEventListener('pointermove', (event) => this.point(event, made.svg));
      made.svg.addEventListener('pointerdown', (event) => this.point(event, made.svg));
      return made;
    });
    byId('panels').replaceChildren(...this.figures.map((made) => made.figure));
    this.choose(this.chosen);
  }

  point(event, svg) {
    const place = svg.getBoundingClientRect();
    const x = ((event.clientX - place.left) / place.width) * this.frame.width;
    const part = (x - this.frame.left) / (this.frame.right - this.frame.left);
    this.choose(sliceAt(this.run, part * this.run.end));
  }

  key(event) {
    const last = this.run.slices.length - 1;
    const now = this.chosen ?? -1;
    const keys = {
      ArrowLeft: () => Math.max(now - (event.shiftKey ? 10 : 1), 0),
      ArrowRight: () => Math.min(now + (event.shiftKey ? 10 : 1), last),
      Home: () => 0,
      End: () => last,
      PageDown: () => this.deed(now, 1),
      PageUp: () => this.deed(now, -1),
      Escape: () => null,
    };
    if (!(event.key in keys) || last < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    this.choose(keys[event.key]());
  }

  /** The slice of the next deed, or of the one before. */
  deed(now, way) {
    const slices = this.run.deeds.map((deed) => sliceAt(this.run, deed.at));
    const found = way > 0 ? slices.find((one) => one > now) : slices.findLast((one) => one < now);
    return found ?? Math.max(now, 0);
  }

  /** Shows the values of a slice, or of none. */
  choose(index) {
    const slice = this.run.slices[index ?? -1];
    this.chosen = slice ? index : null;
    for (const { cross, show } of this.figures) {
      const x = slice ? this.frame.x(slice.middle) : 0;
      cross.setAttribute('x1', x);
      cross.setAttribute('x2', x);
      cross.setAttribute('visibility', slice ? 'visible' : 'hidden');
      show(slice);
    }
    byId('readout').replaceChildren(...(slice ? this.words(slice) : this.hint()));
  }

  words(slice) {
    const time = make('b', { text: timeOf(this.run, slice) });
    return [make('span', {}, [time, ` ${wordsOf(this.run, slice)}`]), make('span', { text: openIn(slice) })];
  }

  hint() {
    const { slices, length } = this.run;
    if (slices.length === 0) return [make('span', { text: 'Nothing ended, so that there is nothing to plot.' })];
    const point = `Point at a plot, or use ← and →, for the values of a slice of ${milliseconds(length * 1000)}.`;
    const keys = 'Shift: ten slices. Page Up, Page Down: to what was done before, and after.';
    return [point, keys].map((text) => make('span', { text }));
  }
}

// ── the tables ──

/** Columns of one group stand under one head. */
function groupRow(head) {
  const cells = [];
  for (const { group } of head) {
    const last = cells.at(-1);
    if (last && group && last.textContent === group) last.colSpan += 1;
    else cells.push(make('th', { text: group, className: group ? 'group' : '', scope: 'colgroup' }));
  }
  return make('tr', { className: 'groups' }, cells);
}

function makeTable({ head, rows }) {
  const classOf = (column) => (column.number ? 'number' : '');
  const names = head.map((column) => make('th', { text: column.name, className: classOf(column), scope: 'col' }));
  const heads = head.some((column) => column.group) ? [groupRow(head)] : [];
  heads.push(make('tr', { className: 'names' }, names));
  const body = rows.map(({ tone, cells }) => {
    const made = cells.map((text, at) => {
      const first = at === 0 && !head[0].number;
      return make(first ? 'th' : 'td', { className: classOf(head[at]), ...(first && { scope: 'row' }) }, [make('div', { text })]);
    });
    return make('tr', { className: tone }, made);
  });
  return make('table', {}, [make('thead', {}, heads), make('tbody', {}, body)]);
}

function showTables(tables) {
  for (const { id, title, note, grid } of tables.filter((one) => one.grid.rows.length > 0)) {
    const head = make('h2', { text: title }, note ? [make('span', { text: note, className: 'note' })] : []);
    // Who has no mouse can scroll it too.
    const scroll = make('div', { className: 'scroll', tabIndex: 0, role: 'region', ariaLabel: title }, [makeTable(grid)]);
    byId('tables').append(make('section', { id: `table-${id}` }, [head, scroll]));
  }
}

function showAbout({ surroundings, toml }) {
  const rows = surroundings.map(([name, value]) => make('div', {}, [make('dt', { text: name }), make('dd', { text: value })]));
  const pre = make('pre', { text: toml, tabIndex: 0 });
  const details = make('details', {}, [make('summary', { text: 'The scenario, with every default written out' }), pre]);
  byId('about').append(make('dl', {}, rows), details);
  // On paper nothing can be opened.
  window.addEventListener('beforeprint', () => { details.open = true; });
}

// ── all of it ──

function complain(message) {
  byId('problem').hidden = false;
  byId('problem').textContent = `This page is not whole: ${message}`;
}

function show() {
  const data = JSON.parse(byId('data').textContent);
  if (data.problem) return complain(data.problem);
  showVerdict(data);
  showTables(data.tables);
  showAbout(data);
  new Plots(prepare(data.run), byId('plots'));
  byId('problem').hidden = true;
}

window.addEventListener('error', (event) => complain(event.message));
show();
