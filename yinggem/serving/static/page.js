// The page: one text that is written together.

import { complete, get, key, make as pages, open, stream } from "/backend.js";
import { codePoints, Editor, surprise } from "/editor.js";
import { Panel } from "/panel.js";
import { Places } from "/places.js";
import { readings } from "/reading.js";
import { showRun } from "/run.js";

const $ = (id) => document.getElementById(id);
const TOPS = 8; // alternatives of a token
const STEPS = 200; // of undo
const panel = new Panel($("sliders"));
const history = { past: [], future: [] };
let running = null; // the AbortController of what is being made
let last = null; // how the last continuation began, for a retry
let kept = true; // whether the text is in the browser's storage
const editor = new Editor($("text"), (before, kind) => { remember(before, kind); save(); });

function make(kind, text = "", name = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", wrong);
  $("status").setAttribute("role", wrong ? "alert" : "status");
}

// Undo: what was typed in one go is one step.
let typing = 0;
function remember(before, kind = "") {
  const now = Date.now();
  if (kind !== "typed" || now - typing > 900 || !history.past.length) history.past.push(before);
  typing = kind === "typed" ? now : 0;
  history.past.splice(0, history.past.length - STEPS);
  history.future = [];
  refresh();
}

function travel(from, to) {
  if (!from.length || running) return;
  to.push(editor.state);
  editor.set(from.pop());
  typing = 0;
  save();
  refresh();
}

function save() {
  try {
    const { text, written } = editor.state;
    localStorage.setItem(key("text"), JSON.stringify({ text, written }));
    kept = true;
  } catch {
    kept = false;
  }
}

function refresh() {
  for (const id of ["continue", "tint", "reading", "new"]) $(id).disabled = Boolean(running);
  $("stop").disabled = !running;
  $("undo").disabled = running || !history.past.length;
  $("redo").disabled = running || !history.future.length;
  $("retry").disabled = running || !last;
}

// Runs a job that can be stopped; what goes wrong is said.
async function during(job) {
  if (running) return;
  running = new AbortController();
  refresh();
  const began = performance.now();
  try {
    const count = await job(running.signal);
    if (count) say(`${count} tokens in ${((performance.now() - began) / 1000).toFixed(1)} s.`);
  } catch (error) {
    if (error.name === "AbortError") say("Stopped.");
    else if (error.status === 401) askForKey();
    else say(error.message, true);
  } finally {
    running = null;
    refresh();
    save();
  }
}

function request(side, state) {
  const seed = $("seed").value.trim(), stops = $("stops").value.replaceAll("\\n", "\n");
  const written = state.written.map((stretch) => stretch.map((place) => codePoints(state.text.slice(0, place))));
  return {
    prompt: state.text, logprobs: TOPS, ...panel.fields(side), generated: written,
    seed: /^-?\d{1,15}$/.test(seed) ? Number(seed) : Math.floor(Math.random() * 2 ** 48), ...(stops ? { stop: stops } : {}),
  };
}

// The state with more text of the model at its end.
function extended(state, text, tokens) {
  const end = state.text.length + text.length, more = text ? [[state.text.length, end]] : [];
  return { text: state.text + text, tokens: [...state.tokens, ...tokens], written: [...state.written, ...more] };
}

function proceed() {
  $("choices").replaceChildren();
  const many = Number($("count").value) || 1, begin = editor.state;
  last = begin;
  if ($("compare").checked) return during((signal) => choose(signal, begin, ["a", "b"], many));
  if (many > 1) return during((signal) => choose(signal, begin, [panel.side], many));
  return during((signal) => append(signal, begin));
}

async function append(signal, begin) {
  let text = "", count = 0, drawn = 0;
  const places = new Places(begin.text.length), below = () => {
    const box = editor.element;
    return box.scrollHeight - box.scrollTop - box.clientHeight < 60;
  };
  remember(begin);
  const show = () => {
    const follow = below();
    editor.set(extended(begin, text, places.tokens));
    if (follow) editor.element.scrollTop = editor.element.scrollHeight;
  };
  editor.element.contentEditable = "false"; // until it has ended: both would write at once
  say("Writing ...");
  try {
    await stream(request(panel.side, begin), signal, (choice) => {
      text += choice.text;
      places.push(choice.text, choice.logprobs);
      count += choice.logprobs.tokens.length;
      if (performance.now() - drawn > 40) {
        show();
        drawn = performance.now();
      }
    });
  } finally {
    show();
    editor.element.contentEditable = "plaintext-only";
    editor.element.focus();
    editor.place(editor.state.text.length);
  }
  return count;
}

