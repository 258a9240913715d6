'use strict';
// One document a second, and at once when an event comes; what has not changed is not painted again.

const EVERY_MS = 1000;      // between two looks
const HURRY_MS = 250;       // the same while nobody takes writes
const ANSWER_MS = 2500;     // how long one look may take
const LOST_MS = 3500;       // without an answer for so long the connection is called lost
const AGAIN_MS = 5000;      // before the stream of events is tried anew
const SHOWN = 200;          // events on the page

const here = location.pathname.replace(/\/+$/, '');
const byId = (id) => document.getElementById(id);
const events = new Map();   // by index
const painted = new Map();  // what each part was last painted from
let known = null;           // the newest document
let heardAt = Date.now();   // when it came
let askedAt = 0;
let isAsking = false;
let isWanted = false;
let stream = null;

// Text is only ever set as text: a reason is whatever an operator typed.
function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function paint(id, source, build) {
  const key = JSON.stringify(source);
  if (painted.get(id) === key) return;
  const place = byId(id);
  const selection = document.getSelection();
  if (selection && !selection.isCollapsed && place.contains(selection.anchorNode)) return;
  painted.set(id, key);
  place.replaceChildren(...[build()].flat().filter((child) => child !== null));
}

function bytes(count) {
  if (count === null || count === undefined) return 'unknown';
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return `${unit === 0 || count >= 100 ? Math.round(count) : count.toFixed(1)} ${units[unit]}`;
}

function length(ms) {
  const seconds = ms / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

const clock = (unixMs) => new Date(unixMs).toISOString().slice(11, 19);
const day = (unixMs) => new Date(unixMs).toISOString().slice(0, 10);
const names = (list) => list.length < 2 ? list.join('') : `${list.slice(0, -1).join(', ')} and ${list.at(-1)}`;

// ---- the sentence on top

function headline(now) {
  const { primary, reign, durability, blocked } = now;
  if (!now.cluster) return ['odd', '▲', 'The group has not formed yet.'];
  if (primary && durability.writes_wait) return ['bad', '■', `Commits on ${primary} wait: too few confirm them.`];
  if (primary) {
    if (now.pause) return ['odd', '▲', `${primary} takes writes. The cluster is paused.`];
    const unheard = now.members.filter((member) => !member.is_heard).map((member) => member.name);
    if (!unheard.length) return ['good', '●', `${primary} takes writes.`];
    return ['odd', '▲', `${primary} takes writes, but ${names(unheard)} ${unheard.length > 1 ? 'are' : 'is'} not heard.`];
  }
  if (blocked) return ['bad', '■', 'Nobody takes writes: an acknowledged write may be missing.'];
  if (reign && reign.phase === 'granted' && !reign.is_activated) {
    return ['odd', '▲', `${reign.holder} is taking over.`];
  }
  return ['bad', '■', 'Nobody takes writes.'];
}

function subline(now) {
  const parts = [];
  if (now.reign) {
    const { holder, timeline, phase } = now.reign;
    parts.push(phase === 'granted'
      ? `Epoch ${now.epoch}, timeline ${timeline}.`
      : `Epoch ${now.epoch} of ${holder} has ended${now.reign.ended_because ? ` (${now.reign.ended_because})` : ''}.`);
  }
  if (now.blocked) {
    parts.push(`Missing: ${names(now.blocked.missing)}. At risk: ${now.blocked.at_risk}.`);
  }
  if (now.pause) parts.push(`Paused by ${now.pause.by} at ${now.pause.time.slice(11, 19)} UTC.`);
  const tolerance = now.voters.tolerance;
  parts.push(`${now.voters.up} of ${now.voters.total} voters: ${tolerance}.`);
  for (const it of now.maintenance ?? []) parts.push(`Maintenance of ${it.member} until ${it.until.slice(0, 16)} UTC by ${it.by}.`);
  for (const it of now.schedules ?? []) parts.push(`Scheduled: ${it.text} at ${it.due} by ${it.by}.`);
  for (const request of now.requests) parts.push(`Under way: request ${request.id} by ${request.by}.`);
  return parts.join(' ');
}

function paintTop(now) {
  const [kind, shape, text] = headline(now);
  paint('headline', [kind, text], () => [
    el('span', { class: `shape ${kind}`, 'aria-hidden': 'true' }, shape), text,
  ]);
  paint('subline', subline(now), () => subline(now));
  paint('cluster', now.cluster || 'Matriarch', () => now.cluster || 'Matriarch');
  paint('seen', [now.answered_by, clock(now.at_unix_ms)],
    () => `as ${now.answered_by} sees it, ${clock(now.at_unix_ms)} UTC`);
  document.title = `${shape} ${text}`;
  const { left_ms: left, length_ms: whole, fence_in_ms: fence } = now.lease;
  const bar = byId('lease');
  bar.hidden = left === null;
  if (left === null) return;
  const share = (ms) => `${Math.max(0, Math.min(100, 100 * ms / whole))}%`;
  bar.querySelector('i').style.width = share(left);
  bar.querySelector('b').style.left = share(left - fence);
  bar.querySelector('p').textContent = `Lease: ${length(left)} of ${length(whole)} left. Unless it is renewed `
    + `${now.reign ? now.reign.holder : 'the primary'} stops itself in ${length(fence)}.`;
}

// ---- members

const ORDER = ['primary', 'sync standby', 'quorum standby', 'standby', 'unknown', 'witness'];

function mark(member) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 16 16');
  svg.setAttribute('aria-hidden', 'true');
  const add = (tag, attributes) => {
    const shape = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
    svg.append(shape);
  };
  if (!member.is_heard) add('path', { d: 'M3 3l10 10M13 3L3 13' });
  else if (member.role === 'witness') add('rect', { x: 4, y: 4, width: 8, height: 8 });
  else if (member.role === 'primary') add('circle', { cx: 8, cy: 8, r: 6.5, class: 'full' });
  else {
    add('circle', { cx: 8, cy: 8, r: 5.5 });
    if (member.confirms) add('circle', { cx: 8, cy: 8, r: 1.8, class: 'full' });
  }
  return svg;
}

