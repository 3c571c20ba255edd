"use strict";
// The network: unpacked from this page, started by ONNX Runtime Web, asked about one picture at a time.

/** What this browser lacks, as a sentence for a person, or null. */
function missingFeature() {
  if (typeof WebAssembly !== "object") return "This browser has no WebAssembly, or it is switched off.";
  if (typeof DecompressionStream !== "function" || typeof createImageBitmap !== "function") {
    return "This browser is too old: Chrome 99, Edge 99, Firefox 113, Safari 16.4 or a newer one is needed.";
  }
  return null;
}

/**
 * Start the network of this page. Gives detect(picture) -> {found, milliseconds}.
 *
 * picture: {data: RGBA bytes, width, height}; found: [{label, score, box}] by falling score, label counted from 0,
 * box [x1, y1, x2, y2] in pixels of the picture; milliseconds: of the network alone.
 */
async function startDetector({ size, alignment }) {
  const [library, wasm, model] = await Promise.all(["library", "wasm", "model"].map(unpack));
  const address = URL.createObjectURL(new Blob([library], { type: "text/javascript" }));
  const ort = await import(address);
  URL.revokeObjectURL(address);
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = 1; // more need headers that no file has
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"], logSeverityLevel: 3 });

  async function detect(picture) {
    const planes = toPlanes(resize(picture, size, alignment));
    const images = new ort.Tensor("float32", planes, [1, 3, ...size]);
    const started = performance.now();
    const outputs = await session.run({ images });
    const milliseconds = performance.now() - started;
    return { found: readDetections(outputs, picture.width / size[1], picture.height / size[0]), milliseconds };
  }

  const [height, width] = size;
  await detect({ data: new Uint8ClampedArray(height * width * 4), width, height }); // the first run is slower
  return detect;
}

function readDetections(outputs, scaleX, scaleY) {
  const boxes = outputs.detection_boxes.data;
  const count = Number(outputs.num_detections.data[0]);
  return Array.from({ length: count }, (_, i) => ({
    label: Number(outputs.detection_labels.data[i]),
    score: outputs.detection_scores.data[i],
    box: [boxes[4 * i] * scaleX, boxes[4 * i + 1] * scaleY, boxes[4 * i + 2] * scaleX, boxes[4 * i + 3] * scaleY],
  }));
}

/** The bytes of a <script> that holds them as gzip in base64. It leaves the page, so that memory is freed. */
async function unpack(id) {
  const element = document.getElementById(id);
  const text = atob(element.textContent);
  element.remove();
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
