// The model in WebAssembly: its weights come from a stream, and texts are its rows.

import { Tokenizer } from "/tokenizers.js";

const BLOCK = 64; // ids that are read at once
const TEXTS = 16; // side by side, as in wasm.c
const READ_BACK = 65536; // ids of what a person typed that are counted, the last ones
const TOPS = 20; // likeliest tokens that can be told
const LEAST = -9999; // in the place of minus infinity
const DAMAGED = "This file is damaged or incomplete; copy it again.";

// Takes so many bytes at a time from a stream.
class Reader {
  constructor(stream) {
    Object.assign(this, { reader: stream.getReader(), part: new Uint8Array(0), taken: 0 });
  }

  async into(target) {
    for (let filled = 0; filled < target.length;) {
      if (!this.part.length) {
        const { value, done } = await this.next();
        if (done) throw new Error(DAMAGED);
        this.part = value;
      }
      const some = this.part.subarray(0, target.length - filled);
      target.set(some, filled);
      filled += some.length;
      this.taken += some.length;
      this.part = this.part.subarray(some.length);
    }
    return target;
  }

  async next() {
    try {
      return await this.reader.read();
    } catch {
      throw new Error(DAMAGED); // it was not what could be unpacked, or the checksum is another
    }
  }

  async end() {
    if (!(await this.next()).done) throw new Error(DAMAGED);
  }

  take = (size) => this.into(new Uint8Array(size));

  async json() {
    const size = new DataView((await this.take(4)).buffer).getUint32(0, true);
    return JSON.parse(new TextDecoder().decode(await this.take(size)));
  }
}

// The inverse of yinggem/export/html/contents.py. told(share) hears how much is there.
export async function openModel(stream, told = () => {}) {
  const reader = new Reader(stream), header = await reader.json();
  const { sin, cos, exp, log, pow } = Math;
  const made = await WebAssembly.instantiate(await reader.take(header.wasm), { page: { sin, cos, exp, log, pow } });
  const tokens = [];
  for (const size of await reader.take(header.vocabulary)) tokens.push(await reader.take(size));
  const model = new Model(made.instance.exports, header, new Tokenizer(header.tokenizer, tokens));
  for (const part of header.parts) {
    await model.load(reader, part);
    told(reader.taken / header.total);
  }
  if (header.memory) await model.loadMemory(reader, header.memory);
  await reader.end(); // here the checksum is compared
  return model;
}

export class Model {
  constructor(c, header, tokenizer) {
    Object.assign(this, { c, header, tokenizer, free: Array.from({ length: TEXTS }, (_, row) => row) });
    const turns = this.copy(Float32Array.from(header.frequencies));
    this.engine = c.page_open(...header.shape, turns);
    c.page_release(turns);
    if (!this.engine) throw new Error("There is not enough memory for this model.");
    this.ids = this.allocate(4 * BLOCK);
    this.room = this.allocate(this.stride);
    this.logs = this.allocate(4 * (TOPS + 1));
    this.knowledge = 0; // what counting the training text knows
  }

  get stride() {
    return 4 * this.c.page_stride(this.engine);
  }

  get vocabulary() {
    return this.tokenizer.tokens.length;
  }

  // Memory may have grown, and every view of it is empty then.
  floats = (place, count) => new Float32Array(this.c.memory.buffer, place, count);
  integers = (place, count) => new Int32Array(this.c.memory.buffer, place, count);

  allocate(size) {
    const place = this.c.page_allocate(size);
    if (!place) throw new Error("There is not enough memory for this model.");
    return place;
  }

  copy(numbers) {
    const bytes = new Uint8Array(numbers.buffer), place = this.allocate(bytes.length);
    new Uint8Array(this.c.memory.buffer, place, bytes.length).set(bytes);
    return place;
  }

