/** Makes a video with the TypeScript client of openapi-generator: `node main.js SERVER KEY`. */

import { Configuration, FilesApi, ModelsApi, QueueApi, ResponseError, VideosApi } from "./generated";

declare const process: { argv: string[] };

const SMALL = { prompt: "An ox by a lake", width: 64, height: 64, numFrames: 5, numInferenceSteps: 2 };
const MODEL = "wan-ai-wan2-1-t2v-14b-diffusers";

async function main(): Promise<void> {
  const configuration = new Configuration({ basePath: process.argv[2], accessToken: process.argv[3] });
  const queue = new QueueApi(configuration);
  const { generations } = await queue.enqueueGenerations({ enqueueRequest: { model: MODEL, ...SMALL, numGenerations: 1 } });
  let row = await queue.getQueuedGeneration({ generationId: generations[0].generationId });
  while (row.status === "queued" || row.status === "processing") {
    await new Promise((resolve) => setTimeout(resolve, 100));
    row = await queue.getQueuedGeneration({ generationId: row.generationId });
  }
  const token = row.resultUrl?.split("/").pop() ?? "";
  const file = await new FilesApi(configuration).downloadVideo({ token });

  const { videos } = await new VideosApi(configuration).generateVideo({ generateRequest: { model: MODEL, ...SMALL } });
  let error = "";
  try {
    await new ModelsApi(configuration).getModel({ id: "unknown" });
  } catch (refused) {
    if (!(refused instanceof ResponseError)) throw refused;
    error = (await refused.response.json()).error.message;
  }
  console.log(
    JSON.stringify({ generation: row.generationId, status: row.status, bytes: file.size, url: videos[0].url, error }),
  );
}

void main();