// Several continuations side by side, of one setting or two.
async function choose(signal, begin, sides, many) {
  let count = 0;
  const jobs = sides.map((side) => {
    const cards = Array.from({ length: many }, (_, k) => card(begin, sides.length > 1 ? side.toUpperCase() : "", k));
    $("choices").append(...cards.map(({ element }) => element));
    return stream({ ...request(side, begin), n: many }, signal, (choice) => {
      count += choice.logprobs.tokens.length;
      cards[choice.index].hear(choice);
    });
  });
  say("Writing ...");
  const ends = await Promise.allSettled(jobs);
  const failed = ends.find(({ status }) => status === "rejected");
  if (failed) throw failed.reason;
  return count;
}

function card(begin, side, number) {
  const element = make("article", "", "choice"), shown = make("p"), take = make("button", "Take"), places = new Places(begin.text.length);
  let text = "";
  const title = make("small", [side, number + 1].filter(Boolean).join(" · "));
  element.append(title, shown, take);
  take.addEventListener("click", () => {
    if (running) return;
    if (editor.state.text !== begin.text) {
      say("The text has changed since; continue it anew.", true);
      return;
    }
    remember(editor.state);
    editor.set(extended(begin, text, places.tokens));
    $("choices").replaceChildren();
    save();
  });
  const hear = (choice) => {
    text += choice.text;
    places.push(choice.text, choice.logprobs);
    shown.textContent = text;
  };
  return { element, hear };
}

function retry() {
  if (!last || running) return;
  const begin = last;
  remember(editor.state);
  editor.set(begin);
  $("seed").value = "";
  proceed();
}

function tint() {
  const state = editor.state;
  if (!state.text) return say("There is no text to tint yet.");
  return during(async (signal) => {
    say("Reading ...");
    const { memory } = panel.fields(panel.side);
    const asked = { prompt: state.text, echo: true, max_tokens: 0, logprobs: TOPS, ...(memory === undefined ? {} : { memory }) };
    const { choices: [choice] } = await complete(asked, signal);
    const tokens = new Places(0).push(choice.text, choice.logprobs);
    if (editor.state.text !== state.text) return say("The text has changed meanwhile; tint it again.");
    editor.set({ ...state, tokens }, editor.caret());
    const bits = tokens.reduce((sum, token) => sum + surprise(token), 0);
    say(`${tokens.length} tokens, ${(bits / new TextEncoder().encode(state.text).length).toFixed(2)} bits per byte.`);
  });
}

function read() {
  const { text } = editor.state, place = $("readings");
  if (!text) return say("There is no text to read yet.");
  return during(async (signal) => {
    say("Reading ... (the first time takes some seconds)");
    place.replaceChildren();
    await readings(text, signal, (link) => place.append(link));
    say("These pages are of the text as it stands now.");
  });
}

// What is known of a token: how likely it was, and what else could have stood there.
function tell(index) {
  const token = editor.state.tokens[index];
  if (!token) return;
  for (const one of editor.element.querySelectorAll(".chosen")) one.classList.remove("chosen");
  editor.element.querySelector(`[data-index="${index}"]`)?.classList.add("chosen");
  const shown = editor.state.text.slice(token.start, token.end), line = make("p"), others = make("div", "", "others");
  const chance = token.logprob === null ? "nothing stands before it" : `${percent(token.logprob)}, ${surprise(token).toFixed(1)} bits`;
  line.append(make("b", visible(shown)), ` · ${chance}`);
  for (const [name, logprob] of Object.entries(token.top ?? {}).sort((a, b) => b[1] - a[1])) {
    const button = make("button", visible(name));
    button.append(make("small", percent(logprob)));
    button.disabled = name === shown || name.startsWith("bytes:") || name.startsWith("<");
    button.title = button.disabled ? "" : "Continue from here with it";
    button.addEventListener("click", () => instead(token, name));
    others.append(button);
  }
  $("token").replaceChildren(line, others);
}

