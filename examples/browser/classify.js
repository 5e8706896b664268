// Classifies images in the browser: a folder that `sima-hf export` wrote, run by onnxruntime-web.
// sima_export.json in that folder says how an image becomes the input, and what the outputs are called.

const RUNTIME = "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
const MODEL = new URLSearchParams(location.search).get("model") ?? "model";
const SHOWN = 5;

const at = (id) => document.getElementById(id);
class Refused extends Error {} // with a sentence for the visitor

const ONE = 2 ** 22; // Pillow's fixed point

// Reach and weights of Pillow's filters, by their numbers in `resample`.
const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const FILTERS = {
  1: [3, (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0)],
  2: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  3: [2, (x) => ((x = Math.abs(x)) < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((2.5 - 0.5 * x) * x - 4) * x + 2 : 0)],
  4: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  5: [1, (x) => (x === 0 ? 1 : Math.abs(x) < 1 ? sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)) : 0)],
};

// One axis of Pillow's resize: `bytes` are `outer` rows of `from` places of `inner` numbers. Browsers scale in ways of their own, which
// give other logits.
function resizeAxis(bytes, outer, from, inner, to, resample) {
  if (from === to) return bytes;
  const [reach, weigh] = FILTERS[resample];
  const scale = from / to, wide = Math.max(scale, 1);
  const out = new Uint8ClampedArray(outer * to * inner);
  for (let place = 0; place < to; place++) {
    const center = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach * wide + 0.5));
    const last = Math.min(from, Math.trunc(center + reach * wide + 0.5));
    const exact = Array.from({ length: last - first }, (_, i) => weigh((first + i - center + 0.5) / wide));
    const total = exact.reduce((a, b) => a + b, 0);
    const weights = exact.map((x) => Math.sign(x) * Math.floor(Math.abs(x / total) * ONE + 0.5)); // whole numbers, as Pillow's
    for (let row = 0; row < outer; row++)
      for (let i = 0; i < inner; i++) {
        let sum = 0;
        for (let k = 0; k < weights.length; k++) sum += weights[k] * bytes[(row * from + first + k) * inner + i];
        out[(row * to + place) * inner + i] = Math.floor(sum / ONE + 0.5);
      }
  }
  return out;
}

function resize({ width, height, bytes }, toWidth, toHeight, resample) {
  bytes = resizeAxis(bytes, height, width, 4, toWidth, resample);
  bytes = resizeAxis(bytes, 1, height, toWidth * 4, toHeight, resample);
  return { width: toWidth, height: toHeight, bytes };
}

// Width and height after the resize that the image processor asks for.
function resized({ width, height }, size) {
  if (!size.shortest_edge) return [size.width, size.height];
  const short = Math.min(width, height);
  const of = (side) => (side === short ? size.shortest_edge : Math.trunc((size.shortest_edge * side) / short));
  return [of(width), of(height)];
}

// `(1, 3, height, width)` as float32, by the steps of the image processor.
function prepare(image, steps) {
  if (steps.do_resize ?? true) image = resize(image, ...resized(image, steps.size), steps.resample);
  const { width, height, bytes } = image;
  const crop = (steps.do_center_crop && steps.crop_size) || image;
  const left = Math.floor((width - crop.width) / 2), top = Math.floor((height - crop.height) / 2);
  const rescale = steps.do_rescale ?? true ? steps.rescale_factor : 1;
  const normalized = steps.do_normalize ?? true;
  const out = new Float32Array(3 * crop.height * crop.width);
  for (let channel = 0, i = 0; channel < 3; channel++)
    for (let y = top; y < top + crop.height; y++)
      for (let x = left; x < left + crop.width; x++, i++) {
        const inside = x >= 0 && y >= 0 && x < width && y < height; // an image that is smaller than the crop gets a black margin
        const value = inside ? bytes[(y * width + x) * 4 + channel] * rescale : 0;
        out[i] = normalized ? (value - steps.image_mean[channel]) / steps.image_std[channel] : value;
      }
  return { data: out, shape: [1, 3, crop.height, crop.width] };
}

async function fetched(name) {
  const answer = await fetch(`${MODEL}/${name}`);
  if (!answer.ok) throw new Refused(`There is no ${MODEL}/${name}. Export a model to that folder: sima-hf export NAME ${MODEL}`);
  return answer;
}

