/** Makes a video with the types of openapi-typescript and openapi-fetch: `node main.js SERVER KEY`. */

import createClient from "openapi-fetch";

import type { paths } from "./generated";

declare const process: { argv: string[] };

const SMALL = { prompt: "An ox by a lake", width: 64, height: 64, num_frames: 5, num_inference_steps: 2 };
const MODEL = "wan-ai-wan2-1-t2v-14b-diffusers";

async function main(): Promise<void> {
  const [, , baseUrl, key] = process.argv;
  const client = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${key}` } });
  const created = await client.POST("/api/ai/queue", { body: { model: MODEL, ...SMALL, num_generations: 1 } });
  if (created.error) throw new Error(created.error.error.message);
  const generation_id = created.data.generations[0].generation_id;
  const params = { path: { generation_id } };
  let row = (await client.GET("/api/ai/queue/{generation_id}", { params })).data;
  while (row?.status === "queued" || row?.status === "processing") {
    await new Promise((resolve) => setTimeout(resolve, 100));
    row = (await client.GET("/api/ai/queue/{generation_id}", { params })).data;
  }
  const token = row?.result_url?.split("/").pop() ?? "";
  const file = await client.GET("/api/files/{token}", { params: { path: { token } }, parseAs: "arrayBuffer" });

  const generated = await client.POST("/api/ai/videos/generate", { body: { model: MODEL, ...SMALL } });
  const refused = await client.GET("/api/ai/models/{id}", { params: { path: { id: "unknown" } } });
  console.log(
    JSON.stringify({
      generation: generation_id,
      status: row?.status,
      bytes: file.data?.byteLength,
      url: generated.data?.videos[0].url,
      error: refused.error?.error.message,
    }),
  );
}

void main();
