"use strict";
// Pictures to the network's input, as ssdlite/data/resize.py's `resize` does it: with OpenCV's arithmetic, to the bit.
// A canvas would resize too, but each browser in its own way; and one grey level in a tenth of the pixels is enough to
// move boxes by a percent and scores by several.

/**
 * (H, W, RGBA) -> (outHeight, outWidth, RGB), both uint8.
 *
 * Bilinear; where both sides shrink to less than half, pixels are averaged, except with "asymmetric".
 */
function resize({ data, width, height }, [outHeight, outWidth], alignment) {
  if (alignment === "asymmetric") return resizeCorners(data, width, height, outWidth, outHeight);
  if (height > 2 * outHeight && width > 2 * outWidth) return resizeArea(data, width, height, outWidth, outHeight);
  return resizeCentres(data, width, height, outWidth, outHeight);
}

/** (H, W, RGB) -> (RGB, H, W) float32, 0..255. */
function toPlanes(pixels) {
  const size = pixels.length / 3;
  const planes = new Float32Array(pixels.length);
  for (let i = 0; i < size; i++) {
    planes[i] = pixels[3 * i];
    planes[size + i] = pixels[3 * i + 1];
    planes[2 * size + i] = pixels[3 * i + 2];
  }
  return planes;
}

// ---- INTER_LINEAR: positions of pixels are those of their centres, weights are 2048ths, products are cut off

function resizeCentres(data, width, height, outWidth, outHeight) {
  const columns = centres(width, outWidth);
  const rows = centres(height, outHeight);
  for (let x = 0; x < outWidth; x++) {
    // Beyond the outermost centres OpenCV takes one column, but blends a row with itself.
    if (columns.first[x] === columns.second[x]) [columns.low[x], columns.high[x]] = [2048, 0];
  }
  const lines = new Lines(Int32Array, outWidth * 3, (line, y) => {
    for (let x = 0, i = 0; x < outWidth; x++) {
      const left = 4 * (y * width + columns.first[x]);
      const right = 4 * (y * width + columns.second[x]);
      const low = columns.low[x];
      const high = columns.high[x];
      line[i++] = low * data[left] + high * data[right];
      line[i++] = low * data[left + 1] + high * data[right + 1];
      line[i++] = low * data[left + 2] + high * data[right + 2];
    }
  });
  const output = new Uint8ClampedArray(outHeight * outWidth * 3);
  for (let y = 0, place = 0; y < outHeight; y++) {
    const upper = lines.get(rows.first[y]);
    const lower = lines.get(rows.second[y]);
    const low = rows.low[y];
    const high = rows.high[y];
    for (let i = 0; i < upper.length; i++) {
      output[place++] = (((low * (upper[i] >> 4)) >> 16) + ((high * (lower[i] >> 4)) >> 16) + 2) >> 2;
    }
  }
  return output;
}

/** The two pixels of `from` that each of `to` lies between, and their weights. */
function centres(from, to) {
  const [first, second, low, high] = Array.from({ length: 4 }, () => new Int32Array(to));
  for (let i = 0; i < to; i++) {
    const position = Math.fround(((i + 0.5) * from) / to - 0.5);
    const start = Math.floor(position);
    const part = Math.fround(position - start);
    first[i] = Math.max(0, start);
    second[i] = Math.min(start + 1, from - 1);
    low[i] = roundEven(2048 * Math.fround(1 - part));
    high[i] = roundEven(2048 * part);
  }
  return { first, second, low, high };
}

function roundEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

// ---- INTER_AREA: means of what each pixel covers, in float32; where that is whole pixels, whole sums