function tone(member) {
  if (!member.is_heard) return 'bad';
  if (member.role === 'primary' || member.role === 'witness' || member.state === 'streaming') return 'good';
  return 'odd';
}

function behind(member) {
  if (member.role === 'primary' || member.role === 'witness') return '';
  const { receive_lag_bytes: received, replay_lag_bytes: replayed } = member;
  if (received === null && replayed === null) return 'unknown';
  if (!received && !replayed) return 'nothing';
  const delay = member.replay_delay_ms > 1000 ? `, ${length(member.replay_delay_ms)}` : '';
  return `${bytes(received)}, replay ${bytes(replayed)}${delay}`;
}

function heard(member) {
  if (member.report_age_ms === null) return 'never';
  return member.report_age_ms < 1500 ? 'now' : `${length(member.report_age_ms)} ago`;
}

function stateOf(member) {
  if (!member.is_heard) return 'not heard';
  if (!member.busy) return member.state;
  const { with: what, done_bytes: done, total_bytes: total } = member.busy;
  return total ? `${what} ${Math.floor(100 * (done || 0) / total)} %` : what;
}

const ALARMS = new Set(['no-candidate', 'does-not-confirm', 'not-heard', 'not-serving', 'not-open', 'writes-wait',
  'parameters-refused']);

function memberRows(member, place, count) {
  const cell = (label, text, attributes) => el('td', { class: 'value', ...(text && label ? { 'data-label': label } : {}), ...attributes }, text);
  const isLinked = member.role !== 'witness';
  const isLoose = member.role !== 'primary' && member.state !== 'streaming';
  const rail = ['rail', tone(member), place === 0 ? 'first' : '', place === count - 1 ? 'last' : '',
    isLinked && count > 1 ? '' : 'none', isLoose ? 'loose' : ''].join(' ');
  const role = member.role + (member.is_raft_leader ? ', leads Raft' : '');
  const main = el('tr', {},
    el('td', { class: rail, rowspan: 2 }, mark(member)),
    el('td', { class: 'name' }, member.name),
    cell('', role, { 'data-what': 'role' }),
    el('td', { class: tone(member), 'data-what': 'state' }, stateOf(member)),
    cell('timeline', member.timeline === null ? '' : String(member.timeline), { class: 'value number' }),
    cell('at', member.lsn || '', { class: 'value number figure' }),
    cell('behind', behind(member), { class: 'value' }),
    cell('heard', heard(member), { class: 'value number' }));
  // What a member does that is as it should be is no news.
  const told = member.why.filter((line) => line.code !== 'does' || tone(member) !== 'good');
  const first = told.find((line) => ALARMS.has(line.code));
  const lines = told.map((line) => el('li', { class: ALARMS.has(line.code) ? 'odd' : '' },
    line === first ? `▲ ${line.text}` : line.text));
  const why = el('tr', { class: 'why' }, el('td', { colspan: 7 }, el('ul', {}, ...lines)));
  return el('tbody', { 'data-member': member.name, class: member.is_heard ? '' : 'is-unheard' }, main, why);
}

