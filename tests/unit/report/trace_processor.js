// Serves Perfetto's trace processor, compiled to WebAssembly, on standard input and output.
//
// usage: node trace_processor.js FOLDER    (with engine_bundle.js and the .wasm files of Perfetto's user interface)
//
// Its protocol is a stream of protobuf messages in both directions, so the bytes are passed on as they are.
"use strict";
const fs = require("fs");
const path = require("path");
const vm = require("vm");

const folder = process.argv[2];
const { stdin, stdout, exit } = process;
const complain = (...texts) => fs.writeSync(2, texts.join(" ") + "\n");

// The bundle is made for a web worker of a browser, which fetches the module from beside it.
globalThis.self = globalThis;
globalThis.WorkerGlobalScope = class {};
globalThis.location = { href: "http://localhost/engine_bundle.js" };
globalThis.XMLHttpRequest = class {
  open(_method, url) {
    this.file = path.join(folder, path.basename(url));
  }
  send() {
    this.response = fs.readFileSync(this.file);
  }
};
Object.defineProperty(globalThis, "process", { value: undefined }); // it refuses to run where it sees Node.js
console.log = console.error = console.warn = complain;
const bundle = path.join(folder, "engine_bundle.js");
vm.runInThisContext(fs.readFileSync(bundle, "utf8"), { filename: bundle, displayErrors: false });

const port = { onmessage: null, postMessage: (bytes) => stdout.write(Buffer.from(bytes)) };
globalThis.onmessage({ data: port });
stdin.on("data", (chunk) => {
  try {
    port.onmessage({ data: new Uint8Array(chunk) });
  } catch (error) {
    complain(String(error).slice(0, 2000));
    exit(1);
  }
});
