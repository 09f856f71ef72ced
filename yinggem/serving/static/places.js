// Tokens with their places in a text that begins at `start` (UTF-16): the server counts characters. Tokens that are
// parts of one character are one here.
export class Places {
  constructor(start) {
    this.ends = [start]; // of every character, after the first
    this.tokens = [];
  }

  push(text, logprobs) {
    for (const character of text) this.ends.push(this.ends.at(-1) + character.length);
    logprobs?.tokens.forEach((name, k) => {
      const place = this.ends[logprobs.text_offset[k]] ?? this.ends.at(-1);
      const last = this.tokens.at(-1), logprob = logprobs.token_logprobs[k];
      if (last && last.start === place) {
        last.logprob = last.logprob === null || logprob === null ? null : last.logprob + logprob;
      } else {
        this.tokens.push({ start: place, name, logprob, top: logprobs.top_logprobs[k] });
      }
    });
    this.tokens.forEach((token, k) => { token.end = this.tokens[k + 1]?.start ?? this.ends.at(-1); });
    return this.tokens;
  }
}