  // A matrix (kind 2 or 3: int8, int4) or a norm: which, layer, and the bytes of each of its arrays, 0 for those it lacks.
  async load(reader, { which, layer, kind, sizes }) {
    const places = [];
    for (const size of sizes) {
      places.push(size ? this.allocate(size) : 0);
      if (size) await reader.into(new Uint8Array(this.c.memory.buffer, places.at(-1), size));
    }
    const failed = kind === undefined
      ? this.c.engine_norm(this.engine, which, layer, ...places)
      : this.c.engine_matrix(this.engine, which, layer, kind, kind, ...places, 0);
    places.forEach((place) => this.c.page_release(place));
    if (failed) throw new Error("There is not enough memory for this model.");
  }

  // What counting knows: arrays that stay where they are.
  async loadMemory(reader, { shape, sizes }) {
    this.knowledge = this.c.page_knowledge(...shape);
    for (const [which, size] of sizes.entries()) {
      const place = this.allocate(size);
      await reader.into(new Uint8Array(this.c.memory.buffer, place, size));
      this.c.page_know(this.knowledge, which, place, size / 4);
    }
    this.mixed = this.allocate(this.stride);
  }

  // The memory of one text, 0 where there is none; `typed`: ids that are counted beside the training text.
  remember(share, typed, ids) {
    if (!this.knowledge || !share) return 0;
    const places = [typed.slice(-READ_BACK), ids].map((numbers) => this.copy(Int32Array.from(numbers)));
    const memory = this.c.page_remember(this.knowledge, share, places[0], Math.min(typed.length, READ_BACK), places[1], ids.length);
    places.forEach((place) => this.c.page_release(place));
    if (!memory) throw new Error("There is not enough memory for what counting knows.");
    return memory;
  }

  // Where the logs are of what network and memory say together, until the next call.
  mix(memory, logits) {
    if (!memory) return logits;
    this.c.page_mix(memory, logits, this.mixed);
    return this.mixed;
  }

  take(count) {
    if (this.free.length < count) throw new Error(`So many texts at once are too many; at most ${this.free.length} more can be made.`);
    return this.free.splice(0, count);
  }

  giveBack(rows) {
    this.free.push(...rows);
  }

  reset = (row) => this.c.engine_reset(this.engine, row);

  // Continue a row by up to BLOCK ids -> where the logits are of the last, or of each, `stride` bytes apart.
  read(row, ids, all = false) {
    this.integers(this.ids, ids.length).set(ids);
    const place = this.c.page_read(this.engine, row, this.ids, ids.length, Number(all));
    if (!place) throw new Error("There is not enough memory to continue this text.");
    return place;
  }

  // Where the logits (vocabulary) are of what follows a row, until the next call.
  logits(row) {
    const place = this.c.page_logits(this.engine, row);
    if (!place) throw new Error("There is not enough memory to continue this text.");
    return place;
  }

  // The log-probability of an id after these logits, and the likeliest ids with theirs.
  tell(logits, id, tops) {
    const count = this.c.page_tell(this.engine, logits, id, Math.min(tops, TOPS), this.room, this.ids, this.logs);
    const ids = this.integers(this.ids, count), logs = this.floats(this.logs, count + 1).map((log) => Math.max(log, LEAST));
    return { logprob: logs[count], likeliest: Array.from(ids, (one, k) => [one, logs[k]]) };
  }

  // Let other rows be the text of the first.
  copyRow(from, to) {
    if (this.c.engine_copy(this.engine, from, to)) throw new Error("There is not enough memory for so many texts.");
  }

  // Draw and keep the next id. `text`: where its ids are, of which there are `length`, `drawn` of them drawn.
  draw(row, text, length, drawn, seed, s, memory) {
    const status = this.c.page_draw(
      this.engine, row, text, BigInt(length), BigInt(drawn), seed, s.temperature, s.top_p ?? 1, s.min_p ?? 0, s.typical_p ?? 1,
      s.repetition_penalty, BigInt(s.repetition_window ?? -1), Math.min(s.top_k ?? 0, this.vocabulary), s.no_repeat_ngram_size,
      this.tokenizer.end ?? -1, memory,
    );
    if (status === 3) throw new Error("The model's output is NaN or infinite: its training diverged.");
    if (status) throw new Error("There is not enough memory to continue this text.");
    return this.integers(text + 4 * length, 1)[0];
  }
}

export { BLOCK };
