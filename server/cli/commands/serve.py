"""`paddock serve`."""

import gc

from server.cli.options import Config, DataDir, Demo, Device, Host, Port, load_settings, refuse


def serve(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    demo: Demo = None,
    device: Device = None,
    config: Config = None,
) -> None:
    """Serve the API until Ctrl-C."""
    # imports leave hardly any garbage, and looking for it takes a fifth of the start
    gc.disable()
    # before the imports: SQLite asks for its temporary folder only once
    settings = load_settings(config, host=host, port=port, data_dir=data_dir, demo=demo, device=device)
    from server.runtime.preflight import StartRefusedError
    from server.runtime.server import serve as run

    try:
        run(settings)
    except StartRefusedError as error:
        refuse(*error.args)
    except KeyboardInterrupt:
        # uvicorn has stopped cleanly, and raises it again
        pass
