"use strict";
// Where pictures come from. A picture is {name, source, data, width, height}: `source` can be drawn on a canvas,
// `data` are its RGBA bytes; both are upright.

/** A file -> a picture. Throws Error with a sentence for a person. */
async function readPicture(file) {
  const name = file.name || "picture";
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {
      // What ssdlite does: turned as the camera noted, colours as they are stored.
      imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none",
    });
  } catch {
    throw new Error(`${isolated(name)} is no picture that this browser can open.`);
  }
  try {
    const { data, width, height } = pixelsOf(document.createElement("canvas"), bitmap, bitmap.width, bitmap.height);
    return { name, source: bitmap, data, width, height };
  } catch {
    throw new Error(`${isolated(name)} is too large for this browser: ${bitmap.width} × ${bitmap.height} pixels.`);
  }
}

function pixelsOf(canvas, source, width, height) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(source, 0, 0);
  return context.getImageData(0, 0, width, height);
}

/** Whether pixels come back from a canvas other than they were drawn: some browsers hide them from trackers. */
function altersPixels() {
  const canvas = Object.assign(document.createElement("canvas"), { width: 16, height: 16 });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "rgb(40 120 200)";
  context.fillRect(0, 0, 16, 16);
  const expected = [40, 120, 200, 255];
  return context.getImageData(0, 0, 16, 16).data.some((value, i) => value !== expected[i % 4]);
}

/** The device's camera, seen through `video`. */
class Camera {
  #video;
  #stream = null;
  #canvas = document.createElement("canvas");

  constructor(video) {
    this.#video = video;
  }

  get isOn() {
    return this.#stream !== null;
  }

  /** Throws Error with a sentence for a person. `ended` is called if the camera is taken away. */
  async start(ended) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("This browser gives no camera to a page opened from a disk; open it from a server with https.");
    }
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: "environment", width: { ideal: 960 }, height: { ideal: 540 } },
      });
      this.#video.srcObject = this.#stream;
      await this.#video.play();
    } catch (error) {
      this.stop();
      throw new Error(CAMERA_ERRORS[error.name] ?? `The camera could not be started: ${error.message}`);
    }
    this.#stream.getVideoTracks()[0].addEventListener("ended", ended);
  }

  stop() {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
    this.#video.srcObject = null;
  }

  /** What it sees now, as a picture that is good until the next one is taken. */
  look() {
    const { videoWidth, videoHeight } = this.#video;
    const { data, width, height } = pixelsOf(this.#canvas, this.#video, videoWidth, videoHeight);
    return { name: "camera.jpg", source: this.#canvas, data, width, height };
  }
}

const CAMERA_ERRORS = {
  NotAllowedError: "The camera was not allowed; permit it in the browser's settings for this page and try again.",
  NotFoundError: "There is no camera on this device.",
  NotReadableError: "The camera is in use by another program, or switched off.",
};