function resizeArea(data, width, height, outWidth, outHeight) {
  const isWhole = width % outWidth === 0 && height % outHeight === 0;
  const columns = covers(width, outWidth, isWhole);
  const rows = covers(height, outHeight, isWhole);
  const scale = isWhole ? Math.fround((outWidth * outHeight) / (width * height)) : 1;
  const lines = new Lines(Float32Array, outWidth * 3, (line, y) => {
    for (let x = 0, i = 0; x < outWidth; x++) {
      let red = 0, green = 0, blue = 0;
      for (let k = columns.starts[x]; k < columns.starts[x + 1]; k++) {
        const place = 4 * (y * width + columns.pixels[k]);
        const weight = columns.weights[k];
        red = Math.fround(red + Math.fround(weight * data[place]));
        green = Math.fround(green + Math.fround(weight * data[place + 1]));
        blue = Math.fround(blue + Math.fround(weight * data[place + 2]));
      }
      line[i++] = red;
      line[i++] = green;
      line[i++] = blue;
    }
  });
  const output = new Uint8ClampedArray(outHeight * outWidth * 3);
  const sums = new Float32Array(outWidth * 3);
  for (let y = 0; y < outHeight; y++) {
    sums.fill(0);
    for (let k = rows.starts[y]; k < rows.starts[y + 1]; k++) {
      const line = lines.get(rows.pixels[k]);
      const weight = rows.weights[k];
      for (let i = 0; i < sums.length; i++) sums[i] += Math.fround(weight * line[i]);
    }
    if (isWhole) for (let i = 0; i < sums.length; i++) sums[i] *= scale;
    output.set(sums, y * sums.length); // rounds halves to even, as OpenCV does
  }
  return output;
}

/** Of each pixel of `to`, from starts[i] to starts[i + 1], the pixels of `from` that it covers, and by which part. */
function covers(from, to, isWhole) {
  const starts = [0], pixels = [], weights = [];
  for (let i = 0; i < to; i++) {
    const start = (i * from) / to;
    const end = Math.min(start + from / to, from);
    for (let x = Math.floor(start); x < end; x++) {
      const part = Math.min(x + 1, end) - Math.max(x, start);
      if (part <= 1e-3) continue; // as OpenCV does
      pixels.push(x);
      weights.push(isWhole ? 1 : part / (end - start));
    }
    starts.push(pixels.length);
  }
  return {
    starts: Int32Array.from(starts), pixels: Int32Array.from(pixels), weights: Float32Array.from(weights),
  };
}

// ---- warpAffine: positions of pixels are those of their upper left corners, in float32

function resizeCorners(data, width, height, outWidth, outHeight) {
  const output = new Uint8ClampedArray(outHeight * outWidth * 3);
  const stepX = Math.fround(width / outWidth);
  const stepY = Math.fround(height / outHeight);
  for (let y = 0, place = 0; y < outHeight; y++) {
    const positionY = Math.fround(y * stepY);
    const top = Math.floor(positionY);
    const partY = Math.fround(positionY - top);
    const upper = top * width;
    const lower = Math.min(top + 1, height - 1) * width;
    for (let x = 0; x < outWidth; x++) {
      const positionX = Math.fround(x * stepX);
      const left = Math.floor(positionX);
      const partX = Math.fround(positionX - left);
      const right = Math.min(left + 1, width - 1);
      for (let channel = 0; channel < 3; channel++) {
        const above = blend(data[4 * (upper + left) + channel], data[4 * (upper + right) + channel], partX);
        const below = blend(data[4 * (lower + left) + channel], data[4 * (lower + right) + channel], partX);
        output[place++] = blend(above, below, partY);
      }
    }
  }
  return output;
}

function blend(first, second, part) {
  return Math.fround(first + part * Math.fround(second - first));
}

// ----

/** Rows of a picture that have their final width: the last few, as the next row of the output may need them again. */
class Lines {
  #kept = []; // [{row, line}], the latest last
  #make;

  /** `fill(line, row)` writes the `length` values of a row. */
  constructor(type, length, fill) {
    this.#make = (row) => {
      const line = this.#kept.length < 3 ? new type(length) : this.#kept.shift().line;
      fill(line, row);
      this.#kept.push({ row, line });
      return line;
    };
  }

  get(row) {
    return this.#kept.find((known) => known.row === row)?.line ?? this.#make(row);
  }
}
