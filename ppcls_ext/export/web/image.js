// From the pixels of an image to a network's input, as ppcls_ext/data/image_input.py computes it: bit for bit by OpenCV's
// rule, which the shipped configurations use; by Pillow's as its versions before 13.
//
// A canvas is no help: it resizes in a way of its own, and then one image in thirty gets another class.

const float32 = Math.fround;

/** Rounds halves to even, as Python does. */
export function roundToEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1;
  return below % 2 === 0 ? below : below + 1;
}

/**
 * Resizes an image and crops its centre.
 *
 * @param {{width: number, height: number, data: Uint8ClampedArray}} image RGBA, four bytes a pixel
 * @param rule the rule in the exported file's metadata
 * @returns {{width: number, height: number, data: Uint8Array}} RGB, three bytes a pixel
 */
export function resizeAndCrop(image, rule) {
  const factor = rule.resize_short / Math.min(image.width, image.height);
  const size = rule.resize || [roundToEven(image.width * factor), roundToEven(image.height * factor)];
  const crop = rule.crop || size;
  const left = Math.floor((size[0] - crop[0]) / 2);
  const top = Math.floor((size[1] - crop[1]) / 2);
  const resize = rule.backend === 'cv2' ? resizeAsOpenCV : resizeAsPillow;
  return {width: crop[0], height: crop[1], data: resize(image, size, left, top, crop, rule.interpolation)};
}

/** cv2.resize, bilinear: weights of 11 bits, and bits dropped between the two passes. */
function resizeAsOpenCV(image, size, left, top, crop) {
  const columns = neighbours(image.width, size[0], left, crop[0]);
  const rows = neighbours(image.height, size[1], top, crop[1]);
  for (const column of columns) {
    // at the border OpenCV gives one column all the weight, but mixes a row with itself
    if (column.first < 0 || column.first + 1 >= image.width) [column.towardsFirst, column.towardsSecond] = [2048, 0];
  }
  const inside = (index, length) => Math.min(Math.max(index, 0), length - 1);
  const {data, width, height} = image;
  const result = new Uint8Array(3 * crop[0] * crop[1]);
  let at = 0;
  for (const row of rows) {
    const above = 4 * width * inside(row.first, height);
    const below = 4 * width * inside(row.first + 1, height);
    for (const column of columns) {
      const before = 4 * inside(column.first, width);
      const behind = 4 * inside(column.first + 1, width);
      const {towardsFirst, towardsSecond} = column;
      for (let c = 0; c < 3; c++) {
        const upper = (data[above + before + c] * towardsFirst + data[above + behind + c] * towardsSecond) >> 4;
        const lower = (data[below + before + c] * towardsFirst + data[below + behind + c] * towardsSecond) >> 4;
        result[at++] = (((upper * row.towardsFirst) >> 16) + ((lower * row.towardsSecond) >> 16) + 2) >> 2;
      }
    }
  }
  return result;
}

