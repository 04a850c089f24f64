// Image files from drops, pastes and the file dialog, and their upload into ComfyUI's input folder.
import { request } from "../server.js";

/** The endings that core/storage/image_files.py reads. */
const IMAGE =
  /\.(a?png|jpe?g|jpe|jfif|mpo|webp|bmp|gif|tiff?|avif|hei[cf]|hif|jp2|j2k|jpf|jpx|p[pgbn]m)$/i;
const AT_ONCE = 3;
/** The words of core/pairs/layouts.py that mark a side, or a mask. */
const MARK = "(before|after|originals?|edited|inputs?|outputs?|source|target|control|src|tgt|orig|edit|mask)";
const BEGINS_MARKED = new RegExp(`^${MARK}(?![a-z])`, "i");
const ENDS_MARKED = new RegExp(`(?<![a-z])${MARK}$`, "i");

/** Whether a drag carries files. */
export function hasFiles(event) {
  return [...(event.dataTransfer?.items ?? [])].some((item) => item.kind === "file");
}

/**
 * The images of a drop, with their paths inside the folders that were dropped: [{ file, path }]. The name of
 * a folder that was dropped alone is left out, so that before/ and after/ in it are found.
 */
export async function droppedImages(event) {
  const entries = [...event.dataTransfer.items]
    .filter((item) => item.kind === "file")
    .map((item) => ({ entry: item.webkitGetAsEntry?.(), file: item.getAsFile() }));
  const alone = entries.length === 1 && entries[0].entry?.isDirectory;
  const found = [];
  for (const { entry, file } of entries) {
    if (entry?.isDirectory) await collect(entry, alone ? "" : `${entry.name}/`, found);
    else if (file) found.push({ file, path: file.name });
  }
  return found.filter(({ path }) => IMAGE.test(path));
}

async function collect(directory, above, found) {
  const reader = directory.createReader();
  for (;;) {
    const entries = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!entries.length) return;
    for (const entry of entries) {
      if (entry.isDirectory) {
        await collect(entry, `${above}${entry.name}/`, found);
      } else {
        const file = await new Promise((done, fail) => entry.file(done, fail));
        found.push({ file, path: above + entry.name });
      }
    }
  }
}

/** The images of a file dialog or of the clipboard, where screenshots are all called image.png. */
export function chosenImages(files, pasted = false) {
  const images = [...files].map((file) => ({ file, path: withEnding(file) }));
  const readable = images.filter(({ path }) => IMAGE.test(path));
  if (!pasted) return readable;
  const now = stamp();
  return readable.map(({ file, path }, index) => {
    const plain = /^image(?=\.\w+$)/i;
    return { file, path: path.replace(plain, `pasted ${now}-${index + 1}`) };
  });
}

/** The name of a file. One without a known ending gets that of its type: image/png. */
function withEnding({ name, type }) {
  const [, ending] = /^image\/(\w+)/.exec(type) ?? [];
  return IMAGE.test(name) || !ending ? name : `${name}.${ending}`;
}

/**
 * Returns images with names that are free in a folder of ComfyUI's input folder. If another image has one of
 * the names, all get new ones that are pairs as the old ones are: ComfyUI would write "0_1 (1).png".
 */
export async function freeNames(images, folder) {
  for (const image of images) if (await isTaken(image, folder)) return renamed(images);
  return images;
}

/** Whether another image has the name. ComfyUI writes the same image once. */
async function isTaken({ file, path }, folder) {
  const { name, subfolder } = placeOf(path, folder);
  const place = new URLSearchParams({ filename: name, subfolder, type: "input" });
  const response = await request(`/view?${place}`, { cache: "no-store" }).catch(() => null);
  if (!response) return false;
  const [there, own] = await Promise.all([response.arrayBuffer(), file.arrayBuffer()]);
  const bytes = new Uint8Array(there);
  return there.byteLength !== own.byteLength || new Uint8Array(own).some((byte, at) => byte !== bytes[at]);
}

function renamed(images) {
  const added = `added ${stamp()}`;
  return images.map(({ file, path }) => {
    const [, above, stem, ending] = /^(.*\/)?(.+?)(\.[^.]+)$/.exec(path);
    // A mark stays where it is: at the beginning or at the end.
    const after = BEGINS_MARKED.test(stem) && !ENDS_MARKED.test(stem);
    const name = after ? `${stem} ${added}` : `${added} ${stem}`;
    return { file, path: `${above ?? ""}${name}${ending}` };
  });
}

function stamp() {
  return new Date().toISOString().replace(/\D/g, "").slice(0, 17);
}

function placeOf(path, folder) {
  const parts = path.split("/");
  const name = parts.pop();
  return { name, subfolder: [folder, ...parts].join("/") };
}

/**
 * Uploads images into a folder of ComfyUI's input folder, and calls `progress(done, all)`. Returns the
 * failures, each { name, why }; the other images are there then.
 */
export async function upload(images, folder, { overwrite = false, progress = () => {} } = {}) {
  let done = 0;
  const failures = [];
  const waiting = [...images];
  const work = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      try {
        await send(next, folder, overwrite);
      } catch (error) {
        failures.push({ name: next.path, why: error.message });
      }
      progress(++done, images.length);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return failures;
}

async function send({ file, path }, folder, overwrite) {
  const { name, subfolder } = placeOf(path, folder);
  const body = new FormData();
  body.append("image", file, name);
  body.append("subfolder", subfolder);
  body.append("type", "input");
  if (overwrite) body.append("overwrite", "true");
  await request("/upload/image", { method: "POST", body });
}
