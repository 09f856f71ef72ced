// The model in a thread of its own. It is sent the parts of the file, then requests such as the server's, and the
// numbers of requests to stop; it sends choices back as they grow.

import { openModel } from "/model.js";
import { read, Sample, score } from "/sample.js";

const TURN = 15; // milliseconds of drawing between two looks at what was sent
let model = null, writer = null;
const stopped = new Set(); // numbers of requests

// Lets what was sent meanwhile be heard.
const channel = new MessageChannel(), waiting = [];
channel.port1.onmessage = () => waiting.shift()();
const breathe = () => new Promise((done) => { waiting.push(done); channel.port2.postMessage(0); });

function begin() {
  const unpacked = new DecompressionStream("deflate");
  writer = unpacked.writable.getWriter();
  openModel(unpacked.readable, (share) => postMessage({ share })).then((opened) => {
    model = opened;
    postMessage({ ready: { settings: model.header.settings, run: model.header.run } });
  }).catch((error) => {
    const ours = error.constructor === Error; // the others are of what JavaScript made of the bytes, or could not make
    postMessage({ failed: ours ? error.message : `This file is damaged, or this browser is too old (${error.message}).` });
  });
}

function fromBase64(text) { // for browsers from before 2025
  const characters = atob(text), bytes = new Uint8Array(characters.length);
  for (let k = 0; k < bytes.length; k++) bytes[k] = characters.charCodeAt(k);
  return bytes;
}

// A part of the file in base64; null behind the last.
async function unpack(part) {
  try {
    if (part === null) await writer.close();
    else await writer.write(Uint8Array.fromBase64?.(part) ?? fromBase64(part));
  } catch { /* whoever reads the stream says so */ }
  postMessage({ taken: true });
}

// The settings of a request, as numbers within their bounds.
function checked(content) {
  const wish = { logprobs: content.logprobs ?? null, ignore_end: Boolean(content.ignore_end) };
  for (const { name, low, high, whole, exclusive, value } of model.header.bounds) {
    const found = content[name] ?? value; // null is the default, which may be null: no limit
    const outside = !Number.isFinite(found) || found < low || found > (high ?? Infinity) || (exclusive && found === low);
    if (found !== null && (outside || (whole && !Number.isInteger(found)))) {
      const wanted = `${whole ? "a whole number" : "a number"} ${exclusive ? "above" : "from"} ${low}${high === null ? " on" : ` to ${high}`}`;
      throw new Error(`${name} must be ${wanted}, not ${found}.`);
    }
    wish[name] = found;
  }
  return { ...wish, seed: BigInt(content.seed ?? 0), stops: [content.stop ?? []].flat() };
}

async function run(number, content) {
  const pause = async () => {
    await breathe();
    if (stopped.has(number)) throw new DOMException("Stopped.", "AbortError");
  };
  const prompt = model.tokenizer.prompt(content.prompt ?? "");
  if (content.echo) {
    const rows = model.take(1);
    try {
      const choice = await score(model, rows[0], content.prompt, prompt, content.logprobs, pause);
      return postMessage({ number, choices: [choice] });
    } finally {
      model.giveBack(rows);
    }
  }
  prompt.typed = model.tokenizer.typed(content.prompt ?? "", prompt.ids, content.generated ?? []);
  const wish = checked(content), rows = model.take(wish.n), samples = [];
  try {
    await read(model, rows[0], prompt.ids, pause);
    for (const row of rows.slice(1)) model.copyRow(rows[0], row);
    for (const [index, row] of rows.entries()) samples.push(new Sample(model, index, row, prompt, wish));
    await draw(samples, (choices) => postMessage({ number, choices }), pause);
  } finally {
    samples.forEach((sample) => sample.close());
    model.giveBack(rows);
  }
}

async function draw(samples, send, pause) {
  for (let left = samples, choices = [], since = performance.now(); left.length;) {
    choices.push(...left.map((sample) => sample.step()));
    left = left.filter((sample) => !sample.ended);
    if (left.length && performance.now() - since < TURN) continue;
    send(joined(choices));
    choices = [];
    await pause();
    since = performance.now();
  }
}

// Choices of one text, one after another, are one.
function joined(choices) {
  const found = new Map();
  for (const choice of choices) {
    const before = found.get(choice.index);
    if (!before) {
      found.set(choice.index, choice);
      continue;
    }
    before.text += choice.text;
    before.finish_reason = choice.finish_reason;
    for (const name of Object.keys(before.logprobs ?? {})) before.logprobs[name].push(...choice.logprobs[name]);
  }
  return [...found.values()];
}

onmessage = ({ data: { part, number, content, stop } }) => {
  if (part !== undefined) {
    if (!writer) begin();
    unpack(part);
  } else if (stop !== undefined) {
    stopped.add(stop);
  } else {
    run(number, content).catch((error) => ({ error: error.name === "AbortError" ? null : error.message }))
      .then((ended) => { stopped.delete(number); postMessage({ number, done: true, ...ended }); });
  }
};