/** The source pixels on both sides of each target pixel's centre, maybe outside, and their weights. */
function neighbours(source, target, start, count) {
  return Array.from({length: count}, (_, index) => {
    const position = float32((start + index + 0.5) * (1 / (target / source)) - 0.5);
    const first = Math.floor(position);
    const weight = float32(position - first);
    return {
      first,
      towardsFirst: roundToEven(float32(float32(1 - weight) * 2048)),
      towardsSecond: roundToEven(float32(weight * 2048)),
    };
  });
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
/** Pillow's filters: how far they reach, px, and their weight at a distance; only that of `box` has a side. */
const FILTERS = {
  box: [0.5, (x, signed) => (signed > -0.5 && signed <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - x)],
  hamming: [1, (x) => (x >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(x * Math.PI)))],
  bicubic: [2, (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0)],
  lanczos: [3, (x) => (x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};
const BITS = 22; // of Pillow's weights

/** Pillow's resize, which averages when it shrinks: columns, then rows. */
function resizeAsPillow(image, size, left, top, crop, interpolation) {
  const columns = weightsOfPillow(image.width, size[0], left, crop[0], interpolation);
  const rows = weightsOfPillow(image.height, size[1], top, crop[1], interpolation);
  const first = Math.min(...rows.map((row) => row.start));
  const last = Math.max(...rows.map((row) => row.start + row.weights.length));
  const between = new Uint8ClampedArray(3 * crop[0] * (last - first));
  let at = 0;
  for (let y = first; y < last; y++) {
    for (const {start, weights} of columns) {
      for (let c = 0; c < 3; c++) {
        let sum = 1 << (BITS - 1);
        for (let i = 0; i < weights.length; i++) sum += image.data[4 * (y * image.width + start + i) + c] * weights[i];
        between[at++] = sum >> BITS;
      }
    }
  }
  const result = new Uint8ClampedArray(3 * crop[0] * crop[1]);
  at = 0;
  for (const {start, weights} of rows) {
    for (let x = 0; x < 3 * crop[0]; x++) {
      let sum = 1 << (BITS - 1);
      for (let i = 0; i < weights.length; i++) sum += between[3 * crop[0] * (start - first + i) + x] * weights[i];
      result[at++] = sum >> BITS;
    }
  }
  return new Uint8Array(result.buffer);
}

/** For each target pixel the first source pixel that counts, and the weights from there on. */
function weightsOfPillow(source, target, start, count, interpolation) {
  const [reach, filter] = FILTERS[interpolation];
  const scale = source / target;
  const shrinking = Math.max(scale, 1);
  const support = reach * shrinking;
  return Array.from({length: count}, (_, index) => {
    const centre = (start + index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(source, Math.trunc(centre + support + 0.5));
    const weights = [];
    for (let x = first; x < last; x++) {
      const distance = (x - centre + 0.5) * (1 / shrinking);
      weights.push(filter(Math.abs(distance), distance));
    }
    const sum = weights.reduce((total, weight) => total + weight, 0);
    const whole = weights.map((weight) => {
      const scaled = (sum === 0 ? weight : weight * (1 / sum)) * (1 << BITS);
      return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
    return {start: first, weights: whole};
  });
}

/**
 * The network's input: float32 numbers, (1, height, width, 3).
 *
 * @param image what resizeAndCrop gives
 * @param rule as there
 */
export function normalize(image, rule) {
  const scale = float32(rule.scale);
  const mean = rule.mean.map(float32);
  const std = rule.std.map(float32);
  const result = new Float32Array(image.data.length);
  for (let at = 0; at < result.length; at += 3) {
    for (let c = 0; c < 3; c++) {
      const level = image.data[at + (rule.channel_order === 'BGR' ? 2 - c : c)];
      result[at + c] = float32(float32(level * scale) - mean[c]) / std[c];
    }
  }
  return result;
}

/** Scores of logits: of several labels an image each by itself, otherwise probabilities. */
export function scoresOf(logits, several) {
  if (several) return Array.from(logits, (logit) => 1 / (1 + Math.exp(-logit)));
  const greatest = logits.reduce((a, b) => Math.max(a, b));
  const powers = Array.from(logits, (logit) => Math.exp(logit - greatest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

/**
 * The classes to show, best first.
 *
 * @param {number[]} scores
 * @param {{several: boolean, thresholds: ?number[]}} meta of several labels an image those at their thresholds are shown
 * @param {number} most otherwise as many as this
 * @returns {{index: number, score: number}[]}
 */
export function chosen(scores, meta, most) {
  const all = Array.from(scores, (score, index) => ({index, score}));
  all.sort((a, b) => b.score - a.score || a.index - b.index);
  if (!meta.several) return all.slice(0, most);
  return all.filter(({index, score}) => score >= (meta.thresholds ? meta.thresholds[index] : 0.5));
}
