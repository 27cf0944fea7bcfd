// Runs one model in onnxruntime-web under Node or in a page; used by onnx_runtimes.py.
// A job is {model: base64, feeds: {name: {type, dims, data: base64}}}; the result has outputs of the same form.

const kinds = {
  float32: Float32Array, float64: Float64Array, int64: BigInt64Array, int32: Int32Array, uint8: Uint8Array,
  int8: Int8Array, bool: Uint8Array,
};

function bytes(text) {
  const raw = atob(text), out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out;
}

function text(array) {
  const raw = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  let out = "";
  for (let i = 0; i < raw.length; i += 8192) out += String.fromCharCode(...raw.subarray(i, i + 8192));
  return btoa(out);
}

export async function work(ort, job) {
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "fatal";
  const feeds = {};
  for (const [name, {type, dims, data}] of Object.entries(job.feeds))
    feeds[name] = new ort.Tensor(type, new kinds[type](bytes(data).buffer), dims);
  const began = performance.now();
  const session = await ort.InferenceSession.create(bytes(job.model), {executionProviders: ["wasm"]});
  const opened = performance.now();
  const found = await session.run(feeds);
  const done = performance.now();
  const outputs = session.outputNames.map(
    (name) => ({type: found[name].type, dims: found[name].dims, data: text(found[name].data)}));
  return {version: ort.env.versions.web, open: (opened - began) / 1000, run: (done - opened) / 1000, outputs};
}

if (typeof process !== "undefined" && process.argv?.[2]) {
  const {readFileSync} = await import("node:fs");
  const {createRequire} = await import("node:module");
  const ort = createRequire(process.argv[2] + "/")("onnxruntime-web");
  process.stdout.write(JSON.stringify(await work(ort, JSON.parse(readFileSync(process.argv[3], "utf8")))));
}