function paintMembers(now) {
  const members = [...now.members].sort((a, b) =>
    ORDER.indexOf(a.role) - ORDER.indexOf(b.role) || a.name.localeCompare(b.name));
  const count = members.filter((member) => member.role !== 'witness').length;
  const shown = members.map((m) => [m.name, m.role, m.is_raft_leader, stateOf(m), m.timeline, m.lsn, behind(m), heard(m), m.confirms, m.why]);
  paint('members', shown, () => el('table', {},
    el('thead', {}, el('tr', {},
      el('th', { scope: 'col' }, el('span', { class: 'rail' })),
      ...['Member', 'Role', 'State'].map((title) => el('th', { scope: 'col' }, title)),
      ...['Timeline', 'Position'].map((title) => el('th', { scope: 'col', class: 'number' }, title)),
      el('th', { scope: 'col' }, 'Behind'), el('th', { scope: 'col', class: 'number' }, 'Heard'))),
    ...members.map((member, place) => memberRows(member, place, count))));
}

// ---- commits, foresight, decisions

function paintCommits(now) {
  const { durability: it, archive } = now;
  const rule = it.rule;
  const asks = !rule ? 'no rule is in force'
    : rule.k === 0 ? 'nobody has to confirm'
      : `${rule.k} of ${names(rule.members)}`;
  const isArchiveOld = archive && archive.failing_since_unix_ms !== null;
  const archived = !archive ? 'no primary tells of one'
    : isArchiveOld ? `▲ fails since ${clock(archive.failing_since_unix_ms)} UTC; ${archive.waiting} files wait`
      : archive.recoverable_unix_ms === null ? `nothing is known to be there yet; ${archive.waiting} files wait`
        : `all before ${clock(archive.recoverable_unix_ms)} UTC is there; ${archive.waiting} files wait`;
  const rows = [
    ['Mode', it.mode],
    ['Rule', rule ? `${rule.id}: ${asks}${it.is_proven ? ', proven in force' : ', not proven yet'}` : asks],
    ['Confirming', it.confirming.length ? names(it.confirming) : 'nobody', it.writes_wait ? 'bad' : ''],
    ['May be lost', it.losses.filter(Boolean).join('; ') || 'nothing is known'],
    ['Archive', archived, isArchiveOld ? 'bad' : ''],
  ];
  paint('commits', rows, () => el('dl', {}, ...rows.flatMap(([term, text, kind]) => [
    el('dt', {}, term), el('dd', { class: kind || '' }, kind === 'bad' && !text.startsWith('▲') ? `■ ${text}` : text),
  ])));
}

function paintForesight(now) {
  const lines = now.if_primary_died;
  const holder = now.primary || (now.reign && now.reign.holder);
  paint('h-died', holder, () => holder ? `If ${holder} died now` : 'If the primary died now');
  paint('died', [lines, now.successor], () => {
    const [first, ...others] = lines;
    if (!first) return el('p', {}, 'Nothing: there is no primary.');
    const text = first.text.replace(/^If the primary died now: /, '');
    const verdict = now.successor ? `${now.successor} would take over.` : text;
    return [
      el('p', { class: 'verdict', 'data-code': first.code }, verdict),
      now.successor ? el('p', { class: 'soft' }, text) : null,
      el('ul', { class: 'list' }, ...others.map((line) => el('li', { class: line.code === 'candidate' ? '' : 'soft' }, line.text))),
    ];
  });
}

function paintDecisions(now) {
  const age = (ms) => ms < 10000 ? '' : `, for ${length(Math.floor(ms / 10000) * 10000)}`;
  const lines = now.decisions.map((line) => [line.rule, line.text, age(line.age_ms)]);
  paint('decisions', lines, () => el('ul', { class: 'list' }, ...lines.map(([rule, text, since]) =>
    el('li', {}, el('span', { class: 'soft' }, `${rule}: `), text, el('span', { class: 'soft' }, since)))));
}

// ---- what happened: reigns, the newest on top

const LOUD = new Set(['granted', 'promoted', 'activated', 'revoked', 'released', 'request', 'request-ended', 'scheduled', 'unscheduled', 'schedule-dropped', 'maintenance', 'maintenance-ended', 'paused', 'resumed', 'settings', 'replace']);

function eventRow(event, isNew) {
  const kinds = ['event', LOUD.has(event.what) ? '' : 'small', isNew ? 'is-new' : ''].join(' ');
  const who = event.who === 'cluster' || event.reason.includes(event.who) ? null
    : el('span', { class: 'who' }, ` by ${event.who}`);
  return el('li', { class: kinds, 'data-index': event.index },
    el('time', { datetime: event.time, title: `${event.time}, log index ${event.index}` }, clock(event.at_unix_ms)),
    el('span', { class: 'what' }, event.what.replaceAll('-', ' ')), ' ',
    el('span', { class: 'about' }, event.member || ''), ' ',
    el('span', { class: 'text' }, event.reason, who));
}

