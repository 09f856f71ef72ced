// node tokenize_in_node.js < {"code", "about", "tokens": [base64], "texts"}: the ids of the texts, or why there are none.

const { code, about, tokens, texts } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const { Tokenizer } = (0, eval)(`(() => { ${code}; return modules["/tokenizers.js"]; })()`);
const tokenizer = new Tokenizer(about, tokens.map((token) => Uint8Array.from(Buffer.from(token, "base64"))));
process.stdout.write(JSON.stringify(texts.map((text) => {
  try {
    return tokenizer.prompt(text).ids;
  } catch (error) {
    return error.message;
  }
})));
