// A client of the kernel in JavaScript, written from sdk/WIRE.md alone.
//
//     npm install
//     node client.mjs echo.say '{"text": "hello"}'                 ask for one operation
//     python -m clawai.sdk.conformance node client.mjs             orders from the runner
//
// `Client` is what an application would use; below it are the two programs that use it here.
import { createInterface } from "node:readline";
import { decode, encode } from "@msgpack/msgpack";
import { Dealer } from "zeromq";

// What a message leaves out has the default that WIRE.md gives.
const DEFAULTS = {
  welcome: { max_message: 8388608, max_frames: 64 },
  accepted: { position: 0, estimate_ms: null, job: "" },
  progress: { state: "", position: null, estimate_ms: null, fraction: null, note: "" },
  chunk: { data: null },
  done: { result: null, timings: {} },
  answer: { data: {} },
  error: { id: null, got: null, allowed: null, hint: "", retry_after_ms: null, timings: {} },
};
const ENDS = ["done", "error", "answer"];
const WITH_PAYLOAD = ["chunk", "done"];
const PAUSE_MS = 100; // a receive without news ends after this, to see whether the kernel is gone

// Integers are exact: a BigInt where a number would not be.
const narrow = (value) => {
  if (typeof value === "bigint")
    return value === BigInt(Number(value)) && Number.isSafeInteger(Number(value))
      ? Number(value)
      : value;
  if (Array.isArray(value)) return value.map(narrow);
  if (value && typeof value === "object" && !(value instanceof Uint8Array))
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, narrow(each)]));
  return value;
};
export const read = (bytes) => narrow(decode(bytes, { useBigInt64: true }));
export const write = (value) => encode(value, { useBigInt64: true });

/** One connection to a kernel. `heard(type, event)` is called for everything that it says. */
export class Client {
  constructor(folder, heard) {
    this.open = new Set(); // requests without an end
    this.limits = { bytes: 8388608, frames: 64 };
    this.gone = this.closed = false;
    this.heard = heard;
    this.socket = new Dealer({
      linger: 0,
      reconnectInterval: 2 ** 30, // a new connection would know none of our requests
      receiveTimeout: PAUSE_MS,
    });
    for (const end of ["disconnect", "connect:retry"])
      this.socket.events.on(end, () => (this.gone = true));
    this.socket.connect(`ipc://${folder}/kernel.sock`);
    this.sending = Promise.resolve();
    this.listening = this.#listen();
  }

  /** Send a message. One that asks for something is open until its end. */
  send(header, payload = []) {
    const frames = [write(header), ...payload];
    if ("id" in header && header.type !== "cancel") this.open.add(header.id);
    const bytes = frames.reduce((sum, frame) => sum + frame.length, 0);
    if (bytes > this.limits.bytes || frames.length > this.limits.frames)
      return this.#error(header.id, "too_large", "the message exceeds what the kernel takes");
    this.sending = this.sending.then(() => this.closed || this.socket.send(frames));
  }

  close() {
    this.closed = true;
    this.socket.close();
  }

  async #listen() {
    while (!this.closed) {
      const last = this.gone; // nothing new comes, and this takes what is still there
      try {
        const [header, ...payload] = await this.socket.receive();
        if (!this.closed) this.#take(read(header), payload);
      } catch (error) {
        if (error.code !== "EAGAIN") return; // closed meanwhile
        if (last) return this.#end();
      }
    }
  }

  #take({ type, ...fields }, payload) {
    if (!(type in DEFAULTS)) return; // a newer kernel says it; it means nothing to us
    const event = { ...DEFAULTS[type], ...fields };
    if (WITH_PAYLOAD.includes(type)) event.payload = payload;
    if (type === "welcome") this.limits = { bytes: event.max_message, frames: event.max_frames };
    this.#tell(type, event);
  }

  #tell(type, event) {
    if (ENDS.includes(type)) this.open.delete(event.id);
    this.heard(type, event);
  }

  #error(id, code, message) {
    this.#tell("error", { ...DEFAULTS.error, id, code, message });
  }

  #end() {
    for (const id of this.open) this.#error(id, "no_kernel", "the connection ended");
    this.#error(null, "no_kernel", "no kernel is there");
    this.#tell("gone", {});
    this.close();
  }
}

// JSON of the runner: {"hex": "00ff"} is bytes, {"int": "digits"} an integer beyond 2^53.
const toJson = (value) =>
  JSON.stringify(value, function (key, each) {
    const raw = this[key]; // before Buffer's own toJSON
    if (raw instanceof Uint8Array) return { hex: Buffer.from(raw).toString("hex") };
    return typeof each === "bigint" ? { int: String(each) } : each;
  });
const fromJson = (text) =>
  JSON.parse(text, (_, value) => {
    const keys = value && typeof value === "object" ? Object.keys(value).join() : "";
    if (keys === "hex" && typeof value.hex === "string") return Buffer.from(value.hex, "hex");
    return keys === "int" && typeof value.int === "string" ? BigInt(value.int) : value;
  });

/** Take orders from standard input until it ends; see docs/clients.md. */
async function takeOrders() {
  const say = (event, fields) => process.stdout.write(`${toJson({ event, ...fields })}\n`);
  let client = null;
  for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
    const { do: what, folder, payload = [], zeros, ...rest } = fromJson(line);
    if (what === "decode") say("decoded", { value: read(rest.header) });
    else if (what === "encode") say("encoded", { header: write(rest.value) });
    else if (what === "close") {
      client?.close();
      client = null;
      say("closed", {});
    } else if (what === "hello") {
      client?.close();
      client = new Client(folder, say);
      client.send({ type: "hello", version: [1, 1], ...rest });
    } else client.send({ type: what, ...rest }, zeros ? [...payload, Buffer.alloc(zeros)] : payload);
  }
  client?.close();
}

/** Ask for one operation and print what comes. */
async function askOnce(op, params = "{}") {
  const { CLAW_RUNTIME_DIR, XDG_RUNTIME_DIR } = process.env;
  const usual = XDG_RUNTIME_DIR ? `${XDG_RUNTIME_DIR}/clawai` : `/tmp/clawai-${process.getuid()}`;
  const client = new Client(CLAW_RUNTIME_DIR || usual, (type, event) => {
    if (type === "chunk") console.log(event.data);
    if (type === "done") console.log(event.result);
    if (type === "error") console.error(`${event.code}: ${event.message}`);
    if (type === "error") process.exitCode = 1;
    if (ENDS.includes(type)) client.close();
  });
  client.send({ type: "hello", version: [1, 1] });
  client.send({ type: "submit", id: 1, op, params: JSON.parse(params) });
  await client.listening;
}

await (process.argv.length > 2 ? askOnce(...process.argv.slice(2)) : takeOrders());
