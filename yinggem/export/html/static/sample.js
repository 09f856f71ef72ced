// Texts as they grow: stop strings, log-probabilities, and what ends them, as yinggem/serving/sample.py has it.

import { Decoder } from "/tokenizers.js";
import { BLOCK } from "/model.js";

const BETWEEN = "\n\n"; // two documents, where a text goes on behind one

// Passes text on up to the stop string that is complete first; what may still become one is held back.
export class StopStrings {
  constructor(stops) {
    Object.assign(this, { stops: stops.filter(Boolean), held: "", found: false });
  }

  push(text) {
    if (this.found) return "";
    const all = this.held + text;
    const places = this.stops.filter((stop) => all.includes(stop)).map((stop) => [all.indexOf(stop) + stop.length, all.indexOf(stop)]);
    if (places.length) {
      this.found = true;
      this.held = "";
      return all.slice(0, places.reduce((a, b) => (b[0] < a[0] || (b[0] === a[0] && b[1] < a[1]) ? b : a))[1]);
    }
    const keep = Math.max(0, ...this.stops.map((stop) => overlap(all, stop)));
    this.held = all.slice(all.length - keep);
    return all.slice(0, all.length - keep);
  }

  finish() {
    const { held } = this;
    this.held = "";
    return held;
  }
}

function overlap(text, stop) {
  for (let n = Math.min(text.length, stop.length - 1); n > 0; n--) if (text.endsWith(stop.slice(0, n))) return n;
  return 0;
}

// The tokens of a text, with their places in it.
class TokenLog {
  constructor(model, tops) {
    Object.assign(this, { model, tops, decoder: new Decoder(), tokens: [], given: 0 });
  }

  // The next id, and where the logits are that it is of; null where nothing stands before it.
  add(id, logits) {
    const { names, tokens } = this.model.tokenizer, { place } = this.decoder.push(tokens[id]);
    const token = { name: names[id], offset: place, logprob: null, top: null };
    if (logits !== null) {
      const { logprob, likeliest } = this.model.tell(logits, id, this.tops);
      token.logprob = logprob;
      token.top = Object.fromEntries([...likeliest, [id, logprob]].map(([one, log]) => [names[one], log]));
    }
    this.tokens.push(token);
  }

  take(length) {
    const from = this.given;
    while (this.given < this.tokens.length && this.tokens[this.given].offset < length) this.given++;
    return this.tokens.slice(from, this.given);
  }
}

const told = (tokens) => ({
  tokens: tokens.map(({ name }) => name),
  token_logprobs: tokens.map(({ logprob }) => logprob),
  top_logprobs: tokens.map(({ top }) => top),
  text_offset: tokens.map(({ offset }) => offset),
});

// One text of a request. `row` holds its prompt already; every step() draws one more id.
export class Sample {
  constructor(model, index, row, { ids, typed }, wish) {
    Object.assign(this, { model, index, row, wish, length: ids.length, drawn: 0, ended: false, before: "", sent: 0 });
    this.seed = BigInt.asUintN(64, wish.seed + BigInt(index));
    this.text = model.allocate(4 * (ids.length + wish.max_tokens));
    model.integers(this.text, ids.length).set(ids);
    this.memory = model.remember(wish.memory, typed, ids);
    this.decoder = new Decoder();
    this.stops = new StopStrings(wish.stops);
    this.log = wish.logprobs === null ? null : new TokenLog(model, wish.logprobs);
  }

  // A choice of the protocol: the text that is certain by now, and why it ended, if it did.
  step() {
    const { model, wish } = this, { tokenizer } = model;
    const logits = this.log && model.mix(this.memory, model.logits(this.row));
    const id = model.draw(this.row, this.text, this.length++, this.drawn++, this.seed, wish, this.memory);
    this.log?.add(id, logits);
    let piece;
    if (id === tokenizer.end && !wish.ignore_end) return this.finish("stop");
    if (id === tokenizer.end) {
      piece = this.stops.push(this.decoder.finish());
      this.decoder = new Decoder();
      this.before = BETWEEN;
    } else {
      piece = this.stops.push(this.before + this.decoder.push(tokenizer.tokens[id]).text);
      this.before = "";
    }
    if (this.stops.found) return this.choice(piece, "stop");
    if (this.drawn === wish.max_tokens) return this.finish("length", piece);
    return this.choice(piece, null);
  }

  finish(reason, piece = "") {
    const rest = piece + this.stops.push(this.decoder.finish());
    return this.choice(rest + this.stops.finish(), this.stops.found ? "stop" : reason);
  }

  choice(text, reason) {
    for (const _ of text) this.sent++;
    this.ended = reason !== null;
    const upto = reason === null || this.stops.found ? this.sent : Infinity; // what is behind a stop string is not sent
    return { index: this.index, text, logprobs: this.log && told(this.log.take(upto)), finish_reason: reason };
  }

  close() {
    this.model.c.page_release(this.text);
    this.model.c.memory_free(this.memory);
  }
}

// Read a prompt into a row, a block at a time; `pause` lets others have their turn.
export async function read(model, row, ids, pause) {
  model.reset(row);
  for (let from = 0; from < ids.length; from += BLOCK) {
    model.read(row, ids.slice(from, from + BLOCK));
    await pause();
  }
}

// The log-probabilities of a text that is given.
export async function score(model, row, text, { ids, unseen }, tops, pause) {
  const log = new TokenLog(model, tops);
  if (!unseen) log.add(ids[0], null); // nothing stands before it
  model.reset(row);
  for (let from = 0; from < ids.length; from += BLOCK) {
    const block = ids.slice(from, from + BLOCK), place = model.read(row, block, true);
    block.forEach((_, k) => {
      const next = from + k + 1;
      if (next >= unseen && next < ids.length) log.add(ids[next], place + k * model.stride);
    });
    await pause();
  }
  return { index: 0, text, logprobs: told(log.take(Infinity)), finish_reason: "length" };
}
