// What the page does: it unpacks runtime and model, reads images, and shows classes. image.js stands before it.

const WORDS = {
  en: {
    title: 'Classify images', loading: 'loading the model', drop: 'Drop or paste an image here, or choose one',
    camera: 'Use the camera', stop: 'Stop the camera', none: 'no class reaches its threshold', class: 'class',
    score: 'score', ready: 'ready', time: (ms) => `computed in ${ms} ms`, size: (w, h) => `${w} × ${h} px`,
    private: 'Everything is computed on this device. No image leaves it.',
    unreadable: (name) => `${name} cannot be read as an image: choose a JPEG, PNG or WebP file`,
    several: 'one image at a time: the first is shown', noCamera: (why) => `the camera cannot be used: ${why}`,
    failed: (why) => `the model cannot be started: ${why}`,
  },
  zh: {
    title: '图像分类', loading: '正在加载模型', drop: '将图片拖放或粘贴到此处，或点击选择',
    camera: '使用摄像头', stop: '关闭摄像头', none: '没有类别达到阈值', class: '类别',
    score: '得分', ready: '就绪', time: (ms) => `计算耗时 ${ms} 毫秒`, size: (w, h) => `${w} × ${h} 像素`,
    private: '所有计算都在本机完成，图片不会离开您的设备。',
    unreadable: (name) => `${name} 无法作为图片读取：请选择 JPEG、PNG 或 WebP 文件`,
    several: '一次只处理一张图片：显示的是第一张', noCamera: (why) => `无法使用摄像头：${why}`,
    failed: (why) => `模型无法启动：${why}`,
  },
};
const language = navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en';
const words = WORDS[language];
const MOST = 5; // classes that are shown
const PAUSE = 250; // ms between two images of the camera

const byId = (id) => document.getElementById(id);
const meta = JSON.parse(byId('meta').textContent);
const say = (text) => { byId('state').textContent = text; };

document.documentElement.lang = language === 'zh' ? 'zh-CN' : 'en';
document.title = `${meta.architecture} · ${words.title}`;
for (const element of document.querySelectorAll('[data-word]')) element.textContent = words[element.dataset.word];

/** The bytes of a part of the page, which is kept as the base64 of its gzip. */
async function unpack(id) {
  const packed = await (await fetch(`data:application/octet-stream;base64,${byId(id).textContent.trim()}`)).blob();
  byId(id).remove();
  return new Uint8Array(await new Response(packed.stream().pipeThrough(new DecompressionStream('gzip'))).arrayBuffer());
}

async function loadModel() {
  const {runtime, glue} = window.sources; // addresses, made before the first module was loaded: see page.html
  const litert = await import(runtime);
  self.Module = {wasmBinary: await unpack('wasm'), printErr: console.debug}; // it reports what it does as errors
  await litert.loadLiteRt(glue);
  return {litert, model: await litert.loadAndCompile(await unpack('model'), {accelerator: 'wasm'})};
}

/** The pixels of an image file: RGBA, not multiplied by alpha, turned as the rule says. */
async function read(file) {
  // a canvas multiplies colours by alpha, which cannot be undone: what may have alpha goes through the decoder
  if (window.ImageDecoder && file.type !== 'image/jpeg' && (await ImageDecoder.isTypeSupported(file.type))) {
    const options = {type: file.type, premultiplyAlpha: 'none', colorSpaceConversion: 'none'};
    const decoder = new ImageDecoder({...options, data: await file.arrayBuffer()});
    const {image} = await decoder.decode();
    const {width, height} = image.visibleRect;
    const isBlueFirst = image.format && image.format.startsWith('BGR');
    if (isBlueFirst || (image.format && image.format.startsWith('RGB'))) {
      const data = new Uint8ClampedArray(image.allocationSize());
      await image.copyTo(data);
      image.close();
      for (let at = 0; isBlueFirst && at < data.length; at += 4) [data[at], data[at + 2]] = [data[at + 2], data[at]];
      return {width, height, data};
    }
    image.close();
  }
  const imageOrientation = meta.rule.decode === 'pil' ? 'none' : 'from-image';
  const options = {colorSpaceConversion: 'none', premultiplyAlpha: 'none', imageOrientation};
  return pixelsOf(await createImageBitmap(file, options));
}

