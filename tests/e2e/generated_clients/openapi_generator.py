"""Makes a video with the Python client of openapi-generator: `python openapi_generator.py SERVER KEY`."""

import json
import sys
import time

from generated import (
    ApiClient,
    Configuration,
    EnqueueRequest,
    ErrorBody,
    FilesApi,
    GenerateRequest,
    ModelsApi,
    QueueApi,
    VideosApi,
)
from generated.exceptions import NotFoundException

SMALL = {"prompt": "An ox by a lake", "width": 64, "height": 64, "num_frames": 5, "num_inference_steps": 2}
MODEL = "wan-ai-wan2-1-t2v-14b-diffusers"

with ApiClient(Configuration(host=sys.argv[1], access_token=sys.argv[2])) as client:
    queue = QueueApi(client)
    created = queue.enqueue_generations(EnqueueRequest(model=MODEL, num_generations=1, **SMALL))
    while True:
        row = queue.get_queued_generation(created.generations[0].generation_id)
        if row.status not in ("queued", "processing"):
            break
        time.sleep(0.1)
    file = FilesApi(client).download_video(str(row.result_url).rpartition("/")[2])

    generated = VideosApi(client).generate_video(GenerateRequest(model=MODEL, **SMALL))
    try:
        ModelsApi(client).get_model("unknown")
    except NotFoundException as error:
        refused = error.data
    assert isinstance(refused, ErrorBody), refused

print(
    json.dumps(
        {
            "generation": row.generation_id,
            "status": row.status,
            "bytes": len(file),
            "url": generated.videos[0].url,
            "error": refused.error.message,
        }
    )
)
