/**
 * The calls that make the same request from a shell or from Python, as the hosted model page writes them.
 *
 * `values` maps parameter names to values, in the order to be written; `schema` tells which are not whole numbers.
 */

export const TRANSPORTS = ["Sync", "Async", "Async with SSE"];
export const LANGUAGES = ["cURL", "Python"];

/** The parameters of a call: all of them, or those that are needed and those that differ from their defaults. */
export function chosen(values, schema, full) {
  return Object.fromEntries(
    Object.entries(values).filter(([name, value]) => {
      const { default: standard } = schema.properties[name] ?? {};
      return full || schema.required.includes(name) || value !== standard;
    }),
  );
}

/** The code, for a server at `host`. */
export function call(transport, language, host, model, values, schema) {
  const body = { model, ...values };
  const written = language === "cURL" ? json(body, schema) : literal(body, schema);
  return WRITERS[transport][language](host, written);
}

function number(name, value, schema) {
  const isReal = schema.properties[name]?.type === "number";
  return isReal && Number.isInteger(value) ? value.toFixed(1) : String(value);
}

function lines(body, schema, indent, write) {
  return Object.entries(body).map(([name, value]) => {
    const written = typeof value === "number" ? number(name, value, schema) : write(value);
    return `${indent}${JSON.stringify(name)}: ${written}`;
  });
}

/** JSON, safe within single quotes of a shell. */
function json(body, schema) {
  return `{\n${lines(body, schema, "  ", JSON.stringify).join(",\n")}\n}`.replaceAll("'", "'\\''");
}

/** A dict of Python's, as an argument: JSON's strings are Python's too. */
function literal(body, schema) {
  const write = (value) => (typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value));
  return `{\n${lines(body, schema, " ".repeat(8), write).join(",\n")}\n    }`;
}

const sync = (host, body) => `curl -X POST ${host}/api/ai/videos/generate \\
  -H "Content-Type: application/json" \\
  -H "Authorization: Bearer $OXEN_API_KEY" \\
  -d '${body}'
`;

const syncPython = (host, body) => `import os
import requests

response = requests.post(
    "${host}/api/ai/videos/generate",
    headers={
        "Content-Type": "application/json",
        "Authorization": f"Bearer {os.environ['OXEN_API_KEY']}",
    },
    json=${body},
)
response.raise_for_status()
print(response.json())
`;

const enqueue = (host, body) => `# Enqueue, capture the generation id.
GEN_ID=$(curl -s -X POST ${host}/api/ai/queue \\
  -H "Content-Type: application/json" \\
  -H "Authorization: Bearer $OXEN_API_KEY" \\
  -d '${body}' | jq -r '.generations[0].generation_id')
`;

const enqueuePython = (host, body, headers) => `enqueue = requests.post(
    "${host}/api/ai/queue",
    headers=${headers},
    json=${body},
)
enqueue.raise_for_status()
generation_id = enqueue.json()["generations"][0]["generation_id"]
`;

const poll = (host, body) => `${enqueue(host, body)}
# Poll until the generation reaches a terminal status.
while true; do
  STATUS=$(curl -s -H "Authorization: Bearer $OXEN_API_KEY" \\
    "${host}/api/ai/queue/$GEN_ID" | jq -r '.status')
  echo "Status: $STATUS"
  case $STATUS in succeeded|failed|cancelled) break;; esac
  sleep 5
done

# Print the result.
curl -s -H "Authorization: Bearer $OXEN_API_KEY" \\
  "${host}/api/ai/queue/$GEN_ID" | jq .
`;

const pollPython = (host, body) => `import os
import time
import requests

HEADERS = {
    "Content-Type": "application/json",
    "Authorization": f"Bearer {os.environ['OXEN_API_KEY']}",
}

${enqueuePython(host, body, "HEADERS")}
while True:
    data = requests.get(
        f"${host}/api/ai/queue/{generation_id}",
        headers=HEADERS,
    ).json()
    if data["status"] in {"succeeded", "failed", "cancelled"}:
        break
    time.sleep(5)

if data["status"] == "succeeded":
    print(f"Result: {data['result_url']}")
else:
    print(f"Generation {data['status']}: {data.get('error_message')}")
`;

const stream = (host, body) => `${enqueue(host, body)}
# Stream the SSE channel, grab the data line that follows a
# media_generation_completed event for our id, and pretty-print it.
curl -sN -H "Authorization: Bearer $OXEN_API_KEY" ${host}/api/events \\
  | awk -v id="$GEN_ID" '
    /^event: media_generation_completed$/ { expect=1; next }
    /^data: / && expect {
      payload = substr($0, 7)
      if (index(payload, "\\"generation_id\\":\\"" id "\\"")) { print payload; exit }
      expect = 0
    }
  ' | jq .
`;

const streamPython = (host, body) => `import json
import os
import requests

API_KEY = os.environ["OXEN_API_KEY"]
AUTH = {"Authorization": f"Bearer {API_KEY}"}

${enqueuePython(host, body, '{**AUTH, "Content-Type": "application/json"}')}
with requests.get(
    "${host}/api/events",
    headers=AUTH,
    stream=True,
) as stream:
    event_name = None
    for line in stream.iter_lines(decode_unicode=True):
        if line.startswith("event: "):
            event_name = line.removeprefix("event: ")
        elif line.startswith("data: ") and event_name == "media_generation_completed":
            payload = json.loads(line.removeprefix("data: "))
            if payload.get("generation_id") == generation_id:
                print(payload)
                break
`;

const WRITERS = {
  Sync: { cURL: sync, Python: syncPython },
  Async: { cURL: poll, Python: pollPython },
  "Async with SSE": { cURL: stream, Python: streamPython },
};
