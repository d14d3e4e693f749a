/** The API reference: Swagger UI with the document of the server that the page comes from. */

import { BASE, key } from "../js/core/api.js";

// the stream of events never ends, so that no answer would be shown
const withoutStreams = {
  statePlugins: {
    spec: {
      wrapSelectors: {
        allowTryItOutFor: (original) => (state, path, method) => !path.endsWith("/events") && original(state, path, method),
      },
    },
  },
};

async function start() {
  const response = await fetch(new URL("openapi.json", BASE));
  if (!response.ok) throw new Error(`openapi.json: ${response.status}`);
  const spec = { ...(await response.json()), servers: [{ url: new URL(BASE).pathname }] };
  const ui = window.SwaggerUIBundle({
    spec,
    domNode: document.getElementById("reference"),
    deepLinking: true,
    tryItOutEnabled: true,
    displayRequestDuration: true,
    plugins: [withoutStreams],
    onComplete: () => {
      if (key.get()) ui.preauthorizeApiKey("HTTPBearer", key.get());
      document.body.dataset.ready = "yes";
    },
  });
}

start().catch((error) => {
  document.getElementById("failure").textContent = `The API reference cannot be shown. ${error.message}`;
});
