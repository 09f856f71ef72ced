// Text to ids and back, the same ids as yinggem/text/tokenizer.py on any text: bytes, characters, byte-pair encoding.

const PIECE = 1 << 16; // characters that are split at once, as in yinggem/text/bpe.py
// GPT-2's split pattern. White space is Unicode's, which JavaScript's own \s is not quite; which characters are letters and
// which digits comes with the model, for browsers know other versions of Unicode than tiktoken.
const splitter = (letters, digits) => new RegExp(
  `'(?:[sdmt]|ll|ve|re)| ?[${letters}]+| ?[${digits}]+| ?[^\\p{White_Space}${letters}${digits}]+`
  + "|\\p{White_Space}+$|\\p{White_Space}+(?!\\P{White_Space})|\\p{White_Space}", "gu",
);
const SOLID = /[^\p{White_Space}\x1c-\x1f]/u; // what Python's \S is

const utf8 = new TextEncoder();

export class Tokenizer {
  // kind: "byte", "char", "bpe" or "gpt2"; tokens: the bytes of every id; end, turn: ids of marks, or null.
  constructor({ kind, end, turn, template, ordinary, letters, digits }, tokens) {
    Object.assign(this, { kind, end, turn, template, tokens });
    this.names = tokens.map((bytes, id) => (bytes.length ? name(bytes) : `<${id}>`));
    if (kind === "byte") this.encode = (text) => [...utf8.encode(text)];
    else if (kind === "char") this.encode = characterEncoder(tokens, ordinary);
    else this.encode = pairEncoder(tokens, ordinary, splitter(letters, digits));
  }

  // The ids that a prompt begins with, at least one; `unseen` of them stand before its text.
  prompt(text) {
    if (this.end !== null) {
      const opening = this.template === null ? text : this.template.split("{prompt}").join(text);
      const ids = [this.end, ...this.encode(whole(opening)), ...(this.turn === null ? [] : [this.turn])];
      return { ids, unseen: text && this.template === null ? 1 : ids.length };
    }
    if (text) return { ids: this.encode(whole(text)), unseen: 0 };
    try {
      const ids = this.encode("\n");
      return { ids, unseen: ids.length };
    } catch {
      return { ids: [0], unseen: 1 };
    }
  }

  // The ids of a prompt that a memory counts, with the vocabulary's size in place of those that a model wrote: those of
  // the stretches [from, to) of its characters.
  typed(text, ids, generated) {
    if (!text) return [];
    const size = (part) => new TextEncoder().encode(part).length, letters = [...text];
    const stretches = generated.map((places) => places.map((place) => size(letters.slice(0, place).join(""))));
    let end = -size((this.template ?? "{prompt}").split("{prompt}")[0]);
    return ids.map((id) => {
      const start = end;
      end += this.tokens[id].length;
      return stretches.some(([from, to]) => start < to && end > from) ? this.tokens.length : id;
    });
  }
}

function whole(text) {
  const half = /\p{Surrogate}/u.exec(text);
  if (half) throw new Error(`Character ${[...text.slice(0, half.index)].length} of the text is half a character; remove it.`);
  return text;
}

// A token's text; as OpenAI writes it where that is a part of a character only.
function name(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return `bytes:${[...bytes].map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("")}`;
  }
}

function characterEncoder(tokens, ordinary) {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const ids = new Map(tokens.slice(0, ordinary).map((bytes, id) => [decoder.decode(bytes), id]));
  return (text) => Array.from(text, (character) => {
    const id = ids.get(character);
    if (id === undefined) throw new Error(`This model never saw ${JSON.stringify(character)} in its training text; leave it out.`);
    return id;
  });
}

// Pieces of at most PIECE characters; cut before a space or a line feed, which changes no token, if there is one.
export function* pieces(text, limit = PIECE) {
  if (text.length <= limit) {
    if (text) yield text;
    return;
  }
  const characters = Array.from(text);
  let start = 0;
  while (characters.length - start > limit) {
    let end = start + limit;
    while (end > start && !(/[ \n]/.test(characters[end]) && SOLID.test(characters[end - 1]))) end--;
    if (end === start) end = start + limit;
    yield characters.slice(start, end).join("");
    start = end;
  }
  if (start < characters.length) yield characters.slice(start).join("");
}

