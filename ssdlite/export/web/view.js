"use strict";
// What is shown of a picture and of the detector's answer, on the page of the network that `card` describes.

const card = JSON.parse(document.getElementById("card").textContent);
const part = (id) => document.getElementById(id);

const shown = {
  picture: null,
  found: null, // all that the network gives, by falling score; null until it has answered
  hidden: new Set(), // labels that are not to be drawn
  threshold: 0,
};

/** What is drawn: detections above the threshold, of the classes that are not hidden. */
function visible() {
  return above().filter(({ label }) => !shown.hidden.has(label));
}

function above() {
  return (shown.found ?? []).filter(({ score }) => score > shown.threshold);
}

function render() {
  part("view").hidden = shown.picture === null;
  part("invitation").hidden = shown.picture !== null;
  part("stage").classList.toggle("empty", shown.picture === null);
  for (const id of ["answer", "keep"]) part(id).hidden = shown.found === null;
  if (shown.picture) {
    renderView();
    renderWords();
  }
  renderScores();
  renderClasses();
}

function renderView() {
  const view = part("view");
  const { width, height } = shown.picture;
  view.style.setProperty("--ratio", width / height);
  view.style.setProperty("--natural", width);
  const canvasWidth = Math.max(1, Math.round(view.clientWidth * devicePixelRatio));
  const unit = Math.max(1.5, Math.min(view.clientWidth / 320, 2)) * devicePixelRatio;
  paint(view, canvasWidth, Math.max(1, Math.round((canvasWidth * height) / width)), unit);
}

/** The picture and what is visible on it, on a canvas of width x height with lines of `unit` pixels. */
function paint(canvas, width, height, unit) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.clearRect(0, 0, width, height);
  context.drawImage(shown.picture.source, 0, 0, width, height);
  drawDetections(context, visible(), card.names, width / shown.picture.width, unit);
}

/** A stroke for each score, above its place on the slider. */
function renderScores() {
  const canvas = part("scores");
  const slider = part("threshold");
  const width = Math.round(canvas.clientWidth * devicePixelRatio);
  const height = Math.round(canvas.clientHeight * devicePixelRatio);
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const thumb = 10 * devicePixelRatio; // its centre stays half of its width away from the ends
  const [lowest, highest] = [Number(slider.min), Number(slider.max)];
  for (const { label, score } of shown.found ?? []) {
    if (score < lowest) continue;
    const place = (Math.min(score, highest) - lowest) / (highest - lowest);
    context.fillStyle = css(classColor(label), score > shown.threshold ? 0.9 : 0.25);
    context.fillRect(thumb + place * (width - 2 * thumb) - devicePixelRatio, 0, 2 * devicePixelRatio, height);
  }
}

const classButtons = new Map(); // label -> its line in the list

function renderClasses() {
  const counts = new Map();
  for (const { label } of above()) counts.set(label, (counts.get(label) ?? 0) + 1);
  const order = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a) || a - b);
  for (const label of order) {
    if (!classButtons.has(label)) classButtons.set(label, makeClassLine(label));
    const button = classButtons.get(label).firstChild;
    button.lastChild.textContent = counts.get(label);
    button.ariaPressed = String(!shown.hidden.has(label));
  }
  const lines = order.map((label) => classButtons.get(label));
  const list = part("classes");
  if (lines.length !== list.children.length || lines.some((line, i) => line !== list.children[i])) {
    list.replaceChildren(...lines); // only then: it takes the focus away
  }
}

function makeClassLine(label) {
  const button = make("button", make("i"), make("bdi", card.names[label]), make("b"));
  button.type = "button";
  button.title = "Show or hide its boxes";
  button.style.setProperty("--color", css(classColor(label)));
  button.addEventListener("click", () => {
    if (!shown.hidden.delete(label)) shown.hidden.add(label);
    render();
  });
  return make("li", button);
}

function renderWords() {
  const count = visible().length;
  part("count").textContent = shown.found === null ? "One moment" : `${count} ${count === 1 ? "object" : "objects"}`;
  part("hint").textContent = above().length ? "" : explainNothing(shown.found?.[0]);
}

/** Why nothing is above the threshold, of which `best` is the detection that comes nearest. */
function explainNothing(best) {
  if (!best) return "The detector sees nothing here.";
  const guess = `${isolated(card.names[best.label])} at ${toPercent(best.score)}`;
  return `Nothing above ${toPercent(shown.threshold)}. The best guess is ${guess}.`;
}

function toPercent(score) {
  return `${score < 0.095 ? (100 * score).toFixed(1) : Math.round(100 * score)}%`;
}

function showTiming(inference, whole, isCamera = false) {
  const rate = isCamera ? `, ${(1000 / whole).toFixed(whole < 100 ? 0 : 1)} pictures a second` : "";
  part("timing").textContent = `${Math.round(inference)} ms in the network, ${Math.round(whole)} ms in all${rate}`;
}

/** Show an error, or none. */
function say(sentence = "") {
  part("message").textContent = sentence;
  part("message").hidden = !sentence;
}

// ---- what does not change

/** An element with children: texts, which are never read as HTML, and elements. */
function make(tag, ...children) {
  const element = document.createElement(tag);
  element.append(...children);
  return element;
}

function describe() {
  const names = card.names.length > 5 ? card.names.slice(0, 4) : card.names;
  const more = card.names.length - names.length;
  const finds = more ? [...listed(names), ` and ${more} more`] : listed(names, " and ");
  part("summary").append("Finds ", ...finds, ". Pictures stay on this device.");
  const figures = Object.entries(card.metrics).map(
    ([name, value]) => `${name.replaceAll("_", "\u00a0")}\u00a0${value.toFixed(3)}`,
  );
  const rows = {
    Finds: listed(card.names),
    Figures: [figures.join(", ") || "none in the file"],
    Input: [`${card.size[1]} × ${card.size[0]} pixels`],
    Network: [card.network],
    Runs: [`in WebAssembly on one thread, by ONNX Runtime Web ${card.runtime}`],
    Written: [`by ssdlite ${card.version}`],
  };
  for (const [term, values] of Object.entries(rows)) {
    part("about").append(make("dt", term), make("dd", ...values));
  }
}

/** Class names for `append`, each by itself: some are written from right to left. */
function listed(names, beforeLast = ", ") {
  const between = (i) => (i === 0 ? [] : [i === names.length - 1 ? beforeLast : ", "]);
  return names.flatMap((name, i) => [...between(i), make("bdi", name)]);
}
