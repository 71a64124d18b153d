// Files as operations take them: an image as its pixels, a sound as its samples, another file as
// its bytes. All of it is read here, by the browser.

const RATE = 16000;
const SIDE = 1024;

/** Base64 of bytes. */
export const base64 = (bytes) =>
  new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(new Blob([bytes]));
  });

/** Bytes of Base64. */
export const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/** A file as an array: its dtype, shape and bytes. */
export async function tensorOf(file) {
  if (file.type.startsWith("image/")) return pixels(file);
  if (file.type.startsWith("audio/")) return samples(file);
  const bytes = new Uint8Array(await file.arrayBuffer());
  return { dtype: "|u1", shape: [bytes.length], bytes };
}

async function pixels(file) {
  const image = await createImageBitmap(file);
  const scale = Math.min(1, SIDE / Math.max(image.width, image.height));
  const width = Math.max(1, Math.round(image.width * scale));
  const height = Math.max(1, Math.round(image.height * scale));
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0, width, height);
  const { data } = pen.getImageData(0, 0, width, height);
  const bytes = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    bytes[to++] = data[from];
    bytes[to++] = data[from + 1];
    bytes[to++] = data[from + 2];
  }
  return { dtype: "|u1", shape: [height, width, 3], bytes };
}

async function samples(file) {
  const room = new OfflineAudioContext(1, 1, RATE);
  const sound = await room.decodeAudioData(await file.arrayBuffer());
  const mixed = new Float32Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel++) {
    const one = sound.getChannelData(channel);
    for (let at = 0; at < mixed.length; at++) mixed[at] += one[at] / sound.numberOfChannels;
  }
  return { dtype: "<f4", shape: [mixed.length], bytes: new Uint8Array(mixed.buffer) };
}

/** A picture of an array that is one, or undefined. */
export function picture({ dtype, shape }, bytes) {
  const [height, width, colours = 1] = shape;
  const fits = ["|u1", "u1", "uint8"].includes(dtype) && [2, 3].includes(shape.length);
  if (!fits || ![1, 3, 4].includes(colours) || bytes.length !== height * width * colours) {
    return undefined;
  }
  if (!width || !height) return undefined;
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${width} × ${height}`);
  const pen = canvas.getContext("2d");
  const whole = pen.createImageData(width, height);
  for (let at = 0; at < width * height; at++) {
    for (let colour = 0; colour < 3; colour++) {
      whole.data[4 * at + colour] = bytes[at * colours + (colours > 2 ? colour : 0)];
    }
    whole.data[4 * at + 3] = colours === 4 ? bytes[at * colours + 3] : 255;
  }
  pen.putImageData(whole, 0, 0);
  return canvas;
}