/** The pixels of what a canvas can draw. */
function pixelsOf(source, width = source.width, height = source.height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d', {willReadFrequently: true});
  context.drawImage(source, 0, 0);
  return context.getImageData(0, 0, width, height);
}

const loaded = loadModel();

/** @returns {Promise<{scores: number[], input: Float32Array, ms: number}>} */
async function classify(image) {
  const {litert, model} = await loaded;
  const cropped = resizeAndCrop(image, meta.rule);
  const input = normalize(cropped, meta.rule);
  const start = performance.now();
  const tensor = new litert.Tensor(input.slice(), [1, cropped.height, cropped.width, 3]);
  const outputs = await model.run(tensor);
  const values = Array.from(await outputs[0].data());
  for (const used of [tensor, ...outputs]) used.delete();
  const ms = performance.now() - start;
  return {scores: meta.logits ? scoresOf(values, meta.several) : values, input, ms};
}

function show({scores, ms}, width, height) {
  const rows = chosen(scores, meta, MOST).map(({index, score}) => {
    const row = document.createElement('tr');
    const name = document.createElement('th');
    name.scope = 'row';
    name.textContent = meta.names ? meta.names[index] || String(index) : String(index);
    const bar = document.createElement('meter');
    bar.value = score;
    const percentage = `${(100 * score).toFixed(1)} %`;
    bar.setAttribute('aria-label', percentage);
    row.append(name);
    row.insertCell().append(bar);
    row.insertCell().textContent = percentage;
    return row;
  });
  byId('classes').replaceChildren(...rows);
  byId('answer').hidden = !rows.length;
  say([rows.length ? '' : words.none, words.size(width, height), words.time(Math.round(ms))].filter(Boolean).join(' · '));
}

let address = '';
let newest = 0; // an older image's answer must not stand beside a newer image

async function open(file) {
  stopCamera();
  const turn = ++newest;
  try {
    const image = await read(file).catch(() => { throw new Error(words.unreadable(file.name)); });
    const answer = await classify(image);
    if (turn !== newest) return;
    URL.revokeObjectURL(address);
    address = URL.createObjectURL(file);
    byId('image').src = address;
    byId('image').alt = file.name;
    byId('image').hidden = false;
    show(answer, image.width, image.height);
  } catch (error) {
    if (turn === newest) refuse(error.message);
  }
}

function refuse(why) {
  byId('answer').hidden = byId('image').hidden = true;
  say(why);
}

function openFirst(files) {
  if (files.length) open(files[0]);
  if (files.length > 1) byId('hint').textContent = words.several;
}

let stream = null;

async function useCamera() {
  if (stream) return stopCamera();
  const video = byId('video');
  const turn = ++newest;
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment'}});
    video.srcObject = stream;
    await video.play();
  } catch (error) {
    stopCamera();
    return refuse(words.noCamera(error.message));
  }
  byId('image').hidden = true;
  video.hidden = false;
  byId('camera').textContent = words.stop;
  while (stream && turn === newest) {
    const answer = await classify(pixelsOf(video, video.videoWidth, video.videoHeight));
    if (stream && turn === newest) show(answer, video.videoWidth, video.videoHeight);
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
}

function stopCamera() {
  if (stream) for (const track of stream.getTracks()) track.stop();
  stream = null;
  byId('video').hidden = true;
  byId('camera').textContent = words.camera;
}

byId('file').addEventListener('change', (event) => openFirst(event.target.files));
byId('camera').addEventListener('click', useCamera);
byId('camera').hidden = !navigator.mediaDevices;
document.addEventListener('dragover', (event) => event.preventDefault());
document.addEventListener('drop', (event) => { event.preventDefault(); openFirst(event.dataTransfer.files); });
document.addEventListener('paste', (event) => openFirst(event.clipboardData.files));
say(words.loading);
loaded.then(() => { if (!newest) say(words.ready); }, (error) => refuse(words.failed(error.message)));
/** For tests and for pages that embed this one. */
window.classifier = {ready: loaded.then(() => true), read, classify, meta};