const binary = (bytes) => {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
};

function pairEncoder(tokens, ordinary, split) {
  const ranks = new Map(tokens.slice(0, ordinary).map((bytes, id) => [binary(bytes), id]));
  return (text) => {
    const ids = [];
    for (const piece of pieces(text)) for (const [part] of piece.matchAll(split)) merge(binary(utf8.encode(part)), ranks, ids);
    return ids;
  };
}

// A part that is a token is that token. Else two neighbours that make the token of the lowest rank become it, the
// leftmost first, until no two do.
function merge(part, ranks, ids) {
  const known = ranks.get(part);
  if (known !== undefined) {
    ids.push(known);
    return;
  }
  const size = part.length, next = new Int32Array(size), before = new Int32Array(size), heap = [];
  const ends = new Int32Array(size); // where the token that begins here ends; 0: none does any more
  const consider = (at) => {
    const follower = next[at];
    if (at < 0 || follower >= size) return;
    const rank = ranks.get(part.slice(at, ends[follower]));
    if (rank !== undefined) push(heap, { rank, at, end: ends[follower] });
  };
  for (let i = 0; i < size; i++) [next[i], before[i], ends[i]] = [i + 1, i - 1, i + 1];
  for (let i = 0; i < size; i++) consider(i);
  while (heap.length) {
    const { at, end } = pop(heap), follower = next[at];
    if (!ends[at] || follower >= size || ends[follower] !== end) continue; // one of the two became something else
    [ends[at], ends[follower], next[at]] = [end, 0, next[follower]];
    if (next[at] < size) before[next[at]] = at;
    consider(at);
    if (before[at] >= 0) consider(before[at]);
  }
  for (let i = 0; i < size; i = next[i]) ids.push(ranks.get(part.slice(i, ends[i])));
}

const first = (a, b) => a.rank < b.rank || (a.rank === b.rank && a.at < b.at);

function push(heap, item) {
  let at = heap.length;
  for (let above; at && first(item, heap[(above = (at - 1) >> 1)]); at = above) heap[at] = heap[above];
  heap[at] = item;
}

function pop(heap) {
  const top = heap[0], item = heap.pop();
  if (!heap.length) return top;
  let at = 0;
  for (let child; (child = 2 * at + 1) < heap.length; at = child) {
    if (child + 1 < heap.length && first(heap[child + 1], heap[child])) child++;
    if (!first(heap[child], item)) break;
    heap[at] = heap[child];
  }
  heap[at] = item;
  return top;
}

// Ids to text, one by one: the bytes of a character that is not complete wait. Places are in characters.
export class Decoder {
  constructor() {
    this.pending = [];
    this.length = 0;
    this.decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  }

  // The text that these bytes complete, and where they begin.
  push(bytes) {
    const anew = this.pending.length && bytes.length && (bytes[0] < 0x80 || bytes[0] >= 0xc0);
    const place = this.length + (anew ? 1 : 0); // what was pending stays half a character
    const text = this.decoder.decode(bytes, { stream: true }), held = [...this.pending, ...bytes].slice(-3);
    this.pending = held.slice(held.length - unfinished(held));
    for (const _ of text) this.length++;
    return { text, place };
  }

  finish() {
    return this.decoder.decode();
  }
}

// How many of the last bytes begin a character that they do not complete.
function unfinished(bytes) {
  for (let count = 1; count <= bytes.length; count++) {
    const tail = bytes.slice(bytes.length - count);
    if (tail[0] < 0x80) return 0;
    if (tail[0] < 0xc0) continue;
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(tail), { stream: true }) ? 0 : count;
    } catch {
      return 0;
    }
  }
  return 0;
}
