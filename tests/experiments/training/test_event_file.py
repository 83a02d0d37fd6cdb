"""Event files: checksums by the standard's examples, messages read back by Protocol Buffers, the file by TensorBoard."""

import struct
from itertools import pairwise

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from experiments.training.event_file import EventFile, crc32c, masked_crc, record

FIELD = descriptor_pb2.FieldDescriptorProto
SCHEMA = {
    "Event": [("wall_time", 1, FIELD.TYPE_DOUBLE, None), ("step", 2, FIELD.TYPE_INT64, None),
              ("file_version", 3, FIELD.TYPE_STRING, None), ("summary", 5, FIELD.TYPE_MESSAGE, "Summary"),
              ("session_log", 7, FIELD.TYPE_MESSAGE, "SessionLog")],
    "Summary": [("value", 1, FIELD.TYPE_MESSAGE, "Value")],
    "Value": [("tag", 1, FIELD.TYPE_STRING, None), ("simple_value", 2, FIELD.TYPE_FLOAT, None)],
    "SessionLog": [("status", 1, FIELD.TYPE_INT32, None)],
}  # fmt: skip
"""The fields used, with the numbers of TensorFlow's event.proto and summary.proto."""


def event_message():
    file = descriptor_pb2.FileDescriptorProto(name="events.proto", package="events", syntax="proto3")
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, number, kind, of in fields:
            repeated = field == "value"
            label = FIELD.LABEL_REPEATED if repeated else FIELD.LABEL_OPTIONAL
            message.field.add(name=field, number=number, type=kind, label=label, type_name=of and f".events.{of}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("events.Event"))


def events_of(path):
    content, begin, found, kind = path.read_bytes(), 0, [], event_message()
    while begin < len(content):
        (length,) = struct.unpack_from("<Q", content, begin)
        data = content[begin + 12 : begin + 12 + length]
        assert struct.unpack_from("<I", content, begin + 8)[0] == masked_crc(content[begin : begin + 8])
        assert struct.unpack_from("<I", content, begin + 12 + length)[0] == masked_crc(data)
        found.append(kind.FromString(data))
        begin += 16 + length
    return found


def test_checksums_are_those_of_rfc_3720():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes([0xFF] * 32)) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert record(b"") == bytes(8) + struct.pack("<I", masked_crc(bytes(8))) + struct.pack("<I", 0xA282EAD8)


def test_scalars_come_back(tmp_path):
    with EventFile(tmp_path / "events", first_step=301) as events:
        events.scalars(305, {"train/loss": 0.5, "train/rows_per_second": 1e6})
        events.scalars(70_000, {"évaluation/nats": -2.25})
    (path,) = (tmp_path / "events").iterdir()
    assert "tfevents" in path.name
    version, start, first, second = events_of(path)
    assert version.file_version == "brain.Event:2"
    assert (start.session_log.status, start.step) == (1, 301)
    assert (first.step, [(value.tag, value.simple_value) for value in first.summary.value]) == (
        305,
        [("train/loss", 0.5), ("train/rows_per_second", 1e6)],
    )
    assert (second.step, second.summary.value[0].tag, second.summary.value[0].simple_value) == (
        70_000,
        "évaluation/nats",
        -2.25,
    )
    times = [event.wall_time for event in (version, start, first, second)]
    assert all(0 <= later - earlier < 60 for earlier, later in pairwise(times))


@pytest.mark.slow
@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_them(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with EventFile(tmp_path) as events:
        for step in range(1, 6):
            events.scalars(step, {"train/loss": 1 / step})
    with EventFile(tmp_path, first_step=4) as events:  # a run that went on from the third update
        events.scalars(4, {"train/loss": 7.0})
    found = accumulator.EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")
    assert [(entry.step, round(entry.value, 6)) for entry in found] == [(1, 1), (2, 0.5), (3, 0.333333), (4, 7)]
