"""The protocol: every message can be sent and read again, and anything else is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.core.model import ModelSpec
from pipelines.core.progress import GenerationStats, Stage
from pipelines.core.request import RequestLora, VideoParams
from server.engine import protocol as m

ABOUT = {"generation_id": "g", "attempt": 1}
PARAMS = VideoParams("牛\n\u2028", " ", 64, 64, 5, 2, 5.0, 2**53 - 1, loras=(RequestLora("黑", -0.1), RequestLora("b")))
ORDERS = [
    m.Load(model_id="wan", spec=ModelSpec("a/b", 16)),
    m.Run(**ABOUT, params=PARAMS, artifact="g.1.mp4", checkpoint="g.2.ckpt", resume_from="g.1.ckpt", preview="g.jpg"),
    m.Prepare(prompts=("an ox", " ")),
    m.Cancel(**ABOUT),
    m.Suspend(**ABOUT),
    m.Unload(),
]
REPORTS = [
    m.Hello(),
    m.Heartbeat(),
    m.Heartbeat(memory=m.DeviceMemory(free=1, total=2)),
    m.Heartbeat(compile_error="no compiler"),
    m.Loading(model_id="wan", component="vae", fraction=0.5),
    m.Ready(model_id="wan", fingerprint={"a": "b"}),
    m.LoadFailed(model_id="wan", message="no"),
    m.LoadFailed(model_id="wan", message="not now", temporary=True),
    m.LoadFailed(model_id="wan", message="not here", temporary=True, is_missing=True, has_kept=True),
    m.Unloaded(),
    m.Progressed(**ABOUT, stage=Stage.DENOISE, step=1, steps=2, fraction=0.5, seconds=1.5),
    m.Checkpointed(**ABOUT, fraction=0.5),
    m.Previewed(**ABOUT, step=1),
    m.Rendered(**ABOUT),
    m.Done(**ABOUT, artifact="g.1.mp4", fingerprint={"plan": "leaner"}, stats=GenerationStats(1, 1, 20, 10)),
    m.Failed(**ABOUT, message="no"),
    m.Failed(**ABOUT, message="not now", temporary=True),
    m.DeviceFailed(message="no"),
    m.WorkerEnded(message="it ended"),
    m.HostLost(message="It is gone."),
    m.Cancelled(**ABOUT),
    m.Suspended(**ABOUT),
]


@pytest.mark.parametrize("message", [*ORDERS, *REPORTS], ids=lambda message: message.kind)
def test_each_message_is_one_line_and_comes_back_equal(message: m.Order | m.Report) -> None:
    line = message.line()

    assert line.count(b"\n") == 1
    adapter = m.ORDER if message in ORDERS else m.REPORT
    assert adapter.validate_json(line) == message


@given(junk=st.text() | st.binary())
def test_junk_is_refused(junk: str | bytes) -> None:
    for adapter in (m.ORDER, m.REPORT):
        with pytest.raises(ValidationError):
            adapter.validate_json(junk)
