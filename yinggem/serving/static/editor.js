// The text: one editable element of plain text, in which tokens are spans. What is kept is the state, not the element.

export const surprise = (token) => (token.logprob === null ? 0 : -token.logprob / Math.LN2); // bits
const shade = (bits) => `s${[0.5, 1.5, 3, 5, 7, 10].filter((edge) => bits >= edge).length}`;

export class Editor {
  // state: { text, tokens: [{start, end, name, logprob, top}], written: [[from, to]] }, places in UTF-16 units.
  constructor(element, changed) {
    Object.assign(this, { element, changed, state: { text: "", tokens: [], written: [] } });
    element.contentEditable = "plaintext-only";
    if (element.contentEditable !== "plaintext-only") element.contentEditable = "true";
    element.addEventListener("input", (event) => event.isComposing || this.read());
    element.addEventListener("compositionend", () => this.read());
    element.addEventListener("beforeinput", (event) => { // browsers differ in what a line end becomes
      const ends = ["insertLineBreak", "insertParagraph"].includes(event.inputType);
      if (!event.cancelable || event.isComposing || !(ends || event.data?.includes("\n"))) return;
      event.preventDefault();
      this.insert(ends ? "\n" : event.data);
    });
    element.addEventListener("paste", (event) => {
      event.preventDefault();
      this.insert(event.clipboardData.getData("text/plain").replace(/\r\n?/g, "\n"));
    });
    for (const kind of ["drop", "dragover"]) element.addEventListener(kind, (event) => event.preventDefault());
  }

  // Take over what was typed into the element.
  read() {
    this.replace(this.element.textContent, this.caret());
  }

  insert(text) {
    const { start, end } = this.selection(), whole = this.state.text;
    this.replace(whole.slice(0, start) + text + whole.slice(end), start + text.length, true);
  }

  // Another text: tokens before the first change stay as they are, those behind it were read after something else.
  replace(text, caret, draw = false) {
    const before = this.state, most = Math.min(before.text.length, text.length);
    let same = 0, behind = 0;
    while (same < most && before.text[same] === text[same]) same++;
    while (behind < most - same && before.text.at(-1 - behind) === text.at(-1 - behind)) behind++;
    const from = same, to = before.text.length - behind, moved = text.length - before.text.length;
    if (text === before.text) return;
    const tokens = before.tokens.filter((token) => token.end <= from);
    const written = before.written.flatMap(([a, b]) => [[a, Math.min(b, from)], [Math.max(a, to) + moved, b + moved]])
      .filter(([a, b]) => b > a);
    this.state = { text, tokens, written };
    if (draw || tokens.length < before.tokens.length) this.draw(caret);
    this.changed(before, "typed");
  }

  set(state, caret = state.text.length) {
    this.state = state;
    this.draw(caret);
  }

  draw(caret) {
    const { text, tokens } = this.state, nodes = [];
    let place = 0;
    tokens.forEach((token, index) => {
      if (token.start > place) nodes.push(document.createTextNode(text.slice(place, token.start)));
      const span = document.createElement("span");
      span.className = `token ${shade(surprise(token))}`;
      if (this.isWritten(token.start)) span.classList.add("written");
      span.dataset.index = index;
      span.textContent = text.slice(token.start, token.end);
      nodes.push(span);
      place = token.end;
    });
    if (place < text.length) nodes.push(document.createTextNode(text.slice(place)));
    if (text.endsWith("\n")) nodes.push(document.createElement("br")); // else the last line would not be seen
    this.element.replaceChildren(...nodes);
    if (caret !== undefined && document.activeElement === this.element) this.place(caret);
  }

  isWritten(place) {
    return this.state.written.some(([a, b]) => a <= place && place < b);
  }

  tokenAt(place) {
    return this.state.tokens.findIndex((token) => token.start <= place && place < token.end);
  }

  selection() {
    const found = getSelection(), end = this.state.text.length;
    if (!found.rangeCount || !this.element.contains(found.anchorNode)) return { start: end, end };
    const range = found.getRangeAt(0), before = document.createRange();
    before.selectNodeContents(this.element);
    before.setEnd(range.startContainer, range.startOffset);
    const start = before.toString().length;
    return { start, end: start + range.toString().length };
  }

  caret() {
    return this.selection().start;
  }

  place(caret) {
    const walker = document.createTreeWalker(this.element, NodeFilter.SHOW_TEXT);
    let left = caret, node = walker.nextNode();
    while (node && left > node.length) {
      left -= node.length;
      node = walker.nextNode();
    }
    if (node) getSelection().collapse(node, left);
    else getSelection().collapse(this.element, 0);
  }
}

export const codePoints = (text) => { let count = 0; for (const _ of text) count++; return count; };