const percent = (logprob) => `${(100 * Math.exp(logprob)).toPrecision(2)} %`;
const visible = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ | $/g, "␣");

function instead(token, name) {
  if (running) return;
  const { text, tokens, written } = editor.state;
  const begin = {
    text: text.slice(0, token.start) + name,
    tokens: tokens.filter(({ end }) => end <= token.start),
    written: written.map(([a, b]) => [a, Math.min(b, token.start)]).filter(([a, b]) => b > a),
  };
  remember(editor.state);
  editor.set(begin);
  proceed();
}

async function ask(question, forKey = false) {
  $("question").textContent = question;
  $("key-line").hidden = !forKey;
  $("ask").returnValue = "no";
  $("ask").showModal();
  await new Promise((done) => { $("ask").addEventListener("close", done, { once: true }); });
  return $("ask").returnValue === "yes";
}

async function askForKey() {
  say("This server asks for a key.", true);
  if (!(await ask("This server asks for a key.", true))) return;
  sessionStorage.setItem("key", $("key").value);
  say("");
  start();
}

async function anew() {
  if (running || (editor.state.text && !(await ask("Leave this text? Undo brings it back until the page is closed.")))) return;
  remember(editor.state);
  last = null;
  editor.set({ text: "", tokens: [], written: [] });
  $("choices").replaceChildren();
  save();
  refresh();
}

function side(which) {
  for (const name of ["a", "b"]) $(`side-${name}`).setAttribute("aria-selected", String(name === which));
  panel.show(which);
}

const KEYS = [
  [(e) => e.ctrlKey && e.key === "Enter", proceed], [(e) => e.key === "Escape", () => running?.abort()],
  [(e) => e.altKey && e.code === "KeyR", retry], [(e) => e.altKey && e.code === "KeyT", tint],
  [(e) => e.ctrlKey && e.key.toLowerCase() === "z" && !e.shiftKey, () => travel(history.past, history.future)],
  [(e) => e.ctrlKey && ((e.key.toLowerCase() === "z" && e.shiftKey) || e.key === "y"), () => travel(history.future, history.past)],
];

function listen() {
  $("reading").hidden = !pages; // a model that is in the page has nobody to make them
  const actions = { continue: proceed, stop: () => running?.abort(), retry, tint, reading: read, new: anew };
  for (const [id, action] of Object.entries(actions)) $(id).addEventListener("click", action);
  $("undo").addEventListener("click", () => travel(history.past, history.future));
  $("redo").addEventListener("click", () => travel(history.future, history.past));
  for (const name of ["a", "b"]) $(`side-${name}`).addEventListener("click", () => side(name));
  $("compare").addEventListener("change", () => {
    $("sides").hidden = !$("compare").checked;
    if (!$("compare").checked) side("a");
  });
  $("text").addEventListener("mouseover", (event) => event.target.dataset.index && tell(Number(event.target.dataset.index)));
  document.addEventListener("selectionchange", () => {
    if (document.activeElement === editor.element && !running && getSelection().isCollapsed) tell(editor.tokenAt(editor.caret()));
  });
  document.addEventListener("keydown", (event) => {
    const modified = event.metaKey ? new Proxy(event, { get: (e, name) => (name === "ctrlKey" ? true : e[name]) }) : event;
    const found = KEYS.find(([fits]) => fits(modified));
    if (!found || $("ask").open || (/INPUT/.test(event.target.tagName) && /^[zy]$/i.test(event.key))) return;
    event.preventDefault();
    found[1]();
  });
  addEventListener("beforeunload", (event) => { if (running || !kept) event.preventDefault(); });
}

function start() {
  return during(async () => {
    await open(say);
    panel.build((await get("/settings")).sliders);
    showRun(await get("/run"));
  });
}

listen();
try {
  const before = JSON.parse(localStorage.getItem(key("text")) ?? "null");
  if (before) editor.set({ text: String(before.text), tokens: [], written: before.written });
} catch { /* another version's; it begins anew */ }
refresh();
start();
setInterval(() => document.hidden || get("/run").then(showRun, () => {}), 10000); // a run may still be learning
