"use strict";
// The page itself: what a person does, and what is then done.

const DEFAULT_THRESHOLD = 0.4; // that of `ssdlite predict`
const camera = new Camera(part("video"));
let detect = null; // once the detector has started
let latest = 0; // what is asked for now; answers to older questions are dropped

// ---- questions

async function showFile(file) {
  const question = ++latest;
  stopCamera();
  say();
  try {
    const started = performance.now();
    const picture = await readPicture(file);
    if (question === latest) await show(picture, question, performance.now() - started);
  } catch (error) {
    if (question === latest) say(error.message);
  }
}

async function show(picture, question, milliseconds) {
  Object.assign(shown, { picture, found: null });
  part("timing").textContent = "";
  render();
  if (!detect) return; // `start` comes back to it
  await new Promise(requestAnimationFrame); // let the picture appear first
  const started = performance.now();
  const answer = await detect(picture);
  if (question !== latest) return;
  shown.found = answer.found;
  render();
  showTiming(answer.milliseconds, milliseconds + performance.now() - started);
}

async function startCamera() {
  const question = ++latest;
  say();
  part("camera").disabled = true; // until a person has allowed it or not
  try {
    await camera.start(() => { stopCamera(); say("The camera was taken away."); });
    part("camera").textContent = "Stop the camera";
  } catch (error) {
    if (question === latest) say(error.message);
  } finally {
    part("camera").disabled = false;
  }
  if (question === latest) await watch(question);
  else stopCamera();
}

async function watch(question) {
  part("count").ariaLive = "off"; // or it would be read out ten times a second
  let inference = 0, whole = 0, last = performance.now();
  while (camera.isOn && question === latest) {
    const picture = camera.look();
    if (detect) {
      const answer = await detect(picture);
      if (!camera.isOn || question !== latest) break;
      Object.assign(shown, { picture, found: answer.found });
      inference = smooth(inference, answer.milliseconds);
      whole = smooth(whole, performance.now() - last);
      showTiming(inference, whole, true);
    } else {
      Object.assign(shown, { picture, found: null });
    }
    render();
    last = performance.now();
    await new Promise(requestAnimationFrame);
  }
}

function smooth(mean, value) {
  return mean ? 0.85 * mean + 0.15 * value : value;
}

function stopCamera() {
  camera.stop();
  part("camera").textContent = "Start the camera";
  part("count").ariaLive = "polite";
}

// ---- files to keep

function savePicture() {
  const { width, height, name } = shown.picture;
  const canvas = document.createElement("canvas");
  paint(canvas, width, height, Math.max(2, Math.sqrt(width * height) / 350));
  canvas.toBlob((blob) => save(blob, name, "-boxes.jpg"), "image/jpeg", 0.92);
}

/** What is shown, as `ssdlite predict` writes it for one picture. */
function saveBoxes() {
  const { name, width, height } = shown.picture;
  const detections = visible().map(({ label, score, box }) => ({
    label: card.names[label], score: Number(score.toFixed(5)), box: box.map((side) => Number(side.toFixed(2))),
  }));
  const text = JSON.stringify([{ image: name, width, height, detections }], null, 1);
  save(new Blob([`${text}\n`], { type: "application/json" }), name, ".json");
}

function save(blob, name, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name.replace(/\.[^.]*$/, "") + ending;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// ---- the page

function prepareThreshold() {
  const slider = part("threshold");
  slider.min = Math.min(0.98, Math.max(0.01, Math.ceil(100 * card.threshold - 1e-6) / 100));
  slider.max = 0.99;
  slider.value = DEFAULT_THRESHOLD;
  const read = () => {
    shown.threshold = Number(slider.value);
    part("threshold-value").textContent = `${Math.round(100 * shown.threshold)}%`;
    render();
  };
  slider.addEventListener("input", read);
  read();
}

function listen() {
  const chooser = part("file");
  const choose = () => chooser.click();
  part("choose").addEventListener("click", choose);
  part("stage").addEventListener("click", () => { if (shown.picture === null) choose(); });
  chooser.addEventListener("change", () => {
    if (chooser.files.length) showFile(chooser.files[0]);
    chooser.value = ""; // so that the same file can be chosen again
  });
  part("camera").addEventListener("click", () => { if (camera.isOn) stopCamera(); else startCamera(); });
  part("save-picture").addEventListener("click", savePicture);
  part("save-boxes").addEventListener("click", saveBoxes);
  addEventListener("paste", (event) => take(event.clipboardData, "The clipboard holds no picture."));
  addEventListener("dragover", (event) => { event.preventDefault(); part("stage").classList.add("target"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) part("stage").classList.remove("target"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    part("stage").classList.remove("target");
    take(event.dataTransfer, "That was no file: save the picture first, then drop it here.");
  });
  new ResizeObserver(render).observe(part("stage"));
}

function take(transfer, otherwise) {
  if (transfer.files.length) showFile(transfer.files[0]);
  else say(otherwise);
}

async function start() {
  describe();
  prepareThreshold();
  const lack = missingFeature();
  if (lack) {
    stopWith(lack);
    return;
  }
  listen();
  try {
    detect = await startDetector(card);
    part("busy").hidden = true;
    if (altersPixels()) say("This browser alters the pixels that a page reads, against tracking: boxes will be wrong.");
    if (shown.picture && !camera.isOn) await show(shown.picture, latest, 0);
  } catch (error) {
    stopWith(`The detector could not be started: ${error.message}`);
  }
}

function stopWith(sentence) {
  part("busy").hidden = true;
  for (const id of ["choose", "camera", "threshold"]) part(id).disabled = true;
  say(sentence);
}

start();
