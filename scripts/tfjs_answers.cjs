// Runs a TensorFlow.js graph model in node, for make_tfjs_reference.py.
//
//     cd A_FOLDER_WHERE_npm_install_@tensorflow/tfjs_WAS_RUN
//     node tfjs_answers.cjs MODEL_FOLDER IMAGE.raw ...
//
// An IMAGE.raw holds 300x300 RGB pixels, a byte each. Beside it are written, as little-endian float32: IMAGE.encodings
// (1917 x 4), IMAGE.logits (1917 x 91), IMAGE.anchors (1917 x 4), and IMAGE.detections (rows of label, y1, x1, y2, x2
// in 0..1, score), which TensorFlow.js's own suppression chose class by class among COCO's 80 classes.

const fs = require("fs");
const path = require("path");
const tf = require(require.resolve("@tensorflow/tfjs", { paths: [process.cwd()] }));

const SIDE = 300;
const IOU_THRESHOLD = 0.6;
const SCORE_THRESHOLD = 0.01;
const MAX_DETECTIONS = 100;
const UNUSED_IDS = new Set([12, 26, 29, 30, 45, 66, 68, 69, 71, 83]);

function readModel(folder) {
  const model = JSON.parse(fs.readFileSync(path.join(folder, "model.json"), "utf8"));
  const [group] = model.weightsManifest;
  const weights = Buffer.concat(group.paths.map((name) => fs.readFileSync(path.join(folder, name))));
  const weightData = weights.buffer.slice(weights.byteOffset, weights.byteOffset + weights.byteLength);
  return { modelTopology: model.modelTopology, weightSpecs: group.weights, weightData };
}

function write(file, values) {
  fs.writeFileSync(file, Buffer.from(Float32Array.from(values).buffer));
}

async function suppress(boxes, scores) {
  const rows = [];
  for (let label = 1; label <= scores.shape[1]; label++) {
    if (UNUSED_IDS.has(label)) continue;
    const column = scores.slice([0, label - 1], [-1, 1]).flatten();
    const kept = await tf.image.nonMaxSuppressionAsync(boxes, column, MAX_DETECTIONS, IOU_THRESHOLD, SCORE_THRESHOLD);
    const [all, values] = [await boxes.array(), await column.array()];
    for (const prior of await kept.array()) rows.push([label, ...all[prior], values[prior]]);
  }
  rows.sort((one, other) => other[5] - one[5]);
  return rows.slice(0, MAX_DETECTIONS);
}

async function main() {
  const [folder, ...images] = process.argv.slice(2);
  await tf.setBackend("cpu");
  const graph = await tf.loadGraphModel(tf.io.fromMemory(readModel(folder)));
  for (const image of images) {
    const pixels = tf.tensor4d(new Uint8Array(fs.readFileSync(image)), [1, SIDE, SIDE, 3], "int32");
    const names = ["Squeeze", "concat_1", "Postprocessor/ExpandDims_1", "Postprocessor/Slice"];
    const [encodings, logits, boxes, scores] = await graph.executeAsync({ image_tensor: pixels }, names);
    const base = image.replace(/\.raw$/, "");
    write(`${base}.encodings`, await encodings.data());
    write(`${base}.logits`, await logits.data());
    write(`${base}.anchors`, await graph.weights["Postprocessor/ExpandDims"][0].data());
    const rows = await suppress(boxes.reshape([-1, 4]), scores.squeeze([0]));
    write(`${base}.detections`, rows.flat());
    console.log(`${path.basename(image)}: ${rows.length} detections, ${tf.version.tfjs}, ${tf.getBackend()}`);
  }
}

main();
