"use strict";
// Boxes and names on pictures, in the colours of ssdlite/drawing.py.

/** A colour for the label 0, 1, ...: the same as in the pictures of `ssdlite predict`. */
function classColor(label) {
  const hue = (0.58 + 0.618034 * label) % 1; // the golden ratio never comes near an earlier hue soon
  const [saturation, value] = [[0.8, 0.95], [0.6, 1], [0.95, 0.72]][Math.floor(label / 7) % 3];
  const channel = (n) => {
    const k = (n + hue * 6) % 6;
    return Math.round(255 * value * (1 - saturation * Math.max(0, Math.min(k, 4 - k, 1))));
  };
  return [channel(5), channel(3), channel(1)];
}

function css(color, alpha = 1) {
  return `rgb(${color.join(" ")} / ${alpha})`;
}

/**
 * Draw `detections`, by falling score, of a picture that fills the canvas; the best is on top.
 *
 * scale: pixels of the canvas in one of the picture. unit: width of a box's line, pixels of the canvas.
 */
function drawDetections(context, detections, names, scale, unit) {
  context.lineJoin = "round";
  context.font = `600 ${6.5 * unit}px Inter, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif`;
  context.textBaseline = "middle";
  for (const { label, box } of [...detections].reverse()) {
    const [x1, y1, x2, y2] = box.map((side) => side * scale);
    for (const [style, width] of [["rgb(0 0 0 / .35)", 2 * unit], [css(classColor(label)), unit]]) {
      context.strokeStyle = style;
      context.lineWidth = width;
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    }
  }
  const boxes = detections.map(({ box }) => box.map((side) => side * scale));
  const tags = [];
  detections.forEach(({ label, score }, i) => {
    const percent = `${Math.round(100 * score)}%`;
    const name = fitted(context, `${isolated(names[label])} ${percent}`, context.canvas.width / 2);
    const tag = placeTag(context, [name, percent], i, boxes, tags, unit);
    if (tag) {
      tags.push(tag.area);
      drawTag(context, tag, classColor(label), unit);
    }
  });
}

/**
 * The first of `texts` that has a place at box `i` where it hides no other name and not much of any box.
 *
 * In a crowd there may be none: then the box has its colour only, and objects can still be seen.
 */
function placeTag(context, texts, i, boxes, tags, unit) {
  const { width: canvasWidth, height: canvasHeight } = context.canvas;
  const [x1, y1, x2, y2] = boxes[i];
  const height = 10 * unit;
  const edge = unit / 2;
  for (const text of texts) {
    const width = context.measureText(text).width + 5 * unit;
    const corners = [
      [x1 - edge, y1 - height], [x1 - edge, y1], [x2 - width + edge, y1 - height],
      [x1 - edge, y2], [x2 - width + edge, y2 - height],
    ];
    for (const [left, top] of corners) {
      const x = Math.max(0, Math.min(left, canvasWidth - width));
      const y = Math.max(0, Math.min(top, canvasHeight - height));
      const area = [x, y, x + width, y + height];
      const isFree = tags.every((other) => hiddenShare(other, area) === 0)
        && boxes.every((other) => hiddenShare(other, area) < 0.2);
      if (isFree) return { text, area };
    }
  }
  return null;
}

/** Which part of `box` lies under `cover`. */
function hiddenShare([x1, y1, x2, y2], cover) {
  const width = Math.min(x2, cover[2]) - Math.max(x1, cover[0]);
  const height = Math.min(y2, cover[3]) - Math.max(y1, cover[1]);
  return width > 0 && height > 0 ? (width * height) / ((x2 - x1) * (y2 - y1)) : 0;
}

function drawTag(context, { text, area: [x, y, right, bottom] }, color, unit) {
  context.fillStyle = css(color);
  context.beginPath();
  context.roundRect(x, y, right - x, bottom - y, 1.5 * unit);
  context.fill();
  const luma = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2];
  context.fillStyle = luma < 140 ? "#fff" : "#000";
  context.fillText(text, x + 2.5 * unit, (y + bottom) / 2 + unit / 4);
}

/** `text` without its middle if it is wider than `longest`. */
function fitted(context, text, longest) {
  const letters = [...text];
  let kept = letters.length;
  let shown = text;
  while (context.measureText(shown).width > longest && kept > 8) {
    kept = Math.floor(kept * 0.8);
    shown = `${letters.slice(0, kept - 5).join("")}…\u2069${letters.slice(-5).join("")}`;
  }
  return shown;
}

/** A name that cannot turn the direction of what is written around it. */
function isolated(name) {
  return `\u2068${name}\u2069`;
}
