// node main.js URL KEY FILE: makes, downloads, lists, remixes and deletes videos, and prints what it found as JSON.
import { createReadStream, createWriteStream } from "node:fs";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

import OpenAI from "openai";

const [baseURL, apiKey, file] = process.argv.slice(2);
const client = new OpenAI({ apiKey, baseURL, maxRetries: 0 });
const small = { num_frames: 5, num_inference_steps: 2, seed: 7, size: "64x64" };

const finished = async (video) => {
  while (["queued", "in_progress"].includes(video.status)) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    video = await client.videos.retrieve(video.id);
  }
  return video;
};

const failed = async (request) => {
  try {
    await request;
  } catch (error) {
    return { code: error.code, name: error.constructor.name, param: error.param, status: error.status };
  }
  throw new Error("the request was answered");
};

const first = await finished(await client.videos.create({ prompt: "An ox by a lake", ...small }));
const content = await client.videos.downloadContent(first.id);
await pipeline(Readable.fromWeb(content.body), createWriteStream(file));
const thumbnail = await client.videos.downloadContent(first.id, { variant: "thumbnail" });
const remix = await finished(await client.videos.remix(first.id, { prompt: "A goat on a hill" }));
const edit = await finished(
  await client.videos.edit({ prompt: "In winter", video: createReadStream(file), ...small }),
);
const ofVideo = { image_mode: "first_frame", prompt: "On it goes", seconds: "1", video: { id: first.id } };
const extension = await finished(await client.videos.extend({ ...ofVideo, num_frames: 5 }));
const listed = [];
for await (const video of client.videos.list({ limit: 2, order: "asc" })) {
  listed.push(video.id);
}
const models = [];
for await (const model of client.models.list()) {
  models.push(model.id);
}
const errors = [
  await failed(client.videos.create({ prompt: "x", seconds: "12" })),
  await failed(client.videos.create({ prompt: "x", model: "sora-2" })),
  await failed(new OpenAI({ apiKey: "wrong", baseURL, maxRetries: 0 }).videos.list()),
];
const deleted = await client.videos.delete(edit.id);
errors.push(await failed(client.videos.retrieve(edit.id)));
const type = thumbnail.headers.get("content-type");
console.log(JSON.stringify({ deleted, edit, errors, extension, first, listed, models, remix, thumbnail: type }));
