"""Makes a video with the client of openapi-python-client: `python openapi_python_client.py SERVER KEY`."""

import json
import sys
import time

from generated import AuthenticatedClient
from generated.api.files import download_video
from generated.api.models import get_model
from generated.api.queue import enqueue_generations, get_queued_generation
from generated.api.videos import generate_video
from generated.models import EnqueueRequest, ErrorBody, GenerateRequest, QueueCreated, Row, VideosGenerated

SMALL = {"prompt": "An ox by a lake", "width": 64, "height": 64, "num_frames": 5, "num_inference_steps": 2}
MODEL = "wan-ai-wan2-1-t2v-14b-diffusers"

client = AuthenticatedClient(base_url=sys.argv[1], token=sys.argv[2], timeout=120)

created = enqueue_generations.sync(client=client, body=EnqueueRequest(model=MODEL, num_generations=1, **SMALL))
assert isinstance(created, QueueCreated), created
while True:
    row = get_queued_generation.sync(created.generations[0].generation_id, client=client)
    assert isinstance(row, Row), row
    if row.status not in ("queued", "processing"):
        break
    time.sleep(0.1)
file = download_video.sync(str(row.result_url).rpartition("/")[2], client=client)
assert not isinstance(file, ErrorBody | None), file

generated = generate_video.sync(client=client, body=GenerateRequest(model=MODEL, **SMALL))
assert isinstance(generated, VideosGenerated), generated
refused = get_model.sync("unknown", client=client)
assert isinstance(refused, ErrorBody), refused

print(
    json.dumps(
        {
            "generation": row.generation_id,
            "status": row.status,
            "bytes": len(file.payload.read()),
            "url": generated.videos[0].url,
            "error": refused.error.message,
        }
    )
)