function paintEvents(fresh) {
  const list = [...events.values()].sort((a, b) => b.index - a.index).slice(0, SHOWN);
  for (const index of [...events.keys()]) if (list.length === SHOWN && index < list.at(-1).index) events.delete(index);
  paint('events', list.map((event) => event.index), () => {
    if (!list.length) return el('p', { class: 'soft' }, 'Nothing yet.');
    const reigns = [];
    let lastDay = '';
    for (const event of list) {
      let reign = reigns.at(-1);
      if (!reign || reign.epoch !== event.epoch) {
        reign = { epoch: event.epoch, holder: '', rows: [] };
        reigns.push(reign);
      }
      const today = day(event.at_unix_ms);
      if (today !== lastDay) reign.rows.push(el('li', { class: 'day' }, today));
      lastDay = today;
      if (event.what === 'granted' || event.what === 'activated') reign.holder = event.member;
      reign.rows.push(eventRow(event, fresh && fresh.has(event.index)));
    }
    return reigns.map((reign) => el('div', { class: 'reign' },
      el('h3', {}, el('strong', {}, reign.epoch === 0 ? 'Before' : `Epoch ${reign.epoch}`),
        reign.epoch === 0 ? 'the first epoch' : reign.holder ? `of ${reign.holder}` : ''),
      el('ol', {}, ...reign.rows)));
  });
}

function take(list, isLive) {
  const fresh = new Set();
  for (const event of list) {
    if (!events.has(event.index) && isLive) fresh.add(event.index);
    events.set(event.index, event);
  }
  paintEvents(fresh);
}

// ---- asking, and saying so when nobody answers

function paintBanner() {
  const silent = Date.now() - heardAt;
  const isLost = silent > LOST_MS;
  const who = known ? known.answered_by : 'this member';
  const text = isLost
    ? `Connection to ${who} lost ${length(silent)} ago. ${known ? `All below is as it was at ${clock(known.at_unix_ms)} UTC.` : ''}`
    : known && known.old_because ? `Old: ${known.old_because}. All below may have changed since.` : '';
  const banner = byId('banner');
  banner.hidden = !text;
  if (banner.textContent !== text) banner.textContent = text;
  document.documentElement.classList.toggle('is-old', Boolean(text));
}

function show(now) {
  paintTop(now);
  paintMembers(now);
  paintCommits(now);
  paintForesight(now);
  paintDecisions(now);
  take(now.events, known !== null);
  paint('foot', now.version, () => `Matriarch ${now.version}. Read-only; changes are made with clusterctl. The same as JSON: ${here}/state, events as a stream: ${here.replace(/ui$/, 'events')}.`);
}

async function look() {
  if (isAsking) { isWanted = true; return; }
  isAsking = true;
  askedAt = Date.now();
  try {
    const answer = await fetch(`${here}/state`, { cache: 'no-store', signal: AbortSignal.timeout(ANSWER_MS) });
    if (answer.ok) {
      const now = await answer.json();
      show(now);
      known = now;
      heardAt = Date.now();
    }
  } catch {
    // The banner says it when it lasts.
  }
  isAsking = false;
  paintBanner();
  if (isWanted) { isWanted = false; look(); }
}

function follow() {
  const newest = Math.max(0, ...events.keys());
  stream = new EventSource(`${here.replace(/ui$/, 'events')}?after=${newest}`);
  stream.onmessage = (message) => { take([JSON.parse(message.data)], true); look(); };
  stream.addEventListener('forgotten', () => { events.clear(); look(); });
  const again = () => { stream.close(); setTimeout(follow, AGAIN_MS); };
  stream.addEventListener('dropped', again);
  stream.onerror = () => { if (stream.readyState === EventSource.CLOSED) again(); };
}

// ---- light and dark

const THEMES = ['auto', 'light', 'dark'];

function theme(wanted) {
  document.documentElement.dataset.theme = wanted;
  byId('theme').textContent = `Colours: ${wanted}`;
}

function remembered() {
  try {
    const kept = localStorage.getItem('matriarch-theme');
    return THEMES.includes(kept) ? kept : 'auto';
  } catch { return 'auto'; }
}

byId('theme').addEventListener('click', () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
  theme(next);
  try { localStorage.setItem('matriarch-theme', next); } catch { /* Only for this visit, then. */ }
});

theme(remembered());
look().then(follow);
setInterval(() => {
  paintBanner();
  const due = known && known.primary ? EVERY_MS : HURRY_MS;
  if (!document.hidden && Date.now() - askedAt >= due) look();
}, HURRY_MS);
document.addEventListener('visibilitychange', () => { if (!document.hidden) look(); });