async function load() {
  const ort = await import(RUNTIME).catch(() => {
    throw new Refused("onnxruntime-web is not there. In the folder of this page: npm install");
  });
  // More threads need a page that is isolated from other origins, by headers that a plain file server does not send.
  ort.env.wasm.numThreads = crossOriginIsolated ? navigator.hardwareConcurrency : 1;
  const record = await (await fetched("sima_export.json")).json();
  if (record.format !== "onnx") throw new Refused(`${MODEL} is for ${record.format}; this page runs onnx.`);
  if (!record.labels) throw new Refused(`${record.model} does not classify.`);
  if (!record.image_processor) throw new Refused(`${MODEL}/sima_export.json names no image processor.`);
  const { dtype, shape } = record.inputs[0];
  if (dtype !== "float32" || shape[1] !== 3) throw new Refused(`${record.model} does not take color images in float32, but ${shape} in ${dtype}.`);
  const bytes = async (name) => new Uint8Array(await (await fetched(name)).arrayBuffer());
  const weights = record.files.filter((name) => name === `${record.file}.data`);
  const session = await ort.InferenceSession.create(await bytes(record.file), {
    executionProviders: ["wasm"],
    externalData: await Promise.all(weights.map(async (name) => ({ path: name, data: await bytes(name) }))),
  });
  return { ort, record, session };
}

// Pixels as they are stored, RGBA.
async function decode(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" }).catch(() => {
    throw new Refused(`${file.name} is not an image that this browser can read.`);
  });
  const canvas = at("preview");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return { width: bitmap.width, height: bitmap.height, bytes: context.getImageData(0, 0, bitmap.width, bitmap.height).data };
}

// Logits of an image, and milliseconds of its preparation and of the model.
async function run({ ort, record, session }, image) {
  const begin = performance.now();
  const { data, shape } = prepare(image, record.image_processor);
  const input = new ort.Tensor("float32", data, shape);
  const prepared = performance.now();
  const outputs = await session.run({ [record.inputs[0].name]: input });
  const logits = outputs.logits ?? outputs[record.outputs[0].name];
  return { logits: Array.from(logits.data), preparing: prepared - begin, running: performance.now() - prepared };
}

function show({ logits, preparing, running }, labels) {
  const largest = Math.max(...logits);
  const odds = logits.map((x) => Math.exp(x - largest));
  const total = odds.reduce((a, b) => a + b, 0);
  const best = logits.map((_, i) => i).sort((a, b) => logits[b] - logits[a]).slice(0, SHOWN);
  at("classes").replaceChildren(
    ...best.map((i) => {
      const row = document.createElement("tr");
      for (const text of [labels[i], `${((100 * odds[i]) / total).toFixed(1)} %`]) row.insertCell().textContent = text;
      return row;
    }),
  );
  at("classes").dataset.logits = JSON.stringify(logits);
  at("time").textContent = `${running.toFixed(1)} ms for the model, ${preparing.toFixed(1)} ms to resize and normalize.`;
}

async function attempt(action) {
  try {
    at("message").textContent = "";
    await action();
  } catch (error) {
    console.warn(error);
    at("message").textContent = error instanceof Refused ? error.message : `It did not work: ${error.message}`;
  }
}

function clear() {
  at("preview").hidden = true;
  at("classes").replaceChildren();
  delete at("classes").dataset.logits;
  at("time").textContent = "";
}

async function classify(loaded, file) {
  clear();
  const found = await run(loaded, await decode(file));
  at("preview").hidden = false;
  show(found, loaded.record.labels);
}

await attempt(async () => {
  const loaded = await load().catch((error) => {
    at("model").textContent = "";
    throw error;
  });
  const { record, ort } = loaded;
  await run(loaded, { width: 1, height: 1, bytes: new Uint8ClampedArray(4) }); // the first run also allocates
  const threads = ort.env.wasm.numThreads;
  const softmax = record.certificate.softmax_free ? ", no softmax in its attention" : "";
  at("model").textContent =
    `${record.model}, ${record.labels.length} classes${softmax}; onnxruntime-web ${ort.env.versions.web}, ${threads} thread${threads === 1 ? "" : "s"}`;
  at("file").disabled = false;
  let queue = Promise.resolve(); // a session runs one image at a time
  const take = (file) => file && (queue = queue.then(() => attempt(() => classify(loaded, file))));
  at("file").addEventListener("change", () => take(at("file").files[0]));
  for (const kind of ["dragover", "dragleave", "drop"])
    at("drop").addEventListener(kind, (event) => {
      event.preventDefault();
      at("drop").classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files[0]);
    });
});
